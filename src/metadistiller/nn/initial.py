"""Weights that a network begins with: its publisher's, or a file's; and parts of it that stay as they are."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config import Choice
from ..errors import ConfigError, DataError, UnknownName
from ..lookup import FAMILIES, find, table


def published_weights(model: Choice) -> dict[str, Tensor]:
    """The state dict that the network's publisher gives, under the network's own keys.

    Raises: ConfigError where the family has none; DataError where they cannot be had.
    """
    member = find(*FAMILIES["model"], model.name)
    if member.pretrained_weights is None:
        known = [name for name, other in table(FAMILIES["model"][0]).items() if other.pretrained_weights is not None]
        raise ConfigError(
            f"nobody publishes weights of {model.name}; take timm/NAME or torchvision/NAME (such as "
            f"{known[0] if known else 'timm/resnet18'}), or give --weights FILE"
        )
    return dict(member.pretrained_weights(member.configure(model.options)))


def file_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from a safetensors file. Raises: DataError naming the file."""
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        raise DataError(
            f"{path} is a pickle, which can run code; write its state dict as safetensors first: "
            "safetensors.torch.save_file(state_dict, 'weights.safetensors')"
        )
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; give --weights the path of a safetensors file") from None
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from None


def load_initial(network: nn.Module, state: Mapping[str, Tensor], num_classes: int, *, source: str) -> list[str]:
    """Put a state dict into a network, key by key.

    The layers that answer with one number a class keep their own weights where the file's have another number.

    Returns: keys that keep their own.
    Raises: ConfigError where anything else is missing, left over or of another shape.
    """
    own = network.state_dict()
    fresh = [key for key, value in own.items() if key in state and _of_other_classes(value, state[key], num_classes)]
    wrong = [
        f"{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} here"
        for key in own
        if key in state and key not in fresh and state[key].shape != own[key].shape
    ]
    wrong += [f"{key} is missing" for key in own if key not in state]
    wrong += [f"{key} is left over" for key in state if key not in own]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(f"{source} is not of this network: {'; '.join(wrong[:3])}{more}; take the same --model")
    network.load_state_dict({key: own[key] if key in fresh else state[key] for key in own})
    return fresh


def _of_other_classes(ours: Tensor, theirs: Tensor, num_classes: int) -> bool:
    return (
        ours.ndim > 0
        and ours.ndim == theirs.ndim
        and ours.shape[0] == num_classes != theirs.shape[0]
        and ours.shape[1:] == theirs.shape[1:]
    )


def freeze(network: nn.Module, names: Iterable[str]) -> None:
    """Parameters of these modules do not move.

    Raises: UnknownName; ConfigError where nothing would be left to learn.
    """
    for module in frozen_modules(network, names):
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"freeze is {list(names)}, which is the whole network; leave a part to learn")


def frozen_modules(network: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Raises: UnknownName with the near miss."""
    parts = {name: module for name, module in network.named_modules() if name}
    for name in names:
        if name not in parts:
            raise UnknownName("module to freeze", name, parts)
    return [parts[name] for name in names]


def body_parameters(network: nn.Module, num_classes: int) -> list[nn.Parameter]:
    """All but those of the head: the last module that owns a parameter with a row for each class."""
    heads = [
        module
        for module in network.modules()
        if any(p.ndim > 0 and p.shape[0] == num_classes for p in module.parameters(recurse=False))
    ]
    head = {id(parameter) for parameter in (heads[-1].parameters() if heads else ())}
    return [parameter for parameter in network.parameters() if id(parameter) not in head]
