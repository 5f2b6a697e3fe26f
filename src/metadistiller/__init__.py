"""MetaDistiller: more accurate image classifiers at no cost at inference.

    import metadistiller
    config = metadistiller.recipe("digits")
    trained = metadistiller.train(config, "runs/a")

    boosted = metadistiller.boost(model)    # any network, in a loop of one's own

Importing the package does not import torch; the first use of a name that needs it does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .config import Choice, Config, Optim
from .recipes import recipe

if TYPE_CHECKING:
    from .assemble import Trained, evaluate_run, figure3, resume, train
    from .boosting import Boosted, boost
    from .calibrating import Calibrated, calibrate
    from .checking import Checked, check
    from .engine.early_exit import EarlyExitClassifier, load_early_exit
    from .engine.export import load_network
    from .exporting import Exported, export
    from .inspection import inspect
    from .prediction import predict
    from .pushing import push

__all__ = [
    "Boosted",
    "Calibrated",
    "Checked",
    "Choice",
    "Config",
    "EarlyExitClassifier",
    "Exported",
    "Optim",
    "Trained",
    "__version__",
    "boost",
    "calibrate",
    "check",
    "evaluate_run",
    "export",
    "figure3",
    "inspect",
    "load_early_exit",
    "load_network",
    "predict",
    "push",
    "recipe",
    "resume",
    "train",
]

_HOME = {
    "Boosted": "boosting",
    "Calibrated": "calibrating",
    "Checked": "checking",
    "EarlyExitClassifier": "engine.early_exit",
    "Exported": "exporting",
    "Trained": "assemble",
    "boost": "boosting",
    "calibrate": "calibrating",
    "check": "checking",
    "evaluate_run": "assemble",
    "export": "exporting",
    "figure3": "assemble",
    "inspect": "inspection",
    "load_early_exit": "engine.early_exit",
    "load_network": "engine.export",
    "predict": "prediction",
    "push": "pushing",
    "resume": "assemble",
    "train": "assemble",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
