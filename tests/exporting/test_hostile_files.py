"""A file that a stranger made, or that damage has come to, is one clear error and runs nothing."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file

import metadistiller
from metadistiller.data import Preparation
from metadistiller.engine.export import open_network
from metadistiller.engine.tensor_file import read_tensor_file
from metadistiller.errors import CheckpointError
from metadistiller.exporting import Exported


def refused(data: bytes, name: str, tmp_path: Path, match: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=match) as caught:
        metadistiller.predict(path, [__file__])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt2", "net.onnx"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"hello", lambda data: b""])
def test_damage_is_told_by_the_file_s_name(
    name: str, damage: Callable[[bytes], bytes], exports: Mapping[str, Exported], tmp_path: Path
) -> None:
    source = next(done.path for done in exports.values() if done.path.name == name)
    refused(damage(source.read_bytes()), name, tmp_path, "cannot be read")


# ONNX


def graph(exports: Mapping[str, Exported], **header: object) -> onnx.ModelProto:
    model = onnx.load(exports["onnx"].path)
    found = json.loads(model.metadata_props[0].value) | header
    onnx.helper.set_model_props(model, {"network": json.dumps(found)})
    return model


def test_a_graph_of_somebody_else_s(exports: Mapping[str, Exported], tmp_path: Path) -> None:
    model = graph(exports)
    del model.metadata_props[:]
    refused(model.SerializeToString(), "a.onnx", tmp_path, "its metadata names no network")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"classes": ["a", "b", "c"]}, "does not hold what its header says"),
        ({"size": [8, 8]}, "does not hold what its header says"),
        ({"classes": []}, "damaged header"),
        ({"std": [0.0, 1.0, 1.0]}, "damaged header"),
        ({"mean": [0.5]}, "damaged header"),
        ({"size": "large"}, "damaged header"),
        ({"preparation": {"crop": 3}}, "preparation is damaged"),
    ],
)
def test_a_header_at_odds_with_its_graph(
    header: dict[str, object], match: str, exports: Mapping[str, Exported], tmp_path: Path
) -> None:
    refused(graph(exports, **header).SerializeToString(), "a.onnx", tmp_path, match)


@pytest.mark.parametrize("text", ["[", "[" * 100_000, "3"])
def test_a_header_that_is_none(text: str, exports: Mapping[str, Exported], tmp_path: Path) -> None:
    model = graph(exports)
    onnx.helper.set_model_props(model, {"network": text})
    refused(model.SerializeToString(), "a.onnx", tmp_path, "damaged header")


@pytest.mark.parametrize("location", ["../secret", "secret"])
def test_weights_in_other_files_are_not_read(
    location: str, exports: Mapping[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graph(exports)
    weights = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    for place in (tmp_path, tmp_path / "in"):
        place.mkdir(exist_ok=True)
        (place / "secret").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    monkeypatch.chdir(tmp_path / "in")
    refused(model.SerializeToString(), "a.onnx", tmp_path / "in", "cannot be read")


# Weights


def written(path: Path, change: Mapping[str, object], key: str = "network") -> Path:
    """A file with other values in its header."""
    metadata, tensors = read_tensor_file(path)
    save_file(tensors, path, {key: json.dumps(json.loads(metadata[key]) | change)})
    return path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        # More than any machine has.
        ({"model": {"name": "resnet10", "width": 10**5}}, "does not hold the network that it names"),
        ({"model": {"name": "resnet10", "width": 10**20}}, "names a network that cannot be built"),
        ({"model": {"name": "wrn6000004_1"}}, "up to 1000"),
        ({"size": [5000, 5000]}, "images of 5000x5000 pixels"),
        ({"size": [-5, 8]}, "images of -5x8 pixels"),
        ({"preparation": {**Preparation(crop=(8, 8)).as_dict(), "crop": [200_000, 8]}}, "cannot be meant"),
        ({"preparation": {**Preparation(crop=(8, 8)).as_dict(), "fit": False, "resize": 1e999}}, "damaged"),
    ],
)
def test_a_header_takes_no_more_than_its_file_holds(
    change: Mapping[str, object], match: str, exports: Mapping[str, Exported], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(exports["safetensors"].path.read_bytes())
    written(path, change)
    refused(path.read_bytes(), path.name, tmp_path, match)


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "cache_dir"])
def test_a_header_names_no_file_to_be_opened(argument: str, exports: Mapping[str, Exported], tmp_path: Path) -> None:
    """timm would open it, and 1.0.20 would run a pickle in it."""
    pytest.importorskip("timm")
    path = tmp_path / "a.safetensors"
    path.write_bytes(exports["safetensors"].path.read_bytes())
    struck = tmp_path / "struck"
    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump(Bomb(struck), file)
    written(path, {"model": {"name": "timm/resnet10t", "arguments": {argument: str(tmp_path / "evil.pth")}}})
    refused(path.read_bytes(), path.name, tmp_path, f"leave {argument} out")
    assert not struck.exists()


# torch.export


class Bomb:
    """A pickle that leaves a file where it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.place,))


