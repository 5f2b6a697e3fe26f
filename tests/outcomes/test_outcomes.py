"""What outputs said is read back to the bit, or refused by name; and images are divided class by class."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from metadistiller import outcomes as kept
from metadistiller.errors import CheckpointError, ConfigError
from metadistiller.outcomes.choosing import held_out

from .made import made


def test_what_was_written_is_read_back_and_gives_the_same_bytes(tmp_path: Path) -> None:
    said = replace(made(50), index=np.arange(50) * 2, total=100)
    kept.write(said, tmp_path / "a")
    found = kept.read(tmp_path / "a")
    for name in ("logits", "labels", "index"):
        assert np.array_equal(getattr(found, name), getattr(said, name))
        assert getattr(found, name).dtype == getattr(said, name).dtype
    assert (found.total, found.trunk_macs, found.exit_macs) == (100, said.trunk_macs, said.exit_macs)
    kept.write(found, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: b"",
        lambda data: b"hello, this is no such file",
        lambda data: data.replace(b"trunk_macs", b"trunk_mics"),
        lambda data: save({"logits": np.zeros((1, 1, 1), np.float32)}),
    ],
)
def test_damage_is_refused_by_name(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    kept.write(made(20), tmp_path / "outcomes.safetensors")
    (tmp_path / "outcomes.safetensors").write_bytes(damage((tmp_path / "outcomes.safetensors").read_bytes()))
    with pytest.raises(CheckpointError, match=r"outcomes\.safetensors does not hold"):
        kept.read(tmp_path / "outcomes.safetensors")


def test_what_is_not_there_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="metadistiller resume"):
        kept.read(tmp_path / "outcomes.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(20, 5)}, "labels out of range"),
        ({"index": np.full(20, 20)}, "places out of range"),
        ({"trunk_macs": (1, 2)}, "costs of another number"),
        ({"exit_macs": (1, 2, -1)}, "costs below nothing"),
        ({"logits": np.full((4, 20, 5), np.nan)}, "not finite"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(made(20), **change)  # type: ignore[arg-type]


def test_kept_images_are_all_or_evenly_spread() -> None:
    assert kept.kept_places(7, num_outputs=4, num_classes=10).tolist() == list(range(7))
    places = kept.kept_places(100_000, num_outputs=4, num_classes=1000)
    assert len(places) * 4 * 4 * 1000 <= kept.LARGEST < (len(places) + 1) * 4 * 4 * 1000
    assert set(np.diff(places)) <= {23, 24}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
def test_each_class_gives_its_share_and_all_is_divided(share: float) -> None:
    labels = np.random.default_rng(0).integers(7, size=301)
    chosen = held_out(labels, share)
    assert abs(chosen.sum() - share * 301) < 1
    for label in range(7):
        assert abs(chosen[labels == label].sum() - share * (labels == label).sum()) <= 1
    assert np.array_equal(chosen, held_out(labels, share))
    if share == 0.5:
        assert np.array_equal(chosen, kept.halves(labels))


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 10), (1.0, 10), (-1.0, 10), (float("nan"), 10), (0.5, 1), (0.01, 9)]
)
def test_a_share_that_leaves_one_side_empty_is_refused(share: float, count: int) -> None:
    with pytest.raises(ConfigError, match="share"):
        held_out(np.zeros(count, dtype=np.int64), share)


@pytest.mark.parametrize(("num_outputs", "names"), [(1, ["final"]), (3, ["exit 1", "exit 2", "final"])])
def test_outputs_have_names(num_outputs: int, names: list[str]) -> None:
    assert kept.output_names(num_outputs) == names
