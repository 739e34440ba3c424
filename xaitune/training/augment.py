"""Random augmentation of training images by Keras's layers, determined by a key alone and not by earlier draws."""

from typing import Any

import numpy as np

from xaitune.config.choices import AUGMENTATIONS
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.models.backend import BACKEND, keras

MOVES = frozenset({"RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation"})  # masks move with the images
COLOURS = frozenset({"RandomBrightness", "RandomContrast"})


class Augmenter:
    """The augmentation of a configuration: images (n, h, w, 3) in 0..255 -> float32 of the same shape and range.

    If the configuration has `augment_classes`, only images of these classes are changed, and with `balance_by_augmentation`
    those of all classes but the most frequent one. Raises ConfigError for a class that `data` lacks.
    """

    def __init__(self, data: ImageData, config: TrainConfig) -> None:
        names = (config.augmentation or "").split(",")
        kinds = [AUGMENTATIONS[name] for name in names]
        self.layers = [getattr(keras.layers, kind)(**options) for kind, options in kinds]
        classes = config.classes_to_augment or data.class_names
        data.require_classes({"augment_classes": classes})
        self.is_augmented = np.isin(np.array(data.class_names), classes)  # (classes,)
        if config.balance_by_augmentation:
            counts = np.bincount(data.labels[data.indices("train")], minlength=len(data.class_names))
            self.is_augmented = counts < counts.max()
        self.labels = data.labels
        self.pixels = labels_of_pixels(data) if config.segments else None

    def __call__(self, images: np.ndarray, rows: np.ndarray, key: list[int]) -> np.ndarray:
        """The `images`, which are the data set's `rows`, augmented as `key` determines."""
        augmented = np.array(images, np.float32)
        places = self._places(rows)
        if len(places):
            augmented[places] = np.clip(self._changed(augmented[places], key, MOVES | COLOURS), 0, 255)
        return augmented

    def move_labels(self, rows: np.ndarray, key: list[int]) -> np.ndarray | None:
        """The pixel classes (n, h, w) of `rows`, moved as the images are for this `key`; None in a classification."""
        if self.pixels is None:
            return None
        labels = self.pixels.load(rows).copy()
        places = self._places(rows)
        if len(places):
            values = np.unique(labels[places])
            one_hot = (labels[places][..., None] == values).astype(np.float32)
            labels[places] = values[self._changed(one_hot, key, MOVES).argmax(axis=-1)]
        return labels

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """The positions among `rows` of the images that are changed."""
        return np.flatnonzero(self.is_augmented[self.labels[rows]])

    def _changed(self, images: np.ndarray, key: list[int], kinds: frozenset[str]) -> np.ndarray:
        """The images changed by the layers of these `kinds`, each with the random numbers that `key` gives it."""
        batch: Any = images
        for number, layer in enumerate(self.layers):
            if type(layer).__name__ in kinds:
                state = np.random.default_rng([*key, number]).integers(0, 2**31, 2, dtype=np.uint32)
                layer.generator.state.assign(state)
                batch = layer(batch, training=True)
        return keras.ops.convert_to_numpy(batch)


def epoch_rows(data: ImageData, config: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    """The training images of an epoch, shuffled: each once, or with `balance_by_augmentation` as many of every class.

    Each image of a rarer class then comes equally often, but for a remainder that is drawn.
    """
    rows = data.indices("train")
    if config.balance_by_augmentation:
        parts = [rows[data.labels[rows] == number] for number in range(len(data.class_names))]
        most = max(len(part) for part in parts)
        drawn = [[*np.repeat(part, most // len(part)), *rng.permutation(part)[: most % len(part)]] for part in parts]
        rows = np.concatenate(drawn).astype(rows.dtype)
    return rng.permutation(rows)


class View:
    """One augmented copy of every training image, drawn from (seed, view), with what `FeatureCache` needs of a data set.

    How an image is changed depends only on its position among the training images, the seed and the view.
    """

    def __init__(self, data: ImageData, config: TrainConfig, view: int) -> None:
        self.data, self.augmenter, self.key = data, Augmenter(data, config), [config.seed, view]
        self.rows = data.indices("train")
        self._labels: np.ndarray | None = None
        self.config, self.image_size = data.config, data.image_size
        self.files = [data.files[row] for row in self.rows]
        kinds = {name: AUGMENTATIONS[name] for name in (config.augmentation or "").split(",")}
        determinants = f"{kinds} {config.augment_classes} {self.key} {data.labels[self.rows].tolist()} {BACKEND}"
        self.digests = [*(data.digests[row] for row in self.rows), determinants]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, positions: np.ndarray) -> np.ndarray:
        """The copies of the images at these positions among the training images."""
        rows = self.rows[np.asarray(positions)]
        images = zip(self.data.load(rows), rows, np.asarray(positions), strict=True)
        return np.stack(
            [self.augmenter(i[None], np.array([row]), [*self.key, int(position)])[0] for i, row, position in images]
        )

    def move_labels(self, positions: np.ndarray) -> np.ndarray | None:
        """The pixel classes of these copies; None in a classification."""
        if self.augmenter.pixels is None:
            return None
        if self._labels is None:  # every epoch with this view needs them
            places = [(np.array([row]), [*self.key, position]) for position, row in enumerate(self.rows)]
            self._labels = np.concatenate([self.augmenter.move_labels(*place) for place in places])
        return self._labels[np.asarray(positions)]
