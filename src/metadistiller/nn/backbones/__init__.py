"""Networks by name.

A family is one public module (see _base.py for the contract).
"""

from ._adapter import Adapter, adapt
from ._base import Backbone, ExitDesign, StageShape, initialise, stage_shapes
from ._bound import Bound
from ._discovery import Found, discover
from ._phantom import on_phantom

__all__ = [
    "Adapter",
    "Backbone",
    "Bound",
    "ExitDesign",
    "Found",
    "StageShape",
    "adapt",
    "discover",
    "initialise",
    "on_phantom",
    "stage_shapes",
]
