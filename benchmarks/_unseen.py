"""Training images that a run with a part of the training set leaves out."""

import torch

from metadistiller.data import ImageSet


def unseen(whole: ImageSet, used: ImageSet) -> ImageSet:
    """Those of whole, in its order, whose pixels are no image's of used."""
    known = {image.numpy().tobytes() for image in used.images}
    rest = torch.tensor([image.numpy().tobytes() not in known for image in whole.images])
    return ImageSet(whole.images[rest], whole.labels[rest])
