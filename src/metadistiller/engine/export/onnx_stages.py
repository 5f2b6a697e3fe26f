"""A folder of ONNX graphs, one a stage, and early_exit.json: images that an exit is certain of go no further.

Stage k takes what stage k - 1 hands on, the first one pixels, and gives what it hands on and the logits of its exit
S_k; the last gives logits alone. early_exit.json says which files these are, with their SHA-256, by which files of two
exports are told apart that a crash has brought together, and from which probability an exit answers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, ConfigError
from ...methods import Method
from ...nn import MultiExit
from ...outcomes.policy import Policy, uniform
from ...records import file_sha256, read_json, write_json
from ._format import Format, Opened
from ._header import described
from ._pixels import DESCRIPTION, INPUT, OUTPUT, FromPixels, traced
from .onnx_graph import Graph, Shape, converted, load_graph, require, write_model

TABLE = "early_exit.json"
MAPS, ONWARD = "maps", "onward"
THRESHOLD = 0.9  # of every exit where no run was calibrated


class _Stage(nn.Module):
    """Stage k of K, k from 1, with its exit; of normalised images, or of what stage k - 1 hands on.

    The whole network is traced for it, on blank images, with what is handed to stage k put in its place: what only the
    other stages need has no way to an output then, and falls away as dead code. So no network has to be cut.
    """

    def __init__(self, student: MultiExit, k: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.student, self.k, self.size = student, k, size

    def forward(self, rows: Tensor) -> list[Tensor]:
        backbone, k = self.student.backbone, self.k
        # By the shape: len() would make a constant of it.
        images = rows if k == 1 else rows.new_zeros(rows.shape[0], backbone.in_channels, *self.size)
        ended: list[Tensor] = []

        def visit(at: int, carried: Tensor) -> Tensor:
            if at == k:
                # The pass goes on: what ends it in a network that is not ours is an exception, after which the tracer
                # takes itself to be still inside the module that raised it.
                ended.append(carried)
            return rows if at == k - 1 else carried

        logits = backbone.visited(images, visit)
        if not ended:
            assert logits is not None
            return [logits]
        return [ended[0], self.student.exits[k - 1](backbone.map_of(k, ended[0], self.size))]


def _write(method: Method, path: Path, header: Mapping[str, Any]) -> None:
    student = method.multi_exit()
    if student is None:
        raise ConfigError(
            "this run's method has no early exits, so there are no stages at which an image could leave; take "
            "--format onnx, or train with a method that has them, such as metadistiller or dsn"
        )
    height, width = header["size"]
    number = student.backbone.num_stages
    path.mkdir(parents=True, exist_ok=True)
    rows = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    files = []
    for k in range(1, number + 1):
        stage: nn.Module = _Stage(student, k, (height, width))
        if k == 1:
            stage = FromPixels(stage, header)
        gives = [OUTPUT] if k == number else [ONWARD, OUTPUT]
        program = traced(stage.eval(), header, rows)
        file = path / f"stage{k}.onnx"
        said = {**header, **({"input": DESCRIPTION} if k == 1 else {}), "stage": k, "stages": number}
        write_model(converted(program, INPUT if k == 1 else MAPS, gives), file, said)
        files.append({"file": file.name, "sha256": file_sha256(file)})
        with torch.no_grad():
            rows = stage(rows)[0]
    policy = uniform(number, THRESHOLD)
    write_table(path, {**header, "input": DESCRIPTION, "stages": files}, policy)


def write_table(path: Path, header: Mapping[str, Any], policy: Policy) -> None:
    """early_exit.json of the folder `path`."""
    write_json(path / TABLE, {**header, **policy.as_dict()})


def with_policy(path: Path, policy: Policy) -> None:
    """Let the exits of a folder answer by another policy.

    Raises: ConfigError where it is of another number of outputs; CheckpointError where there is no such folder.
    """
    header = _table(path)
    policy.check_outputs(len(header["stages"]))
    write_table(path, header, policy)


def _table(path: Path) -> dict[str, Any]:
    if not (path / TABLE).is_file():
        raise CheckpointError(f"{path} is no exported network (no {TABLE} in it); check the path")
    values = read_json(path / TABLE)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path / TABLE} holds no settings; it was damaged or edited")
    return values


def _open(path: Path) -> Opened:
    header = _table(path)
    how = described(header, path / TABLE)
    try:
        files = [(str(each["file"]), str(each["sha256"])) for each in header["stages"]]
        policy = Policy.from_dict(header)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path / TABLE} is damaged ({type(error).__name__}: {error})") from None
    if len(files) < 2 or len(files) != len(policy.temperatures):
        raise CheckpointError(f"{path / TABLE} has {len(files)} stages and {len(policy.temperatures)} temperatures")
    graphs = []
    for name, digest in files:
        # A name from a file of anybody's must not lead out of its folder.
        if Path(name).name != name or not (path / name).is_file():
            raise CheckpointError(f"{path / TABLE} names {name!r}, which is no file beside it")
        if file_sha256(path / name) != digest:
            raise CheckpointError(f"{path / name} is not the file that {TABLE} speaks of; export it again")
        graphs.append(load_graph(path / name))
    logits: Shape = ("tensor(float)", [len(how.classes)])
    takes: Shape = ("tensor(uint8)", [3, *how.size])
    for (name, _), graph in zip(files, graphs, strict=True):
        last = graph is graphs[-1]
        onward = None if last else graph.gives[0]
        graph.check(path / name, [takes], [logits] if onward is None else [onward, logits])
        takes = onward or takes

    def answers(pixels: Tensor) -> list[Tensor]:
        found, rows = [], pixels
        for graph in graphs:
            *onward, logits = graph.run(rows)
            found.append(logits)
            rows = onward[0] if onward else rows
        return found

    def leaving(pixels: Tensor, threshold: float | None) -> tuple[Tensor, Tensor]:
        return _leaving(
            graphs, policy if threshold is None else uniform(len(graphs), threshold, policy.temperatures), pixels
        )

    return Opened(header, answers, leaving, len(graphs))


def _leaving(graphs: Sequence[Graph], policy: Policy, pixels: Tensor) -> tuple[Tensor, Tensor]:
    going, rows = torch.arange(len(pixels)), pixels
    answered: list[tuple[Tensor, Tensor, Tensor]] = []
    for k, (graph, temperature, threshold) in enumerate(
        zip(graphs, policy.temperatures, (*policy.thresholds, 0.0), strict=True)
    ):
        *onward, logits = graph.run(rows)
        # In float64, as thresholds were chosen: float32 rounds whatever is nearly certain to 1.
        certain = (logits.double() / temperature).softmax(1)
        leaves = torch.zeros(len(rows), dtype=torch.bool) if threshold is None else certain.amax(1) >= threshold
        shares = certain.float()
        if not onward:
            leaves = torch.ones_like(leaves)
        answered.append((going[leaves], shares[leaves], torch.full((int(leaves.sum()),), k)))
        going = going[~leaves]
        if not len(going):
            break
        rows = onward[0][~leaves]
    places, shares, outputs = (torch.cat(parts) for parts in zip(*answered, strict=True))
    order = places.argsort()
    return shares[order], outputs[order]


FORMAT = Format(name="onnx-stages", suffix="", write=_write, open=_open, shipped=_open, require=require)
