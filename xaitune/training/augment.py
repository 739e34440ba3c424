"""Training images changed at random with Keras's layers: the same for the same key, whatever was drawn before."""

from typing import Any

import numpy as np

from xaitune.config.choices import AUGMENTATIONS
from xaitune.config.schema import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.backend import BACKEND, keras


class Augmenter:
    """The changes of a configuration: images (n, h, w, 3) in 0..255 -> float32 of the same shape and range.

    Only images of `augment_classes` are changed where these are named. Raises ConfigError for a class that `data`
    lacks.
    """

    def __init__(self, data: ImageData, config: TrainConfig) -> None:
        names = (config.augmentation or "").split(",")
        kinds = [AUGMENTATIONS[name] for name in names]
        self.layers = [getattr(keras.layers, kind)(**options) for kind, options in kinds]
        wanted = config.classes_to_augment or data.class_names
        data.require_classes(wanted, "augment_classes")
        self.chosen = np.isin(np.array(data.class_names), wanted)  # (classes,)
        self.labels = data.labels

    def __call__(self, images: np.ndarray, rows: np.ndarray, key: list[int]) -> np.ndarray:
        """Images of the data set's `rows`, changed as `key` says."""
        made = np.array(images, np.float32)
        changed = np.flatnonzero(self.chosen[self.labels[rows]])
        if len(changed) == 0:
            return made
        batch: Any = made[changed]
        for number, layer in enumerate(self.layers):
            state = np.random.default_rng([*key, number]).integers(0, 2**31, 2, dtype=np.uint32)
            layer.generator.state.assign(state)
            batch = layer(batch, training=True)
        made[changed] = np.clip(keras.ops.convert_to_numpy(batch), 0, 255)
        return made


class View:
    """One changed copy of every training image, drawn from (seed, view): what `FeatureCache` asks of a data set.

    An image's copy depends on nothing but its place among the training images, the seed and the view.
    """

    def __init__(self, data: ImageData, config: TrainConfig, view: int) -> None:
        self.data, self.augmenter, self.key = data, Augmenter(data, config), [config.seed, view]
        self.rows = data.indices("train")
        self.config, self.image_size = data.config, data.image_size
        self.files = [data.files[row] for row in self.rows]
        how = {name: AUGMENTATIONS[name] for name in (config.augmentation or "").split(",")}
        what = f"{how} {config.augment_classes} {self.key} {data.labels[self.rows].tolist()} {BACKEND}"
        self.digests = [*(data.digests[row] for row in self.rows), what]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, places: np.ndarray) -> np.ndarray:
        """The copies of the training images at these places among the training images."""
        rows = self.rows[np.asarray(places)]
        each = zip(self.data.load(rows), rows, np.asarray(places), strict=True)
        return np.stack(
            [self.augmenter(i[None], np.array([row]), [*self.key, int(place)])[0] for i, row, place in each]
        )
