"""Networks by name.

A family is one public module (see _base.py for the contract).
"""

from ._base import Backbone, ExitDesign, StageShape, initialise, stage_shapes

__all__ = ["Backbone", "ExitDesign", "StageShape", "initialise", "stage_shapes"]
