"""Networks that return their stages, the exits on them, and the generator of soft targets."""

from .backbones import (
    Adapter,
    Backbone,
    ExitDesign,
    Found,
    StageShape,
    adapt,
    discover,
    floating_parameter,
    image_size,
    stage_shapes,
)
from .build import build_network
from .costs import Costs, exit_costs, macs_of, plain_costs
from .exits import BottleneckExit, LinearExit, build_exit
from .generator import LabelGenerator
from .initial import body_parameters, file_weights, freeze, frozen_modules, load_initial, published_weights
from .multi_exit import MultiExit
from .synchronised import Moments, Synchronised, counting, entered

__all__ = [
    "Adapter",
    "Backbone",
    "BottleneckExit",
    "Costs",
    "ExitDesign",
    "Found",
    "LabelGenerator",
    "LinearExit",
    "Moments",
    "MultiExit",
    "StageShape",
    "Synchronised",
    "adapt",
    "body_parameters",
    "build_exit",
    "build_network",
    "counting",
    "discover",
    "entered",
    "exit_costs",
    "file_weights",
    "floating_parameter",
    "freeze",
    "frozen_modules",
    "image_size",
    "load_initial",
    "macs_of",
    "plain_costs",
    "published_weights",
    "stage_shapes",
]
