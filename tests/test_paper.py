"""The paper's numbers by what they must add up to, the networks' costs by counting, and a recipe for every number."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from metadistiller import paper
from metadistiller.building import written_out
from metadistiller.config import Config, milestone_epoch
from metadistiller.errors import UnknownName
from metadistiller.inspection import inspect
from metadistiller.lookup import FAMILIES, find, table
from metadistiller.methods.metadistiller import Options
from metadistiller.nn import build_network
from metadistiller.paper import ABLATIONS, EPOCHS, NETWORKS, TABLES, TEACHER, Cell, cells, recipe_name, run_name
from metadistiller.recipes import recipes
from metadistiller.recipes.paper import NAMES, training_cost

ALL = [cell for found in TABLES.values() for cell in found.cells]


def value(table_name: str, row: str, method: str, output: str) -> float:
    (found,) = (cell for cell in cells(table_name, row, method) if cell.output == output)
    return found.value


# The numbers


def test_so_many_numbers_stand_in_each_table() -> None:
    assert Counter(cell.table for cell in ALL) == {"table1": 40, "table2": 15, "table3": 12, "table4": 18}


def test_no_place_has_two_numbers() -> None:
    assert max(Counter((cell.table, cell.row, cell.method, cell.output) for cell in ALL).values()) == 1


def test_a_run_has_the_same_number_in_every_table() -> None:
    known: dict[tuple[str, str, str], float] = {}
    for cell in ALL:
        assert known.setdefault((cell.row, cell.method, cell.output), cell.value) == cell.value, cell


def test_numbers_are_percent_and_every_method_beats_the_baseline() -> None:
    for cell in ALL:
        assert 60 < cell.value < 85
        base = {other.row: other.value for other in ALL if other.method == "plain"}[cell.row]
        assert cell.value >= base, cell


@pytest.mark.parametrize(
    ("row", "over_sd", "over_plain"),
    [
        # Sec. 4.3 has 2.03 for the last one, which Table 2 does not bear out.
        ("torchvision/vgg19_bn", 0.95, 3.05),
        ("torchvision/resnet18", 0.68, 2.40),
        ("torchvision/resnet50", 0.87, 2.55),
    ],
)
def test_gains_on_imagenet_are_those_of_the_prose(row: str, over_sd: float, over_plain: float) -> None:
    ours = value("table2", row, "metadistiller", "final")
    assert ours - value("table2", row, "self_distillation", "final") == pytest.approx(over_sd)
    assert ours - value("table2", row, "plain", "final") == pytest.approx(over_plain)


def test_gains_over_the_runner_up_of_table_3() -> None:
    for row, runner_up, lead in (("resnet18", "attention_transfer", 0.24), ("resnet50", "fitnet", 0.65)):
        others = [value("table3", row, method, "final") for method in TABLES["table3"].methods[:-1]]
        assert max(others) == value("table3", row, runner_up, "final")
        assert value("table3", row, "metadistiller", "final") - max(others) == pytest.approx(lead)


def test_columns_of_table_1_sum_up() -> None:
    """Worked out from the printed table, column by column."""
    sums: Counter[tuple[str, str]] = Counter()
    for cell in TABLES["table1"].cells:
        sums[cell.method, cell.output] += round(100 * cell.value)
    assert sums == {
        ("plain", "final"): 59091,
        ("self_distillation", "final"): 60635,
        ("metadistiller", "final"): 61312,
        ("self_distillation", "ensemble"): 61261,
        ("metadistiller", "ensemble"): 61832,
    }


def test_quoted_numbers_are_those_in_parentheses() -> None:
    quoted = {(cell.row, cell.method, cell.output): cell.quoted for cell in ALL if cell.quoted is not None}
    assert len(quoted) == 12
    assert {cell.table for cell in ALL if cell.quoted is not None} == {"table1"}
    assert {row for row, _, _ in quoted} == {"resnet18", "resnet50", "resnet101", "vgg19_bn"}
    assert quoted["resnet18", "plain", "final"] == 77.09
    assert quoted["resnet50", "self_distillation", "final"] == 80.56
    assert quoted["vgg19_bn", "self_distillation", "ensemble"] == 68.54


def test_cells_of_a_place_come_final_first_and_none_where_the_paper_is_silent() -> None:
    assert [cell.output for cell in cells("table1", "resnet18", "metadistiller")] == ["final", "ensemble"]
    assert [cell.output for cell in cells("table1", "resnet18", "plain")] == ["final"]
    assert cells("table1", "resnet18", "dsn") == []


def places() -> Iterator[tuple[str, str, str]]:
    for name, found in TABLES.items():
        for row in found.rows:
            for method in found.methods:
                yield name, row, method


def test_the_places_hold_all_numbers() -> None:
    held: list[Cell] = [cell for place in places() for cell in cells(*place)]
    assert Counter(held) == Counter(ALL)


def test_a_candidate_has_the_numbers_of_the_row_that_it_may_be() -> None:
    assert TABLES["table1"].candidates == {"shufflenet_v2_x0_5": "shufflenet_v2"}
    assert cells("table1", "shufflenet_v2_x0_5", "plain") == cells("table1", "shufflenet_v2", "plain")
    assert recipe_name("table1", "shufflenet_v2_x0_5", "plain") == "cifar100_shufflenet_v2_x0_5_plain"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("tabel1", "resnet18", "plain"), "unknown table 'tabel1'; did you mean 'table1'"),
        (("table4", "resnet108", "dsn"), "unknown row of table4 'resnet108'; did you mean 'resnet18'"),
        (("table1", "resnet18", "kd"), "unknown method of table1 'kd'"),
        (("table2", "shufflenet_v2_x0_5", "plain"), "unknown row of table2"),
    ],
)
def test_places_that_are_not_there(place: tuple[str, str, str], message: str) -> None:
    for ask in (recipe_name, cells):
        with pytest.raises(UnknownName, match=message):
            ask(*place)


# What the networks cost

SIZES = {"cifar100": (100, (32, 32)), "imagenet": (1000, (224, 224))}


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_are_those_that_are_counted(name: str) -> None:
    network = NETWORKS[name]
    num_classes, size = SIZES[network.data]
    model = NAMES_OF_NETWORKS[name].model
    mirror = inspect(model, num_classes=num_classes, size=size)
    chosen = mirror
    if network.generator_width != "mirror":
        chosen = inspect(model, num_classes=num_classes, size=size, generator_width=network.generator_width)
    assert network.macs == mirror["macs"]
    assert network.exits_macs == mirror["exits"]["macs"]
    assert network.mirror_macs == mirror["generator"]["macs"]
    assert network.generator_macs == chosen["generator"]["macs"]
    with torch.device("meta"):
        backbone = build_network(model, num_classes).eval()
        images = torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.stages(images, upto=backbone.num_stages - 1)
    assert network.early_macs == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", NETWORKS)
def test_the_generator_is_the_mirror_where_that_is_cheap(name: str) -> None:
    network = NETWORKS[name]
    assert (network.generator_width == "mirror") == (network.mirror_macs < 0.6 * network.macs)
    assert network.generator_macs < 1.4 * network.macs


@pytest.mark.parametrize(
    ("network", "method", "own", "with_teacher"),
    [
        # In units of B: E 0.07201, G 0.53262, B' 0.75828, T 6.70123 (the four are counts of ResNet18 over its own).
        ("resnet18", "plain", 1, None),
        ("resnet18", "dsn", 1.07201, None),
        ("resnet18", "self_distillation", 1.07201, None),
        ("resnet18", "metadistiller", 1.07201 + 0.53262 / 3 + (1.07201 + 1 + 0.83029 + 0.53262) / 5, None),
        ("resnet18", "kd", 1 + 6.70123 / 3, 1 + 6.70123 * 4 / 3),
        ("resnet18", "fitnet", 1 + 6.70123 / 3, 1 + 6.70123 * 4 / 3),
        ("resnet18", "attention_transfer", 1 + 6.70123 / 3, 1 + 6.70123 * 4 / 3),
        ("resnet18", "dml", (4 + 3 * 6.70123) / 3, None),
    ],
)
def test_costs_by_hand(network: str, method: str, own: float, with_teacher: float | None) -> None:
    cost = training_cost(network, method)
    assert cost.own == pytest.approx(own, rel=1e-4)
    assert cost.with_teacher == (None if with_teacher is None else pytest.approx(with_teacher, rel=1e-4))


# The recipes


def made(name: str) -> Config:
    return NAMES[name]()


NAMES_OF_NETWORKS = {config.model.name: config for config in map(made, NAMES)}


def test_every_number_has_its_recipe_and_no_recipe_is_without_a_place() -> None:
    wanted = {recipe_name(*place) for place in places()}
    wanted |= {recipe_name("table1", "shufflenet_v2_x0_5", method) for method in TABLES["table1"].methods}
    assert set(NAMES) == wanted | {run_name(TEACHER, "plain")}
    assert len(NAMES) == 57


def test_two_places_share_a_recipe_only_where_they_are_the_same_run() -> None:
    owner: dict[str, tuple[str, str]] = {}
    for name, row, method in places():
        assert owner.setdefault(recipe_name(name, row, method), (row, method)) == (row, method)
        config = made(recipe_name(name, row, method))
        assert (config.model.name, config.method.name, config.data.name) == (row, method, TABLES[name].data)


def test_names_do_not_hide_other_recipes() -> None:
    assert all(recipes()[name] is make for name, make in NAMES.items())
    assert not set(NAMES) & set(table(FAMILIES["data"][0])), "a recipe named like a data set gives its defaults"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_resolves(name: str) -> None:
    config = made(name)
    assert written_out(config).method.name == config.method.name
    partner = find(*FAMILIES["method"], config.method.name).partner
    assert (config.teacher is None) == (partner is None)
    if config.teacher is not None:
        assert (config.teacher.name, config.teacher.run) == (TEACHER, None)


@pytest.mark.parametrize("name", NAMES)
def test_runs_of_a_data_set_differ_in_network_and_method_alone(name: str) -> None:
    config = made(name)
    imagenet = config.data.name == "imagenet"
    same = replace(config, model=config.model, method=config.method, teacher=None)
    first = made("imagenet_resnet18_plain" if imagenet else "cifar100_resnet18_plain")
    assert same == replace(first, model=config.model, method=config.method)
    assert set(config.method.options) <= {"generator_width"}
    assert (config.batch_size, config.optim.weight_decay) == ((256, 1e-4) if imagenet else (128, 5e-4))


@pytest.mark.parametrize("name", NAMES)
def test_schedule_and_rates_are_the_papers(name: str) -> None:
    config = made(name)
    assert (config.epochs, EPOCHS) == (200, 200)
    assert [milestone_epoch(milestone, config.epochs) for milestone in config.optim.milestones] == [80, 140]
    assert (config.optim.lr, config.optim.gamma, config.optim.schedule) == (0.1, 0.1, "step")
    assert (config.label_smoothing, config.optim.warmup_epochs) == (0.0, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_numbers_the_command_and_the_cost(name: str) -> None:
    config, text = made(name), NAMES[name].__doc__ or ""
    network, method = config.model.name, config.method.name
    first, *rest = text.splitlines()
    numbers = {
        f"{cell.output} {cell.value:.2f}"
        for found_name, found in TABLES.items()
        if network in (*found.rows, *found.candidates) and method in found.methods
        for cell in cells(found_name, network, method)
    }
    assert numbers or "no number" in first
    assert all(number in first for number in numbers)
    assert first.count(".") == len(numbers) + 2, "what it is, its numbers, and nothing else"
    assert f"Command: metadistiller train {name} --data.root FOLDER" in rest
    cost = training_cost(network, method)
    (line,) = (line for line in rest if line.startswith("Cost: "))
    assert f"{NETWORKS[network].macs / 1e6:,.1f} million MACs an image at inference" in line
    assert f"training {cost.own:.2f} times" in line
    assert (cost.with_teacher is not None) == ("with the teacher's own" in line)
    assert max(map(len, text.splitlines())) <= 140
    assert ("May be Table 1's shufflenet_v2" in first) == (bool(numbers) and network == "shufflenet_v2_x0_5")


def test_the_generator_of_a_recipe_is_the_one_whose_cost_is_told() -> None:
    for name in NAMES:
        config = made(name)
        if config.method.name == "metadistiller":
            assert written_out(config).method.options["generator_width"] == NETWORKS[config.model.name].generator_width


# Variants


def test_variants_are_options_that_change_something() -> None:
    plain = Options()
    variants = [Options(**options) for options in ABLATIONS.values()]
    assert all(variant != plain for variant in variants)
    assert len(set(variants)) == len(variants) == 10


def test_the_paper_module_has_what_others_ask_for() -> None:
    assert tuple(TABLES) == ("table1", "table2", "table3", "table4")
    assert TABLES["table1"].methods == ("plain", "dsn", "self_distillation", "metadistiller")
    assert TABLES["table3"].rows == ("resnet18", "resnet50")
    assert (paper.EXTRA_HOURS, paper.TEACHER_HOURS) == (1.1, 7.9)
