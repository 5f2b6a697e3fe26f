"""Which runs of a ledger are one setting, and which one row of it: by what was run, and not by how it was entered."""

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from metadistiller.building import written_out
from metadistiller.ledger import Record, TeacherRun
from metadistiller.recipes import recipe
from metadistiller.report import _effective
from metadistiller.report._compared import Setting, settings
from metadistiller.report._evidence import render

from .evidence import row
from .evidence import run as of_the_paper
from .test_comparisons import run, several

RESNET = TeacherRun(network="resnet18", epochs=200, seconds=7200.0, final=90.5, device=None)
OTHER = replace(RESNET, network="resnet34", final=91.5)


def taught(seed: int, final: float, teacher: TeacherRun | None = RESNET, **changed: Any) -> Record:
    overrides = {"teacher.name": teacher.network if teacher else "resnet18", **changed.pop("overrides", {})}
    return run("kd" if teacher else "dml", seed, final, exits=(), teacher=teacher, overrides=overrides, **changed)


def from_elsewhere(method: str, final: float, **overrides: Any) -> Record:
    """On the same data and network as of `digits`, with the rates and the batch of another recipe."""
    members = {"data.name": "digits", "model.name": "resnet10", "model.width": 16, "method.name": method}
    return run(method, 0, final, recipe="cifar100_resnet18_plain", overrides={**members, **overrides})


def colliding() -> list[Record]:
    """Rows and settings that are called the same at first."""
    null = {"method.new": None}
    return [
        run("plain", 0, 50.0),
        run("dsn", 0, 51.0),
        run("dsn", 0, 52.0, overrides=null),
        run("dsn", 1, 53.0, overrides=null),
        run("dsn", 0, 54.0, overrides={"method.x": "1"}),
        run("dsn", 0, 55.0, overrides={"method.x": 1}),
        # The same number, but not the same as the word.
        run("dsn", 1, 56.0, overrides={"method.x": 1.0}),
        taught(0, 60.0),
        taught(0, 61.0, overrides={"teacher.width": 16}),
        taught(0, 62.0, overrides={"teacher.width": 32}),
        taught(0, 63.0, OTHER),
        taught(0, 64.0, replace(OTHER, epochs=60)),
        taught(0, 65.0, None),
        taught(0, 66.0, None, overrides={"teacher.width": 32}),
        from_elsewhere("plain", 70.0),
        from_elsewhere("dsn", 71.0),
        run("plain", 0, 72.0, recipe="of somebody"),
        run("plain", 0, 73.0, overrides={"model.new": None}),
        run("plain", 0, 74.0, overrides={"batch_size": 16}),
        run("plain", 0, 75.0, overrides={"batch_size": "16"}),
        run("dsn", 0, 76.0, overrides={"method.y": 1, "label_smoothing": 0.1}),
        run("dsn", 0, 77.0, overrides={"method.y": 1, "label_smoothing": "0.1"}),
    ]


def names(found: list[Setting]) -> list[tuple[str, str]]:
    return [(setting.heading, each.label) for setting in found for each in setting.rows]


def test_no_two_settings_and_no_two_rows_of_one_are_called_the_same() -> None:
    for records in (colliding(), several()):
        found = settings(records)
        assert len({setting.heading for setting in found}) == len(found)
        assert len(set(names(found))) == len(names(found))
        beside = {record.id for setting in found for record in setting.records}
        assert {record.id for record in records if record.recipe == "digits"} <= beside


def test_the_order_of_entry_changes_nothing_where_names_collide() -> None:
    records = [*colliding(), *(replace(record, seed=record.seed + 9) for record in several())]
    assert len({record.id for record in records}) == len(records), "the ledger takes no such"
    page = render(records)
    for seed in range(20):
        random.Random(seed).shuffle(records)
        assert render(records) == page


def test_rows_that_are_called_the_same_are_told_apart_by_what_is_not() -> None:
    page = render(colliding())
    (found,) = ([each.label for each in setting.rows] for setting in settings(colliding()) if len(setting.rows) > 2)
    assert found == [
        *("plain", "dsn", "dsn:new=null", "dsn:x=1", "dsn:x=1.0"),
        *("dsn:y=1:label_smoothing=0.1", "dsn:y=1:label_smoothing=0.1 (2)"),
        "kd (teacher resnet18 (width=16), 200 epochs)",
        "kd (teacher resnet18 (width=32), 200 epochs)",
        "kd (teacher resnet18, 200 epochs)",
        *("kd (teacher resnet34, 200 epochs)", "kd (teacher resnet34, 60 epochs)"),
        *("dml (beside resnet18 (width=32))", "dml (beside resnet18)"),
    ]
    for final, label in ((60.0, found[9]), (62.0, found[8]), (66.0, found[12])):
        assert row(page, "Comparisons", label, "1")[1] == f"{final:.2f}"
    # Against the one plain training of the setting and the one dsn.
    assert row(page, "Comparisons", "dsn:new=null", "2")[3:5] == ["+2.00 (one seed)", "+1.00 (one seed)"]


