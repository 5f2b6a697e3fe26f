"""Networks by name.

A family is one public module (see _base.py for the contract).
"""

from ._adapter import Adapter, adapt, image_size
from ._base import Backbone, ExitDesign, StageShape, initialise, stage_shapes
from ._discovery import Found, discover
from ._phantom import floating_parameter, on_phantom

__all__ = [
    "Adapter",
    "Backbone",
    "ExitDesign",
    "Found",
    "StageShape",
    "adapt",
    "discover",
    "floating_parameter",
    "image_size",
    "initialise",
    "on_phantom",
    "stage_shapes",
]
