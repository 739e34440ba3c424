"""Inputs of a training stage: images in memory or on disk, frozen features, and augmented copies of either."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from xaitune.data.dataset import ImageData
from xaitune.models.predict import Predictor
from xaitune.training.augment import Augmenter, View

T = TypeVar("T")
PREDICT_BATCH = 64
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


def read_rows(inputs: Any, rows: np.ndarray) -> np.ndarray:
    """The inputs at `rows`; images as float32, features in the precision in which they are cached."""
    batch = np.asarray(inputs[rows])
    return batch.astype(np.float32) if batch.dtype == np.uint8 else batch


def read_ahead(read: Callable[[int], T], count: int) -> Iterator[T]:
    """Yield `read` of 0, 1, ..; a thread reads each one while the one before is in use, so no step waits for the disk."""
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, 0)
        for number in range(1, count):
            ready, pending = pending.result(), reader.submit(read, number)
            yield ready
        yield pending.result()


def in_batches(inputs: Any, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, the inputs at these rows) for one batch after another."""
    batches = [rows[i : i + PREDICT_BATCH] for i in range(0, len(rows), PREDICT_BATCH)]
    yield from zip(batches, read_ahead(lambda i: read_rows(inputs, batches[i]), len(batches)), strict=True)


class AugmentedImages:
    """Training images, augmented anew in every step; `prefix`: the frozen layers they must then pass, if any."""

    def __init__(self, images: Any, augmenter: Augmenter, key: Sequence[int], prefix: Predictor | None) -> None:
        self.images, self.augmenter, self.key, self.prefix = images, augmenter, list(key), prefix

    def read(self, rows: np.ndarray, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The data set's `rows`, augmented for this epoch and step, and in a segmentation their pixel classes."""
        key = [*self.key, epoch, step]
        return self.augmenter(self.images[rows], rows, key), self.augmenter.move_labels(rows, key)


class AugmentedViews:
    """Augmented copies of the training images, one for each epoch in turn: images that must pass `prefix`, or features.

    `views`: the copies. `features`: for each of them its features by position among the training images, or none. `rows`: the
    data set's rows of the training images.
    """

    def __init__(
        self, views: Sequence[View], rows: np.ndarray, prefix: Predictor | None, features: Sequence[np.ndarray] = ()
    ) -> None:
        self.views, self.features, self.prefix = views, features, prefix
        self.position_of_row = np.full(int(rows.max()) + 1, -1)
        self.position_of_row[rows] = np.arange(len(rows))

    def read(self, rows: np.ndarray, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The copies of the data set's `rows` for this epoch, and in a segmentation their pixel classes."""
        number, positions = epoch % len(self.views), self.position_of_row[rows]
        view = self.views[number]
        images = np.asarray(self.features[number][positions]) if self.features else view.load(positions)
        return images, view.move_labels(positions)
