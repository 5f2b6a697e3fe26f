"""A processor that gets a layer wrong in bfloat16 is found out before a network is trained on wrong numbers.

No processor is asked here: what it computes is made up, right but for rounding or wrong on purpose, as the tests must
tell the same on each.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from metadistiller import recipe
from metadistiller.assemble import assemble, train
from metadistiller.building import Task, build_method, load_data, written_out
from metadistiller.config import Choice, Config
from metadistiller.engine import bfloat16, machine
from metadistiller.engine.bfloat16 import is_faulty, miscomputed
from metadistiller.errors import ConfigError
from metadistiller.methods import Method

from .test_methods import CASES, build
from .toys import SIZE

Fault = Callable[[nn.Conv2d, Tensor], Tensor]
Processor = Callable[[Fault], None]


def right(layer: nn.Conv2d, output: Tensor) -> Tensor:
    return output


def garbage(layer: nn.Conv2d, output: Tensor) -> Tensor:
    return output + 2 * output.detach().std() * torch.randn_like(output)


def only(wanted: Callable[[nn.Conv2d], bool], fault: Fault = garbage) -> Fault:
    return lambda layer, output: fault(layer, output) if wanted(layer) else output


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Processor:
    """Under autocast, convolutions of float32 rounded to bfloat16, with a fault in them."""
    whole = nn.Conv2d._conv_forward

    def make(fault: Fault) -> None:
        def forward(self: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if not torch.is_autocast_enabled("cpu"):
                return whole(self, images, weight, bias)
            with torch.autocast("cpu", enabled=False):
                return fault(self, whole(self, images.float(), weight, bias)).bfloat16()

        monkeypatch.setattr(nn.Conv2d, "_conv_forward", forward)
        monkeypatch.setattr(bfloat16, "_right", set())
        is_faulty.cache_clear()

    yield make
    is_faulty.cache_clear()


def look(method: Method, batch_size: int = 16) -> str | None:
    return miscomputed(method, SIZE, batch_size=batch_size, channels_last=False)


@pytest.mark.parametrize("name", CASES)
def test_every_layer_of_every_method_is_looked_at(name: str, processor: Processor) -> None:
    processor(right)
    method = build(name)
    assert look(method) is None
    seen = {layer for layer, _ in bfloat16._convolutions(method, torch.randn(2, 3, *SIZE))}
    unseen = {name for name, layer in method.named_modules() if isinstance(layer, nn.Conv2d) and layer not in seen}
    # FitNet's regressor runs in training alone; its stride is 1 or its kernel 3x3.
    assert unseen == ({"student.regressor.0"} if name.startswith("fitnet") else set())


@pytest.mark.parametrize("name", ["metadistiller", "kd"])
def test_a_fault_of_one_layer_is_found(name: str, processor: Processor) -> None:
    method = build(name)
    layers = {str(layer) for layer in method.modules() if isinstance(layer, nn.Conv2d)}
    for described in layers:
        processor(only(lambda layer, described=described: str(layer) == described))
        found = look(method)
        assert found is not None
        assert found.startswith(f"{described} of an input of 16 x ")
    assert len(layers) > 5


def nothing_at_the_end(layer: nn.Conv2d, output: Tensor) -> Tensor:
    """Only the last images of a whole batch are wrong, and only just enough."""
    return torch.cat([output[:-1], output[-1:] * (1 if len(output) < 16 else -1)])


def no_number(layer: nn.Conv2d, output: Tensor) -> Tensor:
    return output * float("nan")


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, output: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return torch.randn_like(gradient)


def backwards(layer: nn.Conv2d, output: Tensor) -> Tensor:
    found: Tensor = WrongGradient.apply(output)
    return found


@pytest.mark.parametrize("fault", [garbage, nothing_at_the_end, no_number, backwards])
def test_wrong_numbers_are_found_wherever_they_are(fault: Fault, processor: Processor) -> None:
    processor(fault)
    assert look(build("plain")) is not None


def test_rounding_is_no_fault(processor: Processor) -> None:
    processor(lambda layer, output: output * (1 + 0.01 * torch.randn_like(output)))
    assert look(build("metadistiller")) is None


def test_the_size_of_the_batch_is_that_of_the_steps(processor: Processor) -> None:
    """A fault may begin at some size."""
    processor(lambda layer, output: -output if len(output) >= 64 else output)
    method = build("plain")
    assert look(method, batch_size=63) is None
    found = look(method, batch_size=64)
    assert found is not None
    assert " of an input of 64 x 3 x 16 x 16, by " in found


def test_looking_changes_nothing(processor: Processor) -> None:
    processor(right)
    method = build("metadistiller").train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    drawn = torch.get_rng_state()
    look(method)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in method.modules())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert not any(module._forward_pre_hooks for module in method.modules())


def test_a_teacher_that_is_yet_to_be_trained_is_left_for_later(processor: Processor) -> None:
    processor(right)
    config = written_out(recipe("cifar100_resnet18_kd"))
    method = build_method(replace(config, model=Choice(name="resnet10", options={"width": 4})), Task(5, SIZE))
    assert look(method) is None


# A run


def of_an_exit(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == layer.stride and layer.stride[0] >= 4


def test_where_bfloat16_is_left_open_a_run_takes_float32(
    processor: Processor, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny_config, precision="auto")
    monkeypatch.setattr(machine, "fastest", lambda *args, among, **more: among[0])
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    dataset = load_data(config.data)
    processor(right)
    assert not is_faulty()
    assert assemble(config, dataset).config.precision == "bfloat16"
    # Already when the machine is chosen: all rows of a comparison compute alike.
    processor(only(of_an_exit))
    assert is_faulty()
    assert machine.resolve(config).precision == "float32"
    # And where only this network shows it.
    processor(only(lambda layer: layer.kernel_size == (3, 3)))
    assert not is_faulty()
    assert machine.resolve(config).precision == "bfloat16"
    found = assemble(config, dataset)
    assert (found.config.precision, found.machine.bfloat16) == ("float32", False)


def test_where_bfloat16_is_asked_for_a_run_does_not_begin_nor_go_on(
    processor: Processor, tiny_config: Config, tmp_path: object
) -> None:
    config = replace(tiny_config, precision="bfloat16")
    dataset = load_data(config.data)
    processor(only(of_an_exit))
    message = (
        r"precision is 'bfloat16', and this processor gets a layer wrong in it, Conv2d\(8, 8, kernel_size=\(8, 8\), "
        r"stride=\(8, 8\)\) of an input of 16 x .*; begin with --precision float32, or set ONEDNN_MAX_CPU_ISA="
    )
    for begun in (False, True):
        with pytest.raises(ConfigError, match=message):
            assemble(config, dataset, begun=begun)
    with pytest.raises(ConfigError, match=message):
        train(config, f"{tmp_path}/run", quiet=True)
    # Of a method without exits nothing is wrong.
    assert assemble(replace(config, method=Choice(name="plain")), dataset).machine.bfloat16
    # A held-out batch may be larger than the others, and a fault begin there.
    processor(lambda layer, output: -output if len(output) >= 24 else output)
    assert assemble(config, dataset).machine.bfloat16
    options = {**config.method.options, "heldout_batch_size": 24}
    with pytest.raises(ConfigError, match="of an input of 24 x 3 x"):
        assemble(replace(config, method=Choice(name="metadistiller", options=options)), dataset)
