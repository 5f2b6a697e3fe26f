"""ImageNet's form on disk: what is found and refused, and a run out of files is a run like any other."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from metadistiller import assemble, building, exporting, recipe
from metadistiller.config import Choice, Config
from metadistiller.data import cifar, folder
from metadistiller.data.imagenet import Options, build, recognises
from metadistiller.errors import ConfigError, DataError
from metadistiller.settings import parse
from small_runs import Interrupted, interrupt_after

CLASSES = ("n01440764", "n02102040", "n03000684")


def jpeg(seed: int, size: tuple[int, int]) -> bytes:
    draw = torch.Generator().manual_seed(seed)
    noise = Image.fromarray(torch.randint(0, 256, (5, 5, 3), dtype=torch.uint8, generator=draw).numpy())
    stream = io.BytesIO()
    noise.resize(size).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes with 7 training and 2 test images each, upright and lying."""
    for label, name in enumerate(CLASSES):
        for part, count in (("train", 7), ("val", 2)):
            place = tmp_path / "imagenet" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                size = (50, 40) if number % 2 else (38, 60)
                (place / f"{name}_{number}.JPEG").write_bytes(jpeg(100 * label + number, size))
    return tmp_path / "imagenet"


def options(root: Path, **given: object) -> Options:
    return Options(**{"root": str(root), "size": 32, "resize": 36, **given})  # type: ignore[arg-type]


# What is found


def test_classes_parts_and_constants(root: Path) -> None:
    data = build(options(root))
    assert data.classes == CLASSES
    assert torch.bincount(data.train.labels).tolist() == [7, 7, 7]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.size == (32, 32)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (data.augment.pad, data.augment.flip, data.augment.min_area) == (0, True, 0.08)
    assert "21 + 6 images" in data.source
    assert [build(options(root, workers=workers)).train.workers for workers in (3, None)] == [3, None]  # type: ignore[attr-defined]


def test_labels_are_those_of_the_folders_that_the_files_lie_in(root: Path) -> None:
    data = build(options(root))
    for part, images in (("train", data.train), ("val", data.test)):
        for number, label in enumerate(images.labels.tolist()):
            path = Path(images.paths[number])  # type: ignore[attr-defined]
            assert path.parent == root / part / CLASSES[label]


@pytest.mark.parametrize("held_out", ["valid", "validation", "test"])
def test_other_names_of_the_held_out_part(root: Path, held_out: str) -> None:
    (root / "val").rename(root / held_out)
    assert f"train/ and {held_out}/" in build(options(root)).source


def test_a_held_out_part_may_lack_classes(root: Path) -> None:
    for path in (root / "val" / CLASSES[1]).iterdir():
        path.unlink()
    (root / "val" / CLASSES[1]).rmdir()
    assert build(options(root)).test.labels.tolist() == [0, 0, 2, 2]


def test_few_shot(root: Path) -> None:
    first, again, other = (build(options(root, train_per_class=2, split_seed=seed)).train for seed in (3, 3, 4))
    assert torch.bincount(first.labels).tolist() == [2, 2, 2]
    everything = torch.arange(6)
    assert torch.equal(first.pixels(everything), again.pixels(everything))
    assert not torch.equal(first.pixels(everything), other.pixels(everything))


def test_nothing_is_opened_to_build_it(root: Path) -> None:
    for path in (root / "train").rglob("*.JPEG"):
        path.write_bytes(b"")
    assert len(build(options(root)).train) == 21


def test_a_path_is_recognised_and_by_nobody_else(root: Path) -> None:
    assert recognises(root) == "imagenet"
    assert recognises(root / "train") is None
    assert recognises(root / "nowhere") is None
    assert folder.recognises(root) is None
    assert folder.recognises(root / "train") == "folder"
    assert cifar.recognises(root) is None
    config = parse(["--data", str(root)], command="train").config
    assert (config.data.name, config.data.options["root"]) == ("imagenet", str(root))
    (root / "train" / CLASSES[0]).rename(root / "train" / "tench")
    assert recognises(root) is None
    assert folder.recognises(root) == "folder"


def test_the_recipe_is_torchvision_s_schedule() -> None:
    config = recipe("imagenet")
    assert (config.data.name, config.epochs, config.batch_size) == ("imagenet", 90, 256)
    assert [round(milestone * config.epochs) for milestone in config.optim.milestones] == [30, 60]
    assert building.written_out(config).data.options["size"] == 224


# What is refused


