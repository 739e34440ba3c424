"""The probe: the model whose heatmaps the advice is based on."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaitune.config.settings import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.errors import ConfigError, DataError
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.models import blocks, vgg, weights
from xaitune.models.backend import keras
from xaitune.models.precision import resolve_precision
from xaitune.stats.segmentation import largest_class
from xaitune.training.features import FeatureCache
from xaitune.training.folder import is_finished
from xaitune.training.head import set_head, trained_head
from xaitune.training.network import Network
from xaitune.training.run import load_run
from xaitune.training.targets import class_names

BLOCK_NUMBERS = (1, 2, 3, 4, 5)
MASKED_IMAGES = 120  # maximum number of validation images with a mask
MIN_IMAGES = 5  # minimum number of images for insertion and deletion
STEPS = 5  # of insertion and deletion: more images tell more than finer curves
MAP_CALLS = 6  # per image: forward and backward, for its own maps and those of its two changed copies


def masks_digest(data: ImageData) -> str | None:
    """12 hex digits over the masks of the validation images, so that corrected masks lead to new advice."""
    if data.masks is None:
        return None
    digest = hashlib.sha256()
    for row in data.indices("validation"):
        path = data.masks[row]
        digest.update(path.read_bytes() if path else b"-")
    return digest.hexdigest()[:12]


class Probe:
    """The model to be explained: fully frozen VGG16 with one trained head per seed, or a given model as it is."""

    def __init__(self, data: ImageData, config: TrainConfig, model: Any, head_seeds: int, cache: FeatureCache) -> None:
        self.data, self.head_epochs = data, config.head_epochs + config.epochs
        self.config = replace_fields(config, {"freeze_through": 5, "head_epochs": self.head_epochs})
        self.cache = cache
        self.trains = model is None
        self.seeds = tuple(range(head_seeds)) if self.trains else (0,)
        self.explained: str | None = None  # name of the given model
        if model is None:
            self.backbone = weights.load_backbone(config.weights, config.architecture)
            self.weights = self.backbone.digest
            self.classifier = Classifier(self._new_model(config.seed), data.class_names, data.config.resize, "probe")
        else:
            self.classifier = open_classifier(model)
            names = class_names(data, config)
            if self.classifier.class_names != names or self.classifier.image_size != tuple(data.image_size):
                raise DataError(
                    f"The model's classes or its input size {self.classifier.image_size} do not match the data "
                    f"({', '.join(names)}; {data.image_size}). Use the data that the model was trained on."
                )
            self.weights, self.explained = _base_weights(self.classifier), self.classifier.name

    @property
    def task(self) -> str:
        """What the explained model does, of config.choices.TASKS."""
        return "classify" if self.classifier.segmenter is None else "segment"

    def true_classes(self, rows: np.ndarray) -> np.ndarray:
        """The true class numbers (n,) of some images; of a segmentation those of their largest regions, background for none."""
        if self.classifier.segmenter is None:
            return self.data.labels[rows]
        return largest_class(labels_of_pixels(self.data).counts[rows])

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of Block 1 to 5."""
        blocks.architecture_of(self.classifier.model)
        return blocks.block_channels(self.classifier.model)

    def _new_model(self, seed: int) -> keras.Model:
        """VGG16 with the pretrained backbone and a head initialised from `seed`."""
        return vgg.build_vgg16(
            len(self.data.class_names),
            image_size=self.data.image_size,
            head=self.config.head,
            weights=self.backbone,
            seed=seed,
        )

    def use(self, seed: int, report: Callable[[str], None]) -> None:
        """Give the model the head of a seed, initialised and trained with that seed; a given model stays as it is."""
        if not self.trains:
            return
        initial = self._new_model(seed)
        for layer in self.classifier.model.layers:
            if isinstance(layer, keras.layers.Dense):
                layer.set_weights(initial.get_layer(layer.name).get_weights())
        config = replace_fields(self.config, {"seed": seed})
        precision, _ = resolve_precision(config.precision)
        head = trained_head(Network(self.classifier.model, precision), self.data, config, self.cache, report)
        set_head(self.classifier.model, head)


def _base_weights(classifier: Classifier) -> str:
    """The digest of the pretrained weights that a run started from; for any other model its name."""
    path = Path(classifier.name)
    folder = path if path.is_dir() else path.parent
    return str(load_run(folder).metadata["weights_digest"]) if is_finished(folder) else classifier.name


def image_limits(data: ImageData, channels: Sequence[int], seeds: int, max_calls: int | None) -> tuple[int, int]:
    """(images without masks, images with masks) that can be measured with at most `max_calls` network calls.

    The default budget is about 3e13 multiply-adds, but at least 2,400 and at most 8,000 calls. Raises ConfigError if the
    budget does not cover MIN_IMAGES.
    """
    if max_calls is None:
        per_image = sum(blocks.multiply_adds(data.image_size, channels).values())
        max_calls = int(np.clip(3e13 / per_image, 2400, 8000))
    # Per image: the calls for its maps, its two ends, and the steps in between, for ten maps (a real one and a moved one
    # per block), both for insertion and for deletion.
    per_image_calls = seeds * (MAP_CALLS + 2 + 2 * len(BLOCK_NUMBERS) * 2 * (STEPS - 1))
    if max_calls < MIN_IMAGES * per_image_calls:
        raise ConfigError(
            f"max_calls must be at least {MIN_IMAGES * per_image_calls}, for {MIN_IMAGES} images with {seeds} head "
            f"seeds. Received: max_calls={max_calls}."
        )
    return max_calls // per_image_calls, min(MASKED_IMAGES, max_calls // (seeds * MAP_CALLS))
