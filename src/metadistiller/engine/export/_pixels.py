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
    """Logits of pixels.

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

    def forward(self, images: Tensor) -> Tensor:
        """(N, C); images (N, 3, H, W) uint8."""
        # The same operations in the same order as data.normalised, so that the logits are the trained network's.
        logits: Tensor = self.network((images.float() / 255 - self.mean) / self.std)
        return logits


def traced(network: nn.Module, header: Mapping[str, Any]) -> torch.export.ExportedProgram:
    """The program of `network`, for any number of images of the header's size.

    Args:
        network: on the processor, in evaluation mode.
    """
    height, width = header["size"]
    # Two images: a batch of one would be taken for the only batch there can be.
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    many = torch.export.Dim("N", min=1)
    program = torch.export.export(FromPixels(network, header).eval(), (images,), dynamic_shapes={"images": {0: many}})
    # Where the code lies on the machine that exports is nobody's business.
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    # Example images would be written as a pickle; without them the file has none.
    program.example_inputs = None
    return program
