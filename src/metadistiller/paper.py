"""What the paper reports: every number of its Tables 1 to 4, and what the networks in them cost.

Numbers are top-1 accuracy on the test set, percent. A row is called by our name of its network, a column by our name of
its method. The paper gives one number each, without a spread, and says neither how many runs it stands for nor which
epoch of them.

Source: Liu, Rao, Lu, Zhou, Hsieh, MetaDistiller: Network Self-Boosting via Meta-Learned Top-Down Distillation, ECCV
2020. Table 3 has two rows, ResNet18 and ResNet50, each taught by a ResNet152 whose own accuracy is not given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .errors import UnknownName

Output = Literal["final", "ensemble"]
Data = Literal["cifar100", "imagenet"]

EPOCHS = 200  # of every run; sec. 4.1
TEACHER = "resnet152"  # of Table 3, and the peer of its DML column

# Hours of training a ResNet18, sec. 3.5; the paper does not name the machine.
EXTRA_HOURS = 1.1  # MetaDistiller over plain training
TEACHER_HOURS = 7.9  # a ResNet101 as teacher of a two-stage method


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of the tables, and the multiply-accumulates (MACs) of one image through it and through what it trains
    with: convolutions and linear layers, 32x32 pixels and 100 classes for CIFAR-100, 224x224 and 1,000 for ImageNet.

    Attributes:
        label: what the paper calls it.
        data: what it is trained on.
        macs: of the network itself, which is what ships.
        early_macs: of its stem and stages 1..K-1.
        exits_macs: of all K-1 early exits.
        mirror_macs: of a generator whose maps have the shapes of the network's own.
        generator_width: of the generator that the recipes train it with; the paper is silent (docs/method.md, G6).
        generator_macs: of that generator.
    """

    label: str
    data: Data
    macs: int
    early_macs: int
    exits_macs: int
    mirror_macs: int
    generator_width: int | Literal["mirror"]
    generator_macs: int


def _network(
    label: str,
    data: Data,
    counts: tuple[int, int, int, int],
    narrow: tuple[int, int] | None = None,
) -> Network:
    """Counts are macs, early, exits, mirror; `narrow` is width and MACs of a generator that is not the mirror."""
    macs, early, exits, mirror = counts
    width: int | Literal["mirror"]
    width, generator = narrow or ("mirror", mirror)
    return Network(
        label=label,
        data=data,
        macs=macs,
        early_macs=early,
        exits_macs=exits,
        mirror_macs=mirror,
        generator_width=width,
        generator_macs=generator,
    )


