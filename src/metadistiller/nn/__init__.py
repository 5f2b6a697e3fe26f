"""Networks that return their stages, the exits on them, and the generator of soft targets."""

from .backbones import Backbone, Bound, StageShape, stage_shapes
from .build import build_network
from .exits import BottleneckExit, LinearExit, build_exit
from .generator import LabelGenerator
from .multi_exit import MultiExit

__all__ = [
    "Backbone",
    "BottleneckExit",
    "Bound",
    "LabelGenerator",
    "LinearExit",
    "MultiExit",
    "StageShape",
    "build_exit",
    "build_network",
    "stage_shapes",
]
