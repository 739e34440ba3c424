"""Class activation maps (Zhou et al. 2016) from the GAP head."""

from typing import Any

import numpy as np

from xaitune.device import keras
from xaitune.errors import ModelError
from xaitune.gradcam import BATCH, heatmaps
from xaitune.results import BlockHeatmaps
from xaitune.subjects import Images, Subject, open_subject


def class_activation_map(model: Any, images: Images, *, class_name: str | None = None) -> BlockHeatmaps:
    """CAM at Block 5: sum_c w_c A_c with w the Dense column of the class and A what feeds the pooling. No ReLU in `raw`.

    Arguments as in `gradcam_blocks`. H * W times the raw Grad-CAM at Block 5 equals it. Raises ModelError for a model
    without a GAP head.
    """
    subject = open_subject(model)
    array, files = subject.read(images)
    return cam_of(subject, array, files, subject.class_index(class_name))


def cam_of(subject: Subject, images: np.ndarray, files: tuple[str, ...], index: int) -> BlockHeatmaps:
    """`class_activation_map` of images that are already at the model's size; `index` -1 is each one's top class."""
    pooling, dense = _gap_head(subject)
    tap = keras.Model(subject.model.input, [pooling.input, subject.model.output])
    kernel = keras.ops.convert_to_numpy(dense.kernel)  # (channels, classes)
    maps, logits = [], []
    for start in range(0, len(images), BATCH):
        a, scores = tap(np.asarray(images[start : start + BATCH], np.float32), training=False)
        a, scores = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(scores)
        chosen = scores.argmax(axis=1) if index < 0 else np.full(len(a), index)
        maps.append(np.einsum("nhwc,cn->nhw", a, kernel[:, chosen], optimize=True).astype(np.float32))
        logits.append(scores)
    return heatmaps(subject, "cam", {5: np.concatenate(maps)}, np.concatenate(logits), images, files, index)


def _gap_head(subject: Subject) -> tuple[keras.layers.Layer, keras.layers.Dense]:
    layers = subject.model.layers
    pooling, dense = layers[-2], layers[-1]
    if isinstance(pooling, keras.layers.GlobalAveragePooling2D) and isinstance(dense, keras.layers.Dense):
        return pooling, dense
    raise ModelError(
        f"{subject.name} has no GAP head (global average pooling, then one Dense layer), which CAM needs. "
        "Train with --head gap, or use --method gradcam."
    )
