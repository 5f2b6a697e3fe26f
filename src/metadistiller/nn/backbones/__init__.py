"""Networks by name.

A family is one public module (see _base.py for the contract).
"""

from ._base import Backbone, ExitDesign, StageShape, initialise, stage_shapes
from ._bound import Bound

__all__ = ["Backbone", "Bound", "ExitDesign", "StageShape", "initialise", "stage_shapes"]