def changed(source: Path, change: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with other contents; by names without the folder that all entries have in common."""
    data = io.BytesIO()
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(data, "w", method) as after:
        names = before.namelist()
        root = names[0].partition("/")[0]
        for name in names:
            after.writestr(name, change.get(name.partition("/")[2], before.read(name)))
        for name in set(change) - {name.partition("/")[2] for name in names}:
            after.writestr(f"{root}/{name}", change[name])
    return data.getvalue()


def test_a_pickle_in_a_program_is_not_loaded(exports: Mapping[str, Exported], image: Path, tmp_path: Path) -> None:
    """torch.export.load runs it, which is why it is not used here."""
    source, struck = exports["torch"].path, tmp_path / "struck"
    bomb = io.BytesIO()
    torch.save(Bomb(struck), bomb)
    path = tmp_path / "net.pt2"
    path.write_bytes(changed(source, {"data/sample_inputs/model.pt": bomb.getvalue()}))
    with pytest.raises(Exception, match=r"."):  # it wants something else of the pickle, too late
        torch.export.load(path)
    assert struck.exists()
    struck.unlink()
    assert metadistiller.predict(path, image) == metadistiller.predict(source, image)
    assert not struck.exists()


def test_what_runs_a_file_is_called_on_our_own_only() -> None:
    """In torch_program.py on what was written just now, and nowhere else."""
    package = Path(metadistiller.__file__).parent
    calling = [path.name for path in package.rglob("*.py") if "torch.export.load(" in path.read_text(encoding="utf-8")]
    assert sorted(calling) == ["_card.py", "torch_program.py"]  # the card shows it to whoever got the file


def config_of(source: Path) -> dict[str, dict[str, dict[str, object]]]:
    with zipfile.ZipFile(source) as archive:
        name = next(each for each in archive.namelist() if each.endswith("model_weights_config.json"))
        found: dict[str, dict[str, dict[str, object]]] = json.loads(archive.read(name))
        return found


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"use_pickle": True}, "as a pickle, which could run code"),
        ({"path_name": "../../../etc/passwd"}, "it has no"),
        ({"path_name": "weight_1"}, "cannot be read"),
        ({"tensor_meta": None}, "cannot be read"),
        ({"tensor_meta": {"dtype": 99}}, "cannot be read"),
    ],
)
def test_weights_that_are_not_plain_numbers(
    entry: dict[str, object], match: str, exports: Mapping[str, Exported], tmp_path: Path
) -> None:
    source = exports["torch"].path
    config = config_of(source)
    first = next(name for name in config["config"] if name.endswith("conv1.weight"))
    meta = config["config"][first]["tensor_meta"]
    assert isinstance(meta, dict)
    given = entry.get("tensor_meta")
    config["config"][first].update({**entry, "tensor_meta": {**meta, **given}} if isinstance(given, dict) else entry)
    struck = tmp_path / "struck"
    data = changed(
        source,
        {
            "data/weights/model_weights_config.json": json.dumps(config).encode(),
            f"data/weights/{config['config'][first]['path_name']}": pickle.dumps(Bomb(struck))
            if entry == {"use_pickle": True}
            else b"\0" * 16,
        }
        if "path_name" not in entry
        else {"data/weights/model_weights_config.json": json.dumps(config).encode()},
    )
    refused(data, "a.pt2", tmp_path, match)
    assert not struck.exists()


def test_one_entry_is_not_many_tensors(exports: Mapping[str, Exported], tmp_path: Path) -> None:
    """Or a small file would unfold to any size."""
    source = exports["torch"].path
    config = config_of(source)
    entries = config["config"]
    one = next(name for name in entries if name.endswith("bn1.weight"))
    entries[one.removesuffix("weight") + "bias"]["path_name"] = entries[one]["path_name"]
    data = changed(source, {"data/weights/model_weights_config.json": json.dumps(config).encode()})
    refused(data, "a.pt2", tmp_path, "another one's, too")


def test_what_is_packed_is_not_unfolded(exports: Mapping[str, Exported], tmp_path: Path) -> None:
    """A few kilobytes of it may become more than any memory."""
    refused(changed(exports["torch"].path, {}, method=zipfile.ZIP_DEFLATED), "a.pt2", tmp_path, "is packed")


def test_a_program_of_somebody_else_s(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    data = io.BytesIO()
    torch.export.save(program, data)
    refused(data.getvalue(), "a.pt2", tmp_path, "it has no extra/network")


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ({"name": "vgg11_bn"}, "does not hold the network that it names"),
        ({"name": "vgg12"}, "names a network that cannot be built: unknown network"),
        ({"name": "resnet10", "depth": 3}, "names a network that cannot be built: unknown option"),
        ({"name": "resnet10", "width": "wide"}, "names a network that cannot be built"),
        ({"name": "resnet10", "width": -4}, "names a network that cannot be built"),
        ({"name": 3}, "names a network that cannot be built"),
        ("resnet10", "damaged header"),
    ],
)
def test_another_network_than_the_header_s(
    model: object, match: str, exports: Mapping[str, Exported], tmp_path: Path
) -> None:
    header = open_network(exports["torch"].path).header | {"model": model}
    data = changed(exports["torch"].path, {"extra/network": json.dumps(header).encode()})
    refused(data, "a.pt2", tmp_path, match)
