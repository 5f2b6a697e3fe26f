"""The ONNX graph with weights and activations as whole numbers of 8 bits: smaller, often faster, seldom as accurate.

Static quantisation after training: the range of each activation is the one it has on training images.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data import Dataset, LabelledImages
from ...errors import ExportError
from . import onnx_graph
from ._format import Opened
from ._pixels import INPUT
from ._proof import chosen


@dataclass(frozen=True)
class Quantised:
    """A quantised network.

    Attributes:
        path: the file.
        accuracy: percent of `count` test images that it answers rightly.
        float_accuracy: the same of the graph that it was made from.
        same: percent of them to which both say the same class.
        count: test images.
        calibration: training images whose activations set the ranges.
    """

    path: Path
    accuracy: float
    float_accuracy: float
    same: float
    count: int
    calibration: int


class _Reader:
    """Pixels of training images, as onnxruntime.quantization asks for them."""

    def __init__(self, images: LabelledImages, batch_size: int) -> None:
        self._batches: Iterator[tuple[Tensor, Tensor]] = images.batches(batch_size)

    def get_next(self) -> dict[str, Any] | None:
        for pixels, _ in self._batches:
            return {INPUT: pixels.numpy()}
        return None


def quantise_network(
    source: Path, path: Path, *, dataset: Dataset, calibration: int = 512, count: int = 1000
) -> Quantised:
    """Write the quantised form of the graph in `source`; its header says what that did to the accuracy.

    Its accuracy is told and not judged: an older file is replaced, however low it is.

    Args:
        calibration: training images that set the ranges, at most; shown as evaluation shows them, without augmentation.
        count: test images on which both are compared, at most.
    Raises: ExportError where the graph cannot be quantised.
    """
    shown = chosen(dataset.train, calibration)
    with tempfile.TemporaryDirectory() as folder:
        # It would keep the whole of it in memory otherwise, and has no way to take bytes.
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        try:
            _quantise(source, prepared, quantised, shown)
            made = onnx_graph.open_graph(quantised)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ExportError(
                f"{source} cannot be quantised ({type(error).__name__}: {reason}); it is there without --int8"
            ) from error
        found = _compared(onnx_graph.open_graph(source), made, path, dataset, count, len(shown))
        header = {
            **made.header,
            "quantisation": {
                "type": "int8",
                "calibration_images": found.calibration,
                "test_images": found.count,
                "accuracy": found.accuracy,
                "float_accuracy": found.float_accuracy,
            },
        }
        import onnx

        onnx_graph.write_model(onnx.load(quantised), path, header)
    return found


def _quantise(source: Path, prepared: Path, quantised: Path, shown: LabelledImages) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with onnx_graph.silent():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            _Reader(shown, 32),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Signed both: what ONNX Runtime has its fastest kernels for on processors of today.
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def _compared(whole: Opened, made: Opened, path: Path, dataset: Dataset, count: int, calibration: int) -> Quantised:
    images = chosen(dataset.test, count)
    right, before, same = 0, 0, 0
    for pixels, labels in images.batches(250):
        answers, references = made.answers(pixels)[-1].argmax(1), whole.answers(pixels)[-1].argmax(1)
        right += int((answers == labels).sum())
        before += int((references == labels).sum())
        same += int((answers == references).sum())
    share = 100 / len(images)
    return Quantised(path, share * right, share * before, share * same, len(images), calibration)
