"""Training images changed at random with Keras's layers: the same for the same key, whatever was drawn before."""

from typing import Any

import numpy as np

from xaitune.config import AUGMENTATIONS, TrainConfig
from xaitune.data import ImageData
from xaitune.device import keras
from xaitune.errors import ConfigError, nearest


class Augmenter:
    """The changes of a configuration: images (n, h, w, 3) in 0..255 -> float32 of the same shape and range.

    Only images of `augment_classes` are changed where these are named. Raises ConfigError for a class that `data`
    lacks.
    """

    def __init__(self, data: ImageData, config: TrainConfig) -> None:
        names = (config.augmentation or "").split(",")
        kinds = [AUGMENTATIONS[name] for name in names]
        self.layers = [getattr(keras.layers, kind)(**options) for kind, options in kinds]
        wanted = config.augment_classes.split(",") if config.augment_classes else list(data.class_names)
        for name in wanted:
            if name not in data.class_names:
                raise ConfigError(
                    f"augment_classes must be classes of the data ({', '.join(data.class_names)}). "
                    f"Received: {name}.{nearest(name, data.class_names)}"
                )
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

    An image's copy depends on nothing but its row, the seed and the view.
    """

    def __init__(self, data: ImageData, config: TrainConfig, view: int) -> None:
        self.data, self.augmenter, self.key = data, Augmenter(data, config), [config.seed, view]
        self.rows = data.indices("train")
        self.config, self.image_size = data.config, data.image_size
        self.files = [data.files[row] for row in self.rows]
        what = f"{config.augmentation} {config.augment_classes} {self.key} {data.labels[self.rows].tolist()}"
        self.digests = [*(data.digests[row] for row in self.rows), what]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, places: np.ndarray) -> np.ndarray:
        """The copies of the training images at these places among the training images."""
        rows = self.rows[np.asarray(places)]
        images = self.data.load(rows)
        each = zip(images, rows, strict=True)
        return np.stack([self.augmenter(image[None], np.array([row]), [*self.key, int(row)])[0] for image, row in each])
