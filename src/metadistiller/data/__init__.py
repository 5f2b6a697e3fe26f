"""Data sets, their order and their augmentation.

A source is one public module (see _base.py for the contract); the private ones hold what all sources share.
"""

from ._augment import TrainingImages, evaluation_images, normalised
from ._base import Augment, Dataset, LabelledImages, TrainingView
from ._class_folders import SUFFIXES, unread
from ._files import new_threads
from ._listing import Listing, Part
from ._mixing import AugmentedView, Mixing, augmented, class_weights
from ._order import rank_slice, seeded
from ._pictures import Look, look_at, look_of
from ._preparation import Preparation
from ._resident import ImageSet
from ._streams import Batch, Batches, Disjoint, Halves, Slice, Stream, Train, share_of, total_of

__all__ = [
    "SUFFIXES",
    "Augment",
    "AugmentedView",
    "Batch",
    "Batches",
    "Dataset",
    "Disjoint",
    "Halves",
    "ImageSet",
    "LabelledImages",
    "Listing",
    "Look",
    "Mixing",
    "Part",
    "Preparation",
    "Slice",
    "Stream",
    "Train",
    "TrainingImages",
    "TrainingView",
    "augmented",
    "class_weights",
    "evaluation_images",
    "look_at",
    "look_of",
    "new_threads",
    "normalised",
    "rank_slice",
    "seeded",
    "share_of",
    "total_of",
    "unread",
]
