"""Class activation maps (Zhou et al. 2016) from the GAP head."""

from typing import Any

import numpy as np

from xaitune.errors import ModelError
from xaitune.explain.classifier import Images, open_classifier
from xaitune.explain.gradcam import BlockMaps, as_heatmaps, model_for_maps
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.models.backend import keras, to_array
from xaitune.models.flatten import find_stages
from xaitune.models.predict import images_at_once


def class_activation_map(
    model: Any, images: Images, *, class_name: str | None = None, precision: str = "auto"
) -> BlockHeatmaps:
    """CAM: sum_c w_c A_c, where w is the class's column of the Dense kernel and A the input of the pooling.

    `raw` is without a ReLU. The map is that of the last block, Block 5 of VGG16; with the `gap` head it equals H * W
    times the raw Grad-CAM there. Arguments as in `gradcam_blocks`. Raises ModelError for a model without a GAP head.

    Examples:
        >>> maps = class_activation_map("runs/first", "images/crack", class_name="crack")  # doctest: +SKIP
        >>> maps.raw[5].shape  # doctest: +SKIP
    """
    classifier = open_classifier(model)
    try:
        map_model, precision = model_for_maps(classifier.model, precision)
        mapper = CamMapper(map_model)
    except ModelError as error:
        raise ModelError(f"{classifier.name}: {error}") from None
    array, files = classifier.read(images)
    index = classifier.class_index(class_name)
    raw, logits = mapper(array, np.full(len(array), index, np.int32))
    return as_heatmaps(classifier, "cam", raw, logits, array, files, index, precision=precision)


class CamMapper:
    """Images (n, h, w, 3) and classes (n,), -1 for the top class -> ({the last block: raw maps}, logits).

    Raises ModelError for a model without a GAP head.
    """

    def __init__(self, model: keras.Model) -> None:
        pooling, self.dense = _gap_head(model)
        self.last = len(find_stages(model))
        self.taps = keras.Model(model.input, [pooling.input, model.output])
        self.size = images_at_once(*model.input_shape[1:3])

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> tuple[BlockMaps, np.ndarray]:
        starts = range(0, len(images), self.size)
        parts = [self._batch(images[i : i + self.size], classes[i : i + self.size]) for i in starts]
        maps, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        return {self.last: maps}, logits

    def _batch(self, images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        activations, logits = (to_array(t) for t in self.taps(np.asarray(images, np.float32), training=False))
        chosen = np.where(classes < 0, logits.argmax(axis=1), classes)
        kernel = to_array(self.dense.kernel)  # (channels, classes)
        return np.einsum("nhwc,cn->nhw", activations, kernel[:, chosen], optimize=True), logits


def _gap_head(model: keras.Model) -> tuple[keras.layers.Layer, keras.layers.Dense]:
    pooling, dense = [layer for layer in model.layers if not isinstance(layer, keras.layers.Dropout)][-2:]
    if isinstance(pooling, keras.layers.GlobalAveragePooling2D) and isinstance(dense, keras.layers.Dense):
        return pooling, dense
    raise ModelError(
        "It has no GAP head (global average pooling, then one Dense layer), which CAM needs. "
        "Train with --head gap, or use --method gradcam."
    )
