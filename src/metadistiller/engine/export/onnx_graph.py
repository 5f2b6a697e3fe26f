"""A graph that ONNX Runtime and others run without torch; pixels in, logits out."""

import importlib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...methods import Method
from ...records import write_bytes
from ..tensor_file import parse
from ._format import Format, Opened
from ._header import KEY, described
from ._pixels import DESCRIPTION, INPUT, OUTPUT, FromPixels, traced

_FATAL = 4  # of ONNX Runtime's own words; what is wrong comes as an exception too


def require(*modules: str) -> None:
    """Raises: ConfigError where one of them is not installed."""
    for name in modules or ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise ConfigError(f"ONNX needs {name}: pip install 'metadistiller[onnx]'") from None


@contextmanager
def silent() -> Iterator[None]:
    """Without the exporters' words on what they do: whether it came right is proved afterwards, on images."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write(method: Method, path: Path, header: Mapping[str, Any]) -> None:
    program = traced(FromPixels(method.deployable().plain, header), header)
    write_model(converted(program, INPUT, [OUTPUT]), path, {**header, "input": DESCRIPTION})


def converted(program: torch.export.ExportedProgram, takes: str, gives: Sequence[str]) -> Any:
    """An onnx.ModelProto with the program's weights in it, and names for what it takes and gives."""
    with silent():
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=[takes], output_names=gives, external_data=False
        )
    assert exported is not None
    model = exported.model_proto
    for part in (model.graph, *model.functions):
        for node in part.node:
            # The exporter's notes on where each operation came from, paths of this machine among them.
            del node.metadata_props[:]
    return model


def write_model(model: Any, path: Path, header: Mapping[str, Any]) -> None:
    """Args: model: an onnx.ModelProto; the header goes into its metadata_props."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: json.dumps(header)})
    write_bytes(path, model.SerializeToString())


Shape: TypeAlias = tuple[str, list[int | str | None]]  # type, and shape without the rows


@dataclass(frozen=True)
class Graph:
    """A graph that is ready to run.

    Attributes:
        header: what its metadata say.
        takes, gives: types and shapes.
        run: the one tensor that it takes -> what it gives, in order. Raises: CheckpointError.
    """

    header: dict[str, Any]
    takes: list[Shape]
    gives: list[Shape]
    run: Callable[[Tensor], list[Tensor]]

    def check(self, path: Path, takes: list[Shape], gives: list[Shape]) -> None:
        """Raises: CheckpointError where it is made for something else."""
        if (self.takes, self.gives) != (takes, gives):
            raise CheckpointError(
                f"{path} does not hold what its header says: it makes {self.gives} of {self.takes}, not {gives} of "
                f"{takes}"
            )


def load_graph(path: Path) -> Graph:
    """On the processor, by ONNX Runtime. Raises: CheckpointError; ConfigError where ONNX Runtime is missing."""
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    # As many as torch would take; with one it also starts no threads of its own.
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        # As bytes, and with nothing in the folder where weights in other files would be looked for: a graph that names
        # such files, whatever they are called, does not get them.
        with tempfile.TemporaryDirectory() as nothing:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", nothing)
            session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        takes, gives = ([(each.type, list(each.shape[1:])) for each in several] for several in (inputs, outputs))
    # ONNX Runtime has a class for each of its error codes, which have nothing else in common.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from None
    if text is None:
        raise CheckpointError(f"{path} was not written by this package: its metadata names no network")

    def run(rows: Tensor) -> list[Tensor]:
        try:
            found = [torch.from_numpy(each) for each in session.run(None, {inputs[0].name: rows.numpy()})]
        except Exception as error:
            raise CheckpointError(f"{path} cannot be run: {' '.join(str(error).split())[:300]}") from None
        if any(each.ndim < 1 or len(each) != len(rows) for each in found):
            raise CheckpointError(f"{path} answers {len(rows)} rows with {[list(each.shape) for each in found]}")
        return found

    return Graph(parse(text, path), takes, gives, run)


def open_graph(path: Path) -> Opened:
    """No network of torch is built. Raises: CheckpointError; ConfigError where ONNX Runtime is missing."""
    graph = load_graph(path)
    how = described(graph.header, path)
    graph.check(path, [("tensor(uint8)", [3, *how.size])], [("tensor(float)", [len(how.classes)])])
    return Opened(graph.header, graph.run)


FORMAT = Format(name="onnx", suffix=".onnx", write=_write, open=open_graph, shipped=open_graph, require=require)