def test_a_root_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"give --data\.root or --data PATH"):
        build(Options())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 7),
        ("size", 1025),
        ("resize", 31),
        ("resize", 2049),
        ("min_area", 0.0),
        ("min_area", 1.5),
        ("train_per_class", 0),
        ("workers", 0),
        ("on_bad_image", 7),
        ("max_pixels", 100),
        ("max_pixels", 10**9),
    ],
)
def test_values_out_of_range_are_refused(root: Path, field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{field} is {value}"):
        options(root, **{field: value})


def test_no_folder_and_no_training_part(root: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder; put the images into ROOT/train/CLASS/"):
        build(options(root / "nowhere"))
    with pytest.raises(DataError, match="has no class folders in train/; unpack each class into a folder of its own"):
        build(options(root / "val"))


def test_a_flat_val_is_explained(root: Path) -> None:
    for path in list((root / "val").rglob("*.JPEG")):
        path.rename(root / "val" / path.name)
    for name in CLASSES:
        (root / "val" / name).rmdir()
    with pytest.raises(DataError, match=r"val holds 6 images, but no class folders.*val/CLASS/, as valprep\.sh"):
        build(options(root))


def test_no_held_out_part(root: Path) -> None:
    (root / "val").rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"no class folders in val/, .*--data folder --data\.root .*train"):
        build(options(root))


def test_an_empty_class(root: Path) -> None:
    (root / "train" / "n09999999").mkdir()
    with pytest.raises(DataError, match="n09999999 is empty; add images or remove it"):
        build(options(root))


def test_a_class_that_training_lacks(root: Path) -> None:
    (root / "val" / CLASSES[0]).rename(root / "val" / "n09999999")
    with pytest.raises(DataError, match=r"has class 'n09999999', but .*train has not"):
        build(options(root))


# Runs


@pytest.fixture
def config(root: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Two epochs of MetaDistiller, the first with meta steps, four steps each."""
    monkeypatch.setattr(assemble.report, "write", lambda folder: folder)
    return replace(
        tiny_config,
        data=Choice(name="imagenet", options={"root": str(root), "size": 32, "resize": 36, "workers": 2}),
        model=Choice(name="resnet10", options={"width": 4, "stem": "imagenet"}),
        epochs=2,
        batch_size=6,
        eval_batch_size=4,
    )


def made(folder: Path) -> list[bytes]:
    """What must not depend on how the run went."""
    return [(folder / name).read_bytes() for name in ("model.safetensors", "results.csv", "soft_targets.json")]


def test_a_resumed_run_equals_an_uninterrupted_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = assemble.train(config, tmp_path / "whole", quiet=True)
    assert whole.result["data"] == "imagenet"
    stepwise = replace(config, checkpoint_every_steps=1)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 7)
        with pytest.raises(Interrupted):
            assemble.train(stepwise, tmp_path / "broken", quiet=True)
    assemble.resume(tmp_path / "broken", quiet=True)
    assert made(tmp_path / "broken") == made(tmp_path / "whole")


def test_workers_change_no_bit_of_a_run_and_it_can_be_exported(config: Config, tmp_path: Path) -> None:
    for workers in (1, 3):
        data = replace(config.data, options={**config.data.options, "workers": workers})
        assemble.train(replace(config, data=data), tmp_path / str(workers), quiet=True)
    assert made(tmp_path / "1") == made(tmp_path / "3")
    assert exporting.export(tmp_path / "1", tmp_path / "network.safetensors").proof.count == 6


def test_a_damaged_image_stops_the_run_and_a_sound_copy_lets_it_go_on(
    config: Config, root: Path, tmp_path: Path
) -> None:
    assemble.train(config, tmp_path / "whole", quiet=True)
    path = root / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG"
    sound = path.read_bytes()
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(DataError, match=rf"{path.name} cannot be read .*put a sound copy in its place"):
        assemble.train(config, tmp_path / "broken", quiet=True)
    path.write_bytes(sound)
    assemble.resume(tmp_path / "broken", quiet=True)
    assert made(tmp_path / "broken") == made(tmp_path / "whole")


def test_damaged_images_are_skipped(root: Path) -> None:
    for path in (
        root / "train" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG",
        root / "val" / CLASSES[1] / f"{CLASSES[1]}_1.JPEG",
    ):
        path.write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"data\.on_bad_image is skip") as told:
        data = build(options(root, on_bad_image="skip"))
    assert len(told) == 2
    assert data.train.paths[0] == data.train.paths[1]  # type: ignore[attr-defined]
    assert torch.bincount(data.train.labels).tolist() == [7, 7, 7]
    assert data.test.labels.tolist() == [0, 0, 1, 2, 2]
