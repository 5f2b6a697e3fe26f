"""What the page says of a run is what the rest of the package says of it."""

import base64
import io
import itertools
import json
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import metadistiller
from metadistiller import assemble, cli
from metadistiller.app import _fragments as html
from metadistiller.app import _serving
from metadistiller.app._page import Pages
from metadistiller.app._shown import Shown, together
from metadistiller.config import Choice
from metadistiller.errors import CheckpointError, ConfigError, DataError
from metadistiller.outcomes.policy import Policy, simulate
from metadistiller.records import RunFolder, read_json

from .conftest import TINY


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "md"))


@pytest.fixture
def picture(finished: Path, tmp_path: Path) -> Path:
    """A test image as a file."""
    values = read_json(RunFolder(finished).mistakes)
    place = tmp_path / "picture.png"
    place.write_bytes(base64.b64decode(values["images"][0]["png"]))
    return place


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.1, 0.15, 0.2, 1.0])
@pytest.mark.parametrize("kind", ["finished", "without_exits", "paused"])
def test_a_file_gets_the_answer_of_predict(
    kind: str, threshold: float, picture: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(kind)
    run = Shown(str(place))
    answer = run.answer(run.read(str(picture)))
    (said,) = metadistiller.predict(place, picture, threshold=threshold).answers
    final = answer.outputs[-1]
    chosen = answer.outputs[run.decide(answer, run.policy(threshold)).place]
    assert (run.classes[final.answer], final.confidence) == (said.name, pytest.approx(said.probability, rel=1e-5))
    assert (chosen.name, run.classes[chosen.answer]) == (said.exit, said.exit_name)
    assert chosen.confidence == pytest.approx(said.exit_probability, rel=1e-5)


def test_soft_targets_are_those_of_the_run(finished: Path) -> None:
    run = Shown(str(finished))
    test = run._restored.dataset.test
    for example in read_json(RunFolder(finished).soft_targets)["images"]:
        answer = run.answer(test.pixels(torch.tensor([example["index"]]))[0])
        assert [output.target for output in answer.outputs[:-1]] == [
            pytest.approx(target, rel=1e-4) for target in example["targets"]
        ]
        assert answer.outputs[-1].target is None


def test_costs_of_single_images_are_on_average_that_of_the_test_set(finished: Path) -> None:
    run = Shown(str(finished))
    assert run.outcomes is not None
    chosen = torch.arange(run.outcomes.total)[::40]
    middle = sorted(run.answer(pixels).outputs[1].confidence for _, pixels in run.examples)[5]
    policy = run.policy(middle)
    pixels = run._restored.dataset.test.pixels(chosen)
    decisions = [run.decide(run.answer(each), policy) for each in pixels]
    mask = torch.zeros(run.outcomes.total, dtype=torch.bool)
    mask[chosen] = True
    found = simulate(run.outcomes.of(mask.numpy()), policy)
    mean = sum(decision.cost or 0 for decision in decisions) / len(decisions)
    assert len({decision.place for decision in decisions}) > 1
    assert mean == pytest.approx(found.macs / run.outcomes.trunk_macs[-1])


def test_a_calibration_is_used(copied: Path) -> None:
    before = Shown(str(copied))
    (label, pixels), *_ = before.examples
    plain = before.answer(pixels, label)
    (copied / "early_exit.json").write_text(
        json.dumps({"temperatures": [0.1, 1.0, 2.0, 4.0], "thresholds": [None, 0.0, 0.5]})
    )
    run = Shown(str(copied))
    answer = run.answer(pixels, label)
    for output, was, temperature in zip(answer.outputs, plain.outputs, (0.1, 1.0, 2.0, 4.0), strict=True):
        expected = (torch.tensor(was.shares, dtype=torch.float64).log() / temperature).softmax(0)
        assert output.shares == pytest.approx(expected.tolist(), rel=1e-4)
    # The first is not used, the second always answers; and the slider's own threshold still goes for all.
    assert run.decide(answer, run.policy(1.0, own=True)).place == 1
    assert run.decide(answer, run.policy(1.0)).place == 3
    assert before.calibrated is None
    assert before.policy(0.4, own=True) == before.policy(0.4)
    shown = Pages([run])
    assert "not used" in shown.told([answer], 0.9, own=True)
    assert "not used" not in shown.told([answer], 0.9, own=False)
    assert "temperature 4.00" in shown.told([answer], 0.9, own=False)


def test_the_curve_ends_with_the_final_output_and_begins_with_the_first_exit(finished: Path) -> None:
    run = Shown(str(finished))
    assert run.outcomes is not None
    accuracy = 100 * run.outcomes.right.mean(1)
    whole = run.outcomes.trunk_macs[-1]
    first = run.outcomes.trunk_macs[0] + run.outcomes.exit_macs[0]
    assert run.points[0] == pytest.approx((first / whole, accuracy[0]))
    assert run.points[-1] == pytest.approx(((whole + sum(run.outcomes.exit_macs)) / whole, accuracy[-1]))


def test_moving_the_threshold_moves_accuracy_cost_and_who_answers(finished: Path) -> None:
    pages = Pages([Shown(str(finished))])
    found = [run.answer(run.examples[0][1]) for run in pages.runs]
    shown = [(pages.told(found, threshold, False), pages.at(threshold, False)) for threshold in (0.0, 1.0)]
    assert "Exit 1 would have answered" in shown[0][0]
    assert "No exit is sure enough" in shown[1][0]
    assert "that of the final output" in shown[1][1]
    assert shown[0][1] != shown[1][1]


def test_two_runs_say_what_each_says_alone(finished: Path, without_exits: Path, picture: Path) -> None:
    runs = together([str(finished), str(without_exits)])
    both, page = Pages(runs).from_file(str(picture), 0.9, False)
    assert both == [run.answer(run.read(str(picture))) for run in runs]
    assert page.count('class="md-run"') == 2
    for run in runs:
        assert run.name in page
    assert "no threshold to move" in Pages(runs).at(0.9, False)


def test_an_example_is_seen_by_both_runs(finished: Path, tmp_path: Path) -> None:
    """The second network takes images of another size."""
    folder = tmp_path / "data"
    for label, number in itertools.product(range(10), range(4)):
        place = folder / str(label) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 25 * label + number).save(place)
    data = Choice(name="folder", options={"root": str(folder), "size": 48})
    other = assemble.train(replace(TINY, data=data, epochs=1, batch_size=8), tmp_path / "run", quiet=True).folder
    found, _ = Pages(together([str(finished), str(other)])).from_example(3, 0.9, False)
    sizes = [Image.open(io.BytesIO(base64.b64decode(answer.png))).size for answer in found]
    assert sizes == [(32, 32), (48, 48)]
    assert [answer.label for answer in found] == [3, 3]


