"""Inputs of a training stage: images in memory or on disk, frozen features, and augmented copies of either."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xaitune.data.dataset import ImageData
from xaitune.models.predict import Predictor
from xaitune.training.augment import Augmenter, View

IN_MEMORY_BYTES = 4e9  # larger sets of images are read from disk batch by batch


class ImagesOnDisk:
    """Images that are read from disk batch by batch, for data sets that do not fit into memory."""

    def __init__(self, data: ImageData) -> None:
        self.data = data

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.data.load(rows)


def all_images(data: ImageData) -> np.ndarray | ImagesOnDisk:
    """All images of a data set, indexed by row: in memory if they take at most IN_MEMORY_BYTES."""
    height, width = data.image_size
    if len(data.files) * height * width * 3 > IN_MEMORY_BYTES:
        return ImagesOnDisk(data)
    return data.load()


class AugmentedImages:
    """Training images, augmented anew in every step; `prefix`: the frozen layers they must then pass, if any."""

    def __init__(self, images: Any, augmenter: Augmenter, key: Sequence[int], prefix: Predictor | None) -> None:
        self.images, self.augmenter, self.key, self.prefix = images, augmenter, list(key), prefix

    def read(self, rows: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The data set's `rows`, augmented for this epoch and step."""
        return self.augmenter(self.images[rows], rows, [*self.key, epoch, step])


class AugmentedViews:
    """Augmented copies of the training images, one for each epoch in turn: images that must pass `prefix`, or features.

    `views`: for each copy, its images or features by position among the training images. `rows`: the data set's rows
    of the training images.
    """

    def __init__(
        self, views: Sequence[View] | Sequence[np.ndarray], rows: np.ndarray, prefix: Predictor | None
    ) -> None:
        self.views, self.prefix = views, prefix
        self.position_of_row = np.full(int(rows.max()) + 1, -1)
        self.position_of_row[rows] = np.arange(len(rows))

    def read(self, rows: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The copies of the data set's `rows` for this epoch."""
        view = self.views[epoch % len(self.views)]
        positions = self.position_of_row[rows]
        return view.load(positions) if isinstance(view, View) else np.asarray(view[positions])
