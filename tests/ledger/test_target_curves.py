"""Soft targets over training, as a record has them: its epochs are those of results.csv, its updates those taken."""

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from metadistiller.assemble import assemble
from metadistiller.building import load_data, written_out
from metadistiller.config import Choice, Config
from metadistiller.engine.train import train
from metadistiller.engine.watch import Lines
from metadistiller.ledger import record_of
from metadistiller.ledger._targets import targets_of
from metadistiller.records import RunFolder

KINDS = ("accuracy", "entropy", "confidence")


def rows_of(epochs: int, learns: Callable[[int], bool], *, aligned: bool) -> list[dict[str, str]]:
    """results.csv of a run with two exits: every value says which epoch, exit and column it is of."""
    rows = []
    for epoch in range(epochs):
        row = {"epoch": str(epoch)}
        row |= {f"target_{k}_{kind}": str(epoch + k / 10 + KINDS.index(kind) / 100) for k in (1, 2) for kind in KINDS}
        late = {"heldout_loss": str(epoch + 0.5), "generator_gradient_norm": "0.0"}
        if aligned:
            late |= {f"target_{k}_alignment": str(epoch + k / 10) for k in (1, 2)}
            late |= {f"label_{k}_alignment": str(-epoch - k / 10) for k in (1, 2)}
            late |= {f"target_{k}_gain": str(epoch + k / 20) for k in (1, 2)}
            late |= {f"label_{k}_gain": str(-epoch - k / 20) for k in (1, 2)}
        rows.append(row | {key: value if learns(epoch) else "" for key, value in late.items()})
    return rows


def epoch_event(epoch: int, images: int) -> dict[str, Any]:
    seconds = 0.1 + epoch / 3
    return {"event": "epoch", "epoch": epoch, "epoch_seconds": seconds, "images_per_second": images / seconds}


MADE = {"batch_size": 64, "method": {"meta_every_steps": 3}}


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("epochs", "meta"), [(1, 1), (5, 2), (12, 5), (13, 1), (200, 5), (201, 7)])
def test_the_curve_of_a_run_is_its_results(epochs: int, meta: int, aligned: bool) -> None:
    rows = rows_of(epochs, lambda epoch: epoch % meta == 0, aligned=aligned)
    # 450 images are eight batches of 64, the last of two; the generator learns in the first, fourth and seventh.
    curve = targets_of(rows, [epoch_event(epoch, 450) for epoch in range(epochs)], MADE)
    assert curve is not None
    assert len(curve) == min(epochs, 12)
    assert (curve[0].epoch, curve[-1].epoch) == (0, epochs - 1)
    gaps = {after.epoch - before.epoch for before, after in itertools.pairwise(curve)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    for point in curve:
        for kind in KINDS:
            assert getattr(point, kind) == tuple(float(rows[point.epoch][f"target_{k}_{kind}"]) for k in (1, 2))
        learned = point.epoch // meta * meta
        assert point.heldout_loss == learned + 0.5
        assert point.target_alignment == ((learned + 0.1, learned + 0.2) if aligned else None)
        assert point.label_alignment == ((-learned - 0.1, -learned - 0.2) if aligned else None)
        assert point.target_gain == ((learned + 0.05, learned + 0.1) if aligned else None)
        assert point.label_gain == ((-learned - 0.05, -learned - 0.1) if aligned else None)
        assert point.generator_steps == 3 * (point.epoch // meta + 1)


def test_what_no_epoch_has_had_yet_is_nothing() -> None:
    rows = rows_of(3, lambda epoch: epoch == 2, aligned=True)
    curve = targets_of(rows, [epoch_event(0, 64)], MADE)
    assert curve is not None
    assert [(point.heldout_loss, point.target_alignment, point.generator_steps) for point in curve] == [
        (None, None, 0),
        (None, None, 0),
        (2.5, (2.1, 2.2), 1),
    ]


def test_a_method_without_soft_targets_has_no_curve() -> None:
    assert targets_of([{"epoch": "0", "exit_1_hard": "1.0"}], [], MADE) is None


@pytest.mark.parametrize("warmup", [0, 2, 3])
def test_while_labels_teach_first_every_step_is_an_update(warmup: int) -> None:
    made = {"batch_size": 64, "method": {"meta_every_steps": 4, "generator_warmup_epochs": warmup}}
    curve = targets_of(rows_of(3, lambda epoch: True, aligned=False), [epoch_event(0, 450)], made)
    each = [8 if epoch < warmup else 2 for epoch in range(3)]
    assert [point.generator_steps for point in curve or ()] == list(itertools.accumulate(each))


def test_a_generator_that_never_learns_has_no_updates_whatever_is_known() -> None:
    rows = rows_of(4, lambda epoch: False, aligned=False)
    curve = targets_of(rows, [], {"batch_size": 64, "method": {}})
    assert curve is not None
    assert [point.generator_steps for point in curve] == [0] * 4


def test_steps_are_told_by_epochs_that_were_not_interrupted() -> None:
    """Of one that was resumed, events.jsonl has the images after the resume alone."""
    rows = rows_of(2, lambda epoch: True, aligned=False)
    older = {"batch_size": 64, "method": {}}
    resumed = {"event": "resume", "epoch": 0, "step": 3}

    def counts(*events: dict[str, Any]) -> list[int | None]:
        return [point.generator_steps for point in targets_of(rows, events, older) or ()]

    assert counts(epoch_event(0, 450), epoch_event(1, 450)) == [8, 16]
    assert counts(resumed, epoch_event(0, 258), epoch_event(1, 450)) == [8, 16]
    # Where every epoch was interrupted nobody knows.
    assert counts(resumed, epoch_event(0, 258)) == [None, None]
    # Resumed between two epochs both are whole.
    assert counts(epoch_event(0, 449), {"event": "resume", "epoch": 1, "step": 0}, epoch_event(1, 449)) == [8, 16]


@pytest.mark.parametrize("targets", ["meta", "labels", "frozen", "uniform"])
def test_the_updates_of_a_run_of_the_program_are_those_that_it_took(
    tmp_path: Path, tiny_config: Config, targets: str
) -> None:
    """Adam counts its own."""
    options = {"meta_every_epochs": 2, "meta_every_steps": 2, "targets": targets}
    config = written_out(replace(tiny_config, method=Choice(name="metadistiller", options=options)))
    job = assemble(config, load_data(config.data))
    folder = RunFolder.create(tmp_path / "run", job.config.as_dict())
    train(job, folder, watcher=Lines(io.StringIO()), command="metadistiller train")
    curve = record_of(folder, "tiny", config).targets
    assert curve is not None
    # 40 images are three batches of 16, 16 and 8; the generator learns in the first and the last of epochs 0 and 2.
    counts = [2, 2, 4] if targets in ("meta", "labels") else [0, 0, 0]
    assert [(point.epoch, point.generator_steps) for point in curve] == list(enumerate(counts))
    steps = {
        int(tensor)
        for path in folder.checkpoints.glob("e0003*/optimizers.safetensors")
        for key, tensor in load_file(path).items()
        if key.startswith("generator/") and key.endswith("/step")
    }
    assert steps == ({4} if counts[-1] else set())
    rows = folder.read_rows()
    assert [point.accuracy[0] for point in curve] == [float(row["target_1_accuracy"]) for row in rows]
    assert [point.heldout_loss is None for point in curve] == [targets != "meta"] * 3