def test_examples_are_of_different_classes(finished: Path) -> None:
    assert [label for label, _ in Shown(str(finished)).examples] == list(range(10))


# -- what cannot be shown ----------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_shown_with_its_epochs(paused: Path) -> None:
    run = Shown(str(paused))
    (note,) = run.notes
    assert "after 1 of 2 epochs" in note
    assert note in html.head([run])
    assert run.simulated(run.policy(0.5)) is None
    assert "no such file" in Pages([run]).at(0.5, False)
    assert "no such file" in html.mistakes([run])


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", TINY.as_dict())
    with pytest.raises(CheckpointError, match="has no checkpoint yet; 'metadistiller resume"):
        Shown(str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="no run folder"):
        Shown(str(tmp_path))


def test_a_run_without_exits_shows_its_final_answer(without_exits: Path, picture: Path) -> None:
    run = Shown(str(without_exits))
    assert "The method plain has no early exits" in html.head([run])
    found, page = Pages([run]).from_file(str(picture), 0.5, False)
    assert [output.name for output in found[0].outputs] == ["final"]
    assert "would have answered" not in page
    assert "saved" not in page


def test_two_runs_of_other_classes_are_refused(finished: Path, photos: Path, tmp_path: Path) -> None:
    data = Choice(name="folder", options={"root": str(photos), "size": 16})
    other = assemble.train(replace(TINY, data=data, epochs=1, batch_size=4), tmp_path / "run", quiet=True).folder
    with pytest.raises(ConfigError, match=r"has other classes than .*\(cat, dog and 0, 1, 2 \.\.\. \(10\)\)"):
        together([str(finished), str(other)])