NETWORKS: Mapping[str, Network] = {
    "resnet18": _network("ResNet18", "cifar100", (555_468_800, 421_199_872, 39_999_488, 295_852_032)),
    "resnet50": _network(
        "ResNet50", "cifar100", (1_298_014_208, 1_033_568_256, 93_937_664, 4_187_578_368), (128, 318_332_928)
    ),
    "resnet101": _network(
        "ResNet101", "cifar100", (2_510_168_064, 2_245_722_112, 93_937_664, 4_187_578_368), (128, 318_332_928)
    ),
    "resnet152": _network(
        "ResNet152", "cifar100", (3_722_321_920, 3_457_875_968, 93_937_664, 4_187_578_368), (128, 318_332_928)
    ),
    "resnext29_2": _network(
        "ResNeXT29-2", "cifar100", (1_411_158_016, 916_127_744, 88_285_184, 2_839_748_608), (128, 306_388_992)
    ),
    "wrn16_1": _network("WideResNet16-1", "cifar100", (26_663_168, 18_268_160, 864_768, 11_612_672)),
    "vgg19_bn": _network("VGG19(BN)", "cifar100", (398_182_400, 360_382_464, 89_600, 210_853_376)),
    "mobilenet_v2": _network("MobileNetv2", "cifar100", (91_270_144, 61_054_976, 13_039_360, 50_067_200)),
    "shufflenet_v2": _network(
        "Shufflenetv2", "cifar100", (45_094_272, 26_888_448, 11_288_192, 152_522_368), (64, 23_619_200)
    ),
    "shufflenet_v2_x0_5": _network(
        "Shufflenetv2", "cifar100", (10_994_176, 5_907_456, 1_955_328, 26_138_112), (64, 15_226_368)
    ),
    "torchvision/vgg19_bn": _network(
        "VGG19(BN)", "imagenet", (19_632_062_464, 17_658_740_736, 896_000, 10_328_321_024)
    ),
    "torchvision/resnet18": _network("ResNet18", "imagenet", (1_814_073_344, 1_402_519_552, 123_564_032, 907_112_448)),
    "torchvision/resnet50": _network(
        "ResNet50", "imagenet", (4_089_184_256, 3_277_897_728, 291_946_496, 12_828_721_152), (128, 979_156_992)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table.

    Attributes:
        table: table1 to table4.
        row: our name of the network.
        label: the paper's.
        method: our name of the method.
        output: the network's own output, or the ensemble with its exits.
        value: percent.
        quoted: percent; what the paper quotes beside it, in parentheses, from Be Your Own Teacher (ICCV 2019).
    """

    table: str
    row: str
    label: str
    method: str
    output: Output
    value: float
    quoted: float | None = None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper.

    Attributes:
        title: what it compares.
        data: what its networks are trained on.
        rows: our names of its networks, in the paper's order.
        methods: ours, from the baseline on; `dsn` belongs to the comparison where the paper has no number for it too.
        cells: its numbers.
        candidates: network -> row: another network that may be the one in that row.
    """

    title: str
    data: Data
    rows: tuple[str, ...]
    methods: tuple[str, ...]
    cells: tuple[Cell, ...]
    candidates: Mapping[str, str]


_Column = tuple[str, Output]
_BASELINE: _Column = ("plain", "final")
_SD: tuple[_Column, _Column] = (("self_distillation", "final"), ("self_distillation", "ensemble"))
_MD: tuple[_Column, _Column] = (("metadistiller", "final"), ("metadistiller", "ensemble"))
_DSN: tuple[_Column, _Column] = (("dsn", "final"), ("dsn", "ensemble"))


def _table(
    name: str,
    title: str,
    methods: Sequence[str],
    columns: Sequence[_Column],
    numbers: Mapping[str, Sequence[float]],
    *,
    quoted: Mapping[str, Sequence[float]] | None = None,
    candidates: Mapping[str, str] | None = None,
) -> Table:
    """`numbers` and `quoted` have a row's numbers in the order of `columns`; `quoted` may end before the columns do."""
    cells = []
    for row, values in numbers.items():
        others = [*(quoted or {}).get(row, ()), *(None for _ in columns)]
        for (method, output), value, other in zip(columns, values, others, strict=False):
            label = NETWORKS[row].label
            cells.append(
                Cell(table=name, row=row, label=label, method=method, output=output, value=value, quoted=other)
            )
    assert len(cells) == len(columns) * len(numbers)
    return Table(
        title=title,
        data=NETWORKS[next(iter(numbers))].data,
        rows=tuple(numbers),
        methods=tuple(methods),
        cells=tuple(cells),
        candidates=candidates or {},
    )


_SELF_BOOSTING = ("plain", "dsn", "self_distillation", "metadistiller")

TABLES: Mapping[str, Table] = {
    "table1": _table(
        "table1",
        "CIFAR-100, eight networks",
        _SELF_BOOSTING,
        (_BASELINE, *_SD, *_MD),
        {
            "resnet18": (77.31, 78.25, 79.32, 79.05, 80.05),
            "resnet50": (77.78, 79.71, 80.38, 80.85, 81.41),
            "resnet101": (78.92, 80.92, 81.55, 81.39, 81.98),
            "resnext29_2": (77.78, 79.43, 80.14, 80.38, 80.89),
            "wrn16_1": (67.58, 69.42, 70.17, 70.30, 70.81),
            "vgg19_bn": (71.61, 74.27, 75.01, 75.12, 75.93),
            "mobilenet_v2": (71.81, 74.46, 75.33, 75.37, 75.96),
            "shufflenet_v2": (68.12, 69.89, 70.71, 70.66, 71.29),
        },
        quoted={
            "resnet18": (77.09, 78.64, 79.67),
            "resnet50": (77.68, 80.56, 81.04),
            "resnet101": (77.98, 81.23, 82.03),
            "vgg19_bn": (64.47, 67.73, 68.54),
        },
        # Its baseline lies below every published figure of the full width.
        candidates={"shufflenet_v2_x0_5": "shufflenet_v2"},
    ),
    "table2": _table(
        "table2",
        "ImageNet, three networks",
        _SELF_BOOSTING,
        (_BASELINE, *_SD, *_MD),
        {
            "torchvision/vgg19_bn": (70.35, 72.45, 73.03, 73.40, 73.98),
            "torchvision/resnet18": (68.12, 69.84, 68.93, 70.52, 69.82),
            "torchvision/resnet50": (73.56, 75.24, 74.73, 76.11, 75.59),
        },
    ),
    "table3": _table(
        "table3",
        "CIFAR-100, two-stage distillation with a ResNet152",
        ("plain", "kd", "fitnet", "attention_transfer", "dml", "metadistiller"),
        (
            _BASELINE,
            ("kd", "final"),
            ("fitnet", "final"),
            ("attention_transfer", "final"),
            ("dml", "final"),
            ("metadistiller", "final"),
        ),
        {
            "resnet18": (77.31, 77.98, 78.41, 78.81, 77.72, 79.05),
            "resnet50": (77.78, 79.39, 80.20, 79.47, 78.45, 80.85),
        },
    ),
    "table4": _table(
        "table4",
        "CIFAR-100, what the exits learn from",
        ("dsn", "self_distillation", "metadistiller"),
        (*_DSN, *_SD, *_MD),
        {
            "resnet18": (78.01, 79.18, 78.25, 79.32, 79.05, 80.05),
            "resnet50": (79.33, 80.04, 79.71, 80.38, 80.85, 81.41),
            "resnet101": (80.54, 81.29, 80.92, 81.55, 81.39, 81.98),
        },
    ),
}

# Variants of the method to take apart what helps: options of `metadistiller` that differ from the recipe's.
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "targets: labels": {"targets": "labels"},
    "targets: frozen": {"targets": "frozen"},
    "targets: uniform": {"targets": "uniform"},
    "held-out loss: all outputs": {"heldout": "all"},
    "M = 1": {"meta_every_epochs": 1},
    "M = 10": {"meta_every_epochs": 10},
    "alpha = 0.3": {"alpha": 0.3},
    "alpha = 0.7": {"alpha": 0.7},
    "tau = 2": {"temperature": 2.0},
    "tau = 4": {"temperature": 4.0},
}


def run_name(network: str, method: str) -> str:
    """What the recipe of a network and a method is called."""
    return f"{NETWORKS[network].data}_{network.removeprefix('torchvision/')}_{method}"


def recipe_name(table: str, row: str, method: str) -> str:
    """The recipe behind a place in a table; a candidate counts as a row. Raises: UnknownName."""
    _place(table, row, method)
    return run_name(row, method)


def cells(table: str, row: str, method: str) -> list[Cell]:
    """The numbers in a place of a table, the final output's first; none where the paper is silent.

    A candidate has the numbers of the row that it may be.

    Raises: UnknownName.
    """
    found = _place(table, row, method)
    row = found.candidates.get(row, row)
    return [cell for cell in found.cells if (cell.row, cell.method) == (row, method)]


def _place(table: str, row: str, method: str) -> Table:
    if table not in TABLES:
        raise UnknownName("table", table, TABLES)
    found = TABLES[table]
    rows = (*found.rows, *found.candidates)
    if row not in rows:
        raise UnknownName(f"row of {table}", row, rows)
    if method not in found.methods:
        raise UnknownName(f"method of {table}", method, found.methods)
    return found
