"""A graph that ONNX Runtime and others run without torch; pixels in, logits out."""

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...nn import Backbone
from ...records import write_bytes
from ._format import Format, Opened
from ._header import KEY, described, parse
from ._pixels import DESCRIPTION, INPUT, OUTPUT, traced

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


def _write(network: Backbone, path: Path, header: Mapping[str, Any]) -> None:
    with silent():
        exported = torch.onnx.export(
            traced(network.plain, header),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
        )
    assert exported is not None
    model = exported.model_proto
    for part in (model.graph, *model.functions):
        for node in part.node:
            # The exporter's notes on where each operation came from, paths of this machine among them.
            del node.metadata_props[:]
    write_model(model, path, {**header, "input": DESCRIPTION})


def write_model(model: Any, path: Path, header: Mapping[str, Any]) -> None:
    """Args: model: an onnx.ModelProto; the header goes into its metadata_props."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: json.dumps(header)})
    write_bytes(path, model.SerializeToString())


def open_graph(path: Path) -> Opened:
    """On the processor, by ONNX Runtime; no network of torch is built. Raises: CheckpointError."""
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    # As many as torch would take; with one it also starts no threads of its own.
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        # As bytes: weights in other files, wherever the graph says that they are, are not read.
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        inputs, outputs = session.get_inputs(), session.get_outputs()
    # ONNX Runtime has a class for each of its error codes, which have nothing else in common.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from None
    if text is None:
        raise CheckpointError(f"{path} was not written by this package: its metadata names no network")
    header = parse(text, path)
    how = described(header, path)
    wanted = [[("tensor(uint8)", [3, *how.size])], [("tensor(float)", [len(how.classes)])]]
    found = [[(each.type, list(each.shape[1:])) for each in several] for several in (inputs, outputs)]
    if found != wanted:
        raise CheckpointError(f"{path} does not hold what its header says: {found} in and out, not {wanted}")

    def answer(pixels: Tensor) -> Tensor:
        try:
            logits = session.run(None, {inputs[0].name: pixels.numpy()})[0]
        except Exception as error:
            raise CheckpointError(f"{path} cannot be run: {' '.join(str(error).split())[:300]}") from None
        if logits.shape != (len(pixels), len(how.classes)):
            raise CheckpointError(f"{path} answers {len(pixels)} images with logits of shape {logits.shape}")
        return torch.from_numpy(logits)

    return Opened(header, answer)


FORMAT = Format(name="onnx", suffix=".onnx", write=_write, open=open_graph, shipped=open_graph, require=require)