def bomb() -> bytes:
    """A few bytes that say they are 60,000 pixels wide and high."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, format="bmp")
    data = bytearray(file.getvalue())
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no picture at all", "cannot be read as a picture"),
        (b"", "cannot be read"),
        (bomb(), "has more than the 89,000,000 pixels"),
    ],
    ids=["text", "nothing", "bomb"],
)
def test_what_is_no_picture_is_said_on_the_page(content: bytes, said: str, finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "cat.jpg"
    place.write_bytes(content)
    found, page = Pages([Shown(str(finished))]).from_file(str(place), 0.5, False)
    assert found == []
    assert 'role="alert"' in page
    assert said in page
    # Folders of the server are nobody's business.
    assert str(tmp_path) not in page


def test_what_becomes_of_a_decoder_is_not_told(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as a picture"):
        Shown(str(finished)).read(str(tmp_path / "not there.png"))


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_said(threshold: float, finished: Path) -> None:
    pages = Pages([Shown(str(finished))])
    found = [run.answer(run.examples[0][1]) for run in pages.runs]
    for page in (pages.told(found, threshold, False), pages.at(threshold, False)):
        assert 'role="alert"' in page
        assert "take 0 to 1" in page
    with pytest.raises(ConfigError, match="take 0 to 1"):
        _serving.serve([str(finished)], threshold=threshold)


DAMAGE: dict[str, Callable[[Any], Any]] = {
    "mistakes.json": lambda values: {"images": [{**values["images"][0], "label": 10}]},
    "early_exit.json": lambda values: {"temperatures": [1.0, 1.0], "thresholds": [0.5]},
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("how", ["of another form", "no JSON"])
def test_a_damaged_file_is_a_note_and_no_end(name: str, how: str, copied: Path) -> None:
    place = copied / name
    before = json.loads(place.read_text()) if place.exists() else {}
    place.write_text("{" if how == "no JSON" else json.dumps(DAMAGE[name](before)))
    run = Shown(str(copied))
    (note,) = run.notes
    assert name in note
    html.head([run])
    html.mistakes([run])


def test_outcomes_of_another_network_are_not_taken(copied: Path, without_exits: Path) -> None:
    shutil.copy(without_exits / "outcomes.safetensors", copied / "outcomes.safetensors")
    run = Shown(str(copied))
    assert "is of another network" in run.notes[0]
    assert run.outcomes is None


def test_names_are_only_text(tmp_path: Path) -> None:
    strange = '<b onclick="x">$a_b$&amp;\u202e'
    for name, number in itertools.product((strange, "dog"), range(6)):
        place = tmp_path / "data" / name / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(place)
    data = Choice(name="folder", options={"root": str(tmp_path / "data"), "size": 16})
    folder = assemble.train(replace(TINY, data=data, epochs=1, batch_size=4), tmp_path / '"><i>', quiet=True).folder
    run = Shown(str(folder))
    pages = Pages([run, run])
    shown = [html.head(pages.runs), html.mistakes(pages.runs), pages.at(0.5, False)]
    shown += [pages.from_example(place, 0.5, False)[1] for place in (0, 1)]
    for page in shown:
        assert "<b onclick" not in page
        assert '"><i>' not in page
        assert "\u202e" not in page
    assert any("&lt;b onclick" in page for page in shown)


# -- serving -----------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["app", str(tmp_path / "not there"), "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: port {port} cannot be used (Address already in use); choose another with --port")


def test_without_a_port_the_next_free_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(_serving, "FIRST_PORT", port)
        assert port < _serving.free_port(None) < port + 100
        monkeypatch.setattr(_serving, "NUM_PORTS", 1)
        with pytest.raises(ConfigError, match=f"every port from {port} to {port} cannot be used"):
            _serving.free_port(None)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range_is_said(port: int) -> None:
    with pytest.raises(ConfigError, match=f"port is {port}; take 1 to 65535"):
        _serving.free_port(port)


def test_more_than_two_runs_and_a_missing_package_are_said(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="3 runs; the page shows one or two"):
        _serving.serve([str(finished)] * 3)
    monkeypatch.setattr(_serving, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'metadistiller\[app\]'"):
        _serving.serve([str(finished)])


def test_a_policy_of_another_number_of_exits_is_no_policy_of_this_run(copied: Path) -> None:
    (copied / "early_exit.json").write_text(json.dumps({"temperatures": [1.0, 1.0], "thresholds": [0.5]}))
    run = Shown(str(copied))
    assert run.calibrated is None
    assert isinstance(run.policy(0.5, own=True), Policy)


def test_answers_to_several_at_once_are_those_to_each_alone(tmp_path: Path) -> None:
    """A network that is not ours is read while it runs: two requests would read each other's maps."""
    config = replace(TINY, model=Choice(name="torchvision/shufflenet_v2_x0_5"), method=Choice(name="dsn"), epochs=1)
    shown = Shown(str(metadistiller.train(config, tmp_path / "run", quiet=True).folder))
    pixels = [pixels for _, pixels in shown.examples[:2]]
    alone = [shown.answer(each).outputs for each in pixels]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda place: shown.answer(pixels[place % 2]).outputs, range(40)))
    for place, outputs in enumerate(together):
        for one, other in zip(outputs, alone[place % 2], strict=True):
            assert one.shares == pytest.approx(other.shares, rel=1e-4)