def test_settings_that_are_called_the_same_are_told_apart_by_what_is_not() -> None:
    heading = "digits (train_per_class=10), resnet10 (width=16), 200 epochs"
    assert [setting.heading for setting in settings(colliding())] == [
        f"{heading.replace('width=16', 'new=null, width=16')}",
        # One is a number, and one a word.
        f"{heading}, batch_size=16, else as digits",
        f"{heading}, batch_size=16, else as digits (2)",
        f"{heading}, else as cifar100_resnet18",
        f"{heading}, else as digits",
        "digits (train_per_class=10), resnet10, 200 epochs",
    ]


# However it was entered


def entered(recipe_name: str, name: str, seed: int, final: float) -> Record:
    """A run of `compare RECIPE --methods NAME`, 3 epochs."""
    record = of_the_paper("wrn16_1", name, seed, final, epochs=3)
    own = recipe(recipe_name).method.name
    return replace(record, recipe=recipe_name, overrides={"method.name": name} if name != own else {})


def test_the_same_method_with_the_same_options_is_one_row_however_it_was_entered() -> None:
    """`reproduce table1 --rows wrn16_1 --epochs 3` beside `compare cifar100_wrn16_1_metadistiller`."""
    start = "cifar100_wrn16_1_metadistiller"
    records = [
        *(entered(f"cifar100_wrn16_1_{name}", name, 0, final) for name, final in (("plain", 20.0), ("dsn", 22.0))),
        *(entered(start, name, 1, final) for name, final in (("plain", 21.0), ("dsn", 23.5))),
        entered("cifar100_wrn16_1_self_distillation", "self_distillation", 0, 24.0),
        entered("cifar100_wrn16_1_plain", "self_distillation", 1, 25.0),
    ]
    (found,) = settings(records)
    assert (found.heading, found.recipes) == ("cifar100, wrn16_1, 3 epochs", ("cifar100_wrn16_1",))
    assert [(each.label, len(each.runs.counted)) for each in found.rows] == [
        *(("plain", 2), ("dsn", 2), ("self_distillation", 2)),
    ]
    page = render(records)
    # 2.0 and 2.5: mean 2.25, deviation 0.3536, times 12.706 / sqrt 2 is 3.177.
    assert row(page, "Comparisons", "dsn", "2")[3] == "+2.25 (-0.93 to +5.43; 2)"


def test_what_a_recipe_says_of_its_method_is_an_option_of_it() -> None:
    """The network's own recipe has a narrower generator than the method by default."""
    name = "cifar100_resnet50_metadistiller"
    own = of_the_paper("resnet50", "metadistiller", 0, 50.0)
    other = replace(own, recipe="cifar100_resnet50_plain", overrides={"method.name": "metadistiller"})
    same = replace(other, seed=1, overrides={**other.overrides, "method.generator_width": 128})
    (found,) = settings([own, other, same])
    assert recipe(name).method.options == {"generator_width": 128}
    assert [(each.label, len(each.runs.counted)) for each in found.rows] == [
        *(("metadistiller", 1), ("metadistiller:generator_width=128", 2)),
    ]


def test_settings_of_another_recipe_are_others_where_the_recipe_has_others() -> None:
    ours, theirs = run("plain", 0, 50.0), from_elsewhere("plain", 60.0)
    assert len(settings([ours, theirs])) == 2
    # Until everything in which the recipes differ is said.
    apart = {key: value for key, value in flat("digits").items() if flat("cifar100_resnet18_plain").get(key) != value}
    assert apart
    assert len(settings([ours, from_elsewhere("plain", 60.0, **apart)])) == 1


def flat(name: str) -> dict[str, Any]:
    values = written_out(recipe(name)).as_dict()
    return {f"{key}.{inner}": item for key in ("optim", "augment") for inner, item in values[key].items()} | {
        "batch_size": values["batch_size"]
    }


def smoothed(method: str, seed: int, final: float, smoothing: float | None = 0.1) -> Record:
    return run(method, seed, final, overrides={} if smoothing is None else {"label_smoothing": smoothing})


