"""Class activation maps (Zhou et al. 2016) from the GAP head."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaitune.errors import ModelError
from xaitune.explain.classifier import Images, open_subject
from xaitune.explain.gradcam import BlockMaps, computing_model, heatmaps
from xaitune.models import backend as device
from xaitune.models.backend import keras
from xaitune.models.flatten import find_stages
from xaitune.results import BlockHeatmaps


def class_activation_map(
    model: Any, images: Images, *, class_name: str | None = None, precision: str = "auto"
) -> BlockHeatmaps:
    """CAM: sum_c w_c A_c with w the Dense column of the class and A what feeds the pooling. No ReLU in `raw`.

    It is the map of the last block, VGG16's Block 5; with the `gap` head, H * W times the raw Grad-CAM there equals it.
    Arguments as in `gradcam_blocks`. Raises ModelError for a model without a GAP head.
    """
    subject = open_subject(model)
    try:
        computing, used = computing_model(subject.model, precision)
        mapper = cam_mapper(computing)
    except ModelError as error:
        raise ModelError(f"{subject.name}: {error}") from None
    array, files = subject.read(images)
    index = subject.class_index(class_name)
    raw, logits = mapper(array, np.full(len(array), index, np.int32))
    return heatmaps(subject, "cam", raw, logits, array, files, index, precision=used)


def cam_mapper(model: keras.Model) -> Callable[[np.ndarray, np.ndarray], tuple[BlockMaps, np.ndarray]]:
    """A function (images (n, h, w, 3), classes (n,), -1 for the top one) -> ({the last block: raw maps}, logits)."""
    pooling, dense = _gap_head(model)
    last = len(find_stages(model))
    tap = keras.Model(model.input, [pooling.input, model.output])
    size = device.images_at_once(*model.input_shape[1:3])

    def part(images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = tap(np.asarray(images, np.float32), training=False)
        a, logits = (keras.ops.convert_to_numpy(t).astype(np.float32) for t in out)
        chosen = np.where(classes < 0, logits.argmax(axis=1), classes)
        kernel = keras.ops.convert_to_numpy(dense.kernel)  # (channels, classes)
        return np.einsum("nhwc,cn->nhw", a, kernel[:, chosen], optimize=True), logits

    def call(images: np.ndarray, classes: np.ndarray) -> tuple[BlockMaps, np.ndarray]:
        parts = [part(images[i : i + size], classes[i : i + size]) for i in range(0, len(images), size)]
        maps, logits = (np.concatenate(p) for p in zip(*parts, strict=True))
        return {last: maps}, logits

    return call


def _gap_head(model: keras.Model) -> tuple[keras.layers.Layer, keras.layers.Dense]:
    pooling, dense = [layer for layer in model.layers if not isinstance(layer, keras.layers.Dropout)][-2:]
    if isinstance(pooling, keras.layers.GlobalAveragePooling2D) and isinstance(dense, keras.layers.Dense):
        return pooling, dense
    raise ModelError(
        "It has no GAP head (global average pooling, then one Dense layer), which CAM needs. "
        "Train with --head gap, or use --method gradcam."
    )
