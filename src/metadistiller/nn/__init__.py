"""Networks that return their stages, the exits on them, and the generator of soft targets."""

from .backbones import Adapter, Backbone, Bound, ExitDesign, Found, StageShape, adapt, discover, stage_shapes
from .build import build_network
from .exits import BottleneckExit, LinearExit, build_exit
from .generator import LabelGenerator
from .multi_exit import MultiExit

__all__ = [
    "Adapter",
    "Backbone",
    "BottleneckExit",
    "Bound",
    "ExitDesign",
    "Found",
    "LabelGenerator",
    "LinearExit",
    "MultiExit",
    "StageShape",
    "adapt",
    "build_exit",
    "build_network",
    "discover",
    "stage_shapes",
]