def test_what_rows_learn_from_is_of_the_row_where_they_differ() -> None:
    records = [
        *(smoothed("plain", seed, 50.0 + seed, None) for seed in (0, 1)),
        *(smoothed("plain", seed, 52.0 + 2 * seed) for seed in (0, 1)),
        run("dsn", 0, 60.0, overrides={"label_smoothing": 0.1, "augment.mixup": 0.2}),
        run("metadistiller", 0, 61.0, overrides={"heldout_share": 0.1}),
    ]
    heading = "digits (train_per_class=10), resnet10 (width=16), 200 epochs"
    labels = ["plain", "plain:label_smoothing=0.1", "dsn:augment.mixup=0.2:label_smoothing=0.1"]
    labels.append("metadistiller:heldout_share=0.1")
    (found,) = settings(records)
    assert (found.heading, [each.label for each in found.rows]) == (heading, labels)
    # 2 and 3: mean 2.5, deviation 0.7071, times 12.706 / sqrt 2 is 6.353.
    assert row(render(records), "Comparisons", labels[1], "2")[3] == "+2.50 (-3.85 to +8.85; 2)"


def test_what_all_rows_learn_from_is_the_setting_s() -> None:
    records = [smoothed(method, 0, 50.0 + place) for place, method in enumerate(("plain", "dsn"))]
    (found,) = settings(records)
    assert found.heading.endswith("200 epochs, label_smoothing=0.1")
    assert [each.label for each in found.rows] == ["plain", "dsn"]
    assert row(render(records), "Comparisons", "dsn", "1")[3] == "+1.00 (one seed)"


def minus(page: str, label: str, seeds: int = 1) -> list[str]:
    """− plain and − dsn."""
    return row(page, "Comparisons", label, str(seeds))[3:5]


def test_a_row_is_compared_with_what_learned_from_the_same() -> None:
    everywhere = [smoothed("plain", 0, 50.0), smoothed("dsn", 0, 51.0)]
    assert minus(render(everywhere), "dsn") == ["+1.00 (one seed)", ""]
    # Whatever else is entered.
    more = [*everywhere, smoothed("plain", 0, 40.0, None), smoothed("metadistiller", 0, 44.0, None)]
    assert minus(render(more), "dsn:label_smoothing=0.1") == ["+1.00 (one seed)", ""]
    assert minus(render(more), "metadistiller")[0] == "+4.00 (one seed)"


def test_a_row_that_alone_learned_from_something_is_compared_with_the_usual_one() -> None:
    """Of `compare --label_smoothing 0.05 --methods plain,self_distillation,dsn:label_smoothing=0.2`."""
    records = [
        *(smoothed(method, 0, final, 0.05) for method, final in (("plain", 50.0), ("self_distillation", 52.0))),
        smoothed("dsn", 0, 55.0, 0.2),
    ]
    page = render(records)
    assert minus(page, "self_distillation:label_smoothing=0.05")[0] == "+2.00 (one seed)"
    assert minus(page, "dsn:label_smoothing=0.2")[0] == "+5.00 (one seed) to plain:label_smoothing=0.05"


def test_what_a_recipe_has_rows_learn_from_is_of_the_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = recipe("digits")
    known = {"digits": digits, "smooth": replace(digits, label_smoothing=0.1)}
    monkeypatch.setattr(_effective, "recipe", known.__getitem__)
    records = [run("plain", 0, 50.0), run("plain", 0, 53.0, recipe="smooth"), run("dsn", 0, 54.0, recipe="smooth")]
    (found,) = settings(records)
    assert [each.label for each in found.rows] == [
        *("plain", "plain:label_smoothing=0.1", "dsn:label_smoothing=0.1"),
    ]
    dsn = found.rows[2]
    assert found.baseline("plain", dsn) is found.rows[1]
    assert found.baseline("dsn", dsn) is None


@pytest.mark.parametrize("name", ["digits", "folder", "cifar100_resnet50_metadistiller", "cifar100_resnet18_kd"])
def test_two_folders_of_photographs_are_two_settings(name: str) -> None:
    record = run("metadistiller", 0, 50.0, recipe=name)
    records = [replace(record, overrides={"data.root": root}, seed=seed) for seed in (0, 1) for root in ("a", "b")]
    found = settings(records)
    assert [len(setting.records) for setting in found] == [2, 2]
    assert all(re.search(r"root=[ab]", setting.heading) for setting in found)
