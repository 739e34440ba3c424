"""What a stage of training reads: images in memory or on disk, frozen features, and augmented copies of either."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xaitune.data.dataset import ImageData
from xaitune.models.predict import Predictor
from xaitune.training.augment import Augmenter, View

IN_MEMORY_BYTES = 4e9  # images above that are read from disk batch by batch


class ImagesOnDisk:
    """Images that are read when a batch asks for them: for sets that do not fit into memory."""

    def __init__(self, data: ImageData) -> None:
        self.data = data

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.data.load(rows)


def all_images(data: ImageData) -> np.ndarray | ImagesOnDisk:
    """The images of a data set by row: in memory where they fit IN_MEMORY_BYTES."""
    height, width = data.image_size
    if len(data.files) * height * width * 3 > IN_MEMORY_BYTES:
        return ImagesOnDisk(data)
    return data.load()


class AugmentedImages:
    """Training images augmented anew in every step, passed through the frozen `prefix` where there is one."""

    def __init__(self, images: Any, augmenter: Augmenter, key: Sequence[int], prefix: Predictor | None) -> None:
        self.images, self.augmenter, self.key, self.prefix = images, augmenter, list(key), prefix

    def read(self, rows: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The images of the data set's `rows` in that epoch and step."""
        return self.augmenter(self.images[rows], rows, [*self.key, epoch, step])


class AugmentedViews:
    """Augmented copies of the training images, taken in turn by epoch: as images that pass `prefix`, or as its features.

    `views`: what holds each copy, by place among the training images; `rows`: those of the training images.
    """

    def __init__(
        self, views: Sequence[View] | Sequence[np.ndarray], rows: np.ndarray, prefix: Predictor | None
    ) -> None:
        self.views, self.prefix = views, prefix
        self.place = np.full(int(rows.max()) + 1, -1)
        self.place[rows] = np.arange(len(rows))

    def read(self, rows: np.ndarray, epoch: int, step: int) -> np.ndarray:
        """The copies of the data set's `rows` in that epoch."""
        view = self.views[epoch % len(self.views)]
        places = self.place[rows]
        return view.load(places) if isinstance(view, View) else np.asarray(view[places])
