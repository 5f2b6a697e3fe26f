"""The network with its normalisation before it, as the formats that carry a graph have it.

Their input is what a picture decodes to, uint8 from 0 to 255: a user cannot forget the normalisation, do it twice, or
do it for pixels of 0..1, since floating-point numbers are refused.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

INPUT, OUTPUT = "images", "logits"
DESCRIPTION = {"name": INPUT, "type": "uint8", "shape": ["N", 3, "H", "W"], "values": "RGB, 0 to 255, not normalised"}


class FromPixels(nn.Module):
    """A network of pixels.

    Attributes:
        network: takes normalised images.
        mean, std: (3, 1, 1), in units of 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, header: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(header[name])[:, None, None], persistent=True)

    def forward(self, images: Tensor) -> Any:
        """What the network gives; images (N, 3, H, W) uint8."""
        # The same operations in the same order as data.normalised, so that the logits are the trained network's.
        return self.network((images.float() / 255 - self.mean) / self.std)


def traced(module: nn.Module, header: Mapping[str, Any], example: Tensor | None = None) -> torch.export.ExportedProgram:
    """The program of `module` for any number of rows.

    Args:
        module: on the processor; of one tensor.
        example: two rows of what it takes; None for images of the header's size.
    """
    if example is None:
        height, width = header["size"]
        example = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    # Two rows: a batch of one would be taken for the only batch there can be.
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("N", min=1)},))
    # Where the code lies on the machine that exports is nobody's business.
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)
    # Example images would be written as a pickle; without them the file has none.
    program.example_inputs = None
    return program
