"""Grad-CAM (Selvaraju et al. 2017) at every block of VGG16, from one forward and one backward pass."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import softmax

from xaitune.config import parse_blocks
from xaitune.device import activation_gradients, keras
from xaitune.errors import ConfigError, nearest
from xaitune.results import BlockHeatmaps
from xaitune.subjects import Images, Subject, open_subject
from xaitune.vgg import require_blocks

BATCH = 16


def _gradcam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    weights = g.mean(axis=(1, 2))  # (n, c)
    return np.einsum("nhwc,nc->nhw", a, weights, optimize=True)


def _gradcam_plus_plus(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    total = a.sum(axis=(1, 2), keepdims=True)
    below = 2 * g**2 + total * g**3
    alpha = np.divide(g**2, below, out=np.zeros_like(g), where=np.abs(below) > 1e-20)
    weights = (alpha * np.maximum(g, 0)).sum(axis=(1, 2))  # (n, c)
    return np.einsum("nhwc,nc->nhw", a, weights, optimize=True)


def _xgradcam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    total = a.sum(axis=(1, 2))
    weights = np.divide((a * g).sum(axis=(1, 2)), total, out=np.zeros_like(total), where=total > 1e-12)
    return np.einsum("nhwc,nc->nhw", a, weights, optimize=True)


def _hirescam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.einsum("nhwc,nhwc->nhw", a, g, optimize=True)


def _layercam(a: np.ndarray, g: np.ndarray) -> np.ndarray:
    return np.einsum("nhwc,nhwc->nhw", a, np.maximum(g, 0), optimize=True)


# (activations, gradients), both (n, h, w, c) -> (n, h, w) before the ReLU. Grad-CAM++: Chattopadhay et al. 2018, with
# the usual exp() of the logit; HiResCAM: Draelos and Carin 2020; XGrad-CAM: Fu et al. 2020; LayerCAM: Jiang et al. 2021.
RULES = MappingProxyType(
    {
        "gradcam": _gradcam,
        "gradcam++": _gradcam_plus_plus,
        "hirescam": _hirescam,
        "xgradcam": _xgradcam,
        "layercam": _layercam,
    }
)


def gradcam_blocks(
    model: Any, images: Images, *, blocks: Any = "all", class_name: str | None = None, rule: str = "gradcam"
) -> BlockHeatmaps:
    """Heatmaps of one or more blocks for each image.

    At block b: A (h_b, w_b, c_b) is the last convolution of Block b after its ReLU and before pooling, the weight of
    a channel the spatial mean of d logit / dA, and the raw map sum_c weight_c A_c. `raw` keeps the values before the
    method's last ReLU; `view` applies it. Frozen blocks give maps too, and the model is not changed.

    `model`: a Run, a path or a keras.Model; `images`: a path, paths, a folder, or an array (n, h, w, 3) 0..255;
    `blocks`: 3, '1-3', [1, 3] or 'all'; `class_name`: the class to explain, by default each image's top class;
    `rule`: a name in RULES. Raises ModelError, ImageError, ConfigError.
    """
    subject = open_subject(model)
    mapper = block_mapper(subject.model, parse_blocks(blocks), rule)
    array, files = subject.read(images)
    index = subject.class_index(class_name)
    raw, logits = mapper(array, np.full(len(array), index, np.int32))
    return heatmaps(subject, "gradcam", raw, logits, array, files, index, rule)


def block_mapper(
    model: keras.Model, blocks: tuple[int, ...], rule: str = "gradcam"
) -> Callable[[np.ndarray, np.ndarray], tuple[dict[int, np.ndarray], np.ndarray]]:
    """A function (images (n, h, w, 3), classes (n,), -1 for the top one) -> (block -> raw maps, logits).

    Made once and called for many batches: it holds the compiled pass.
    """
    if rule not in RULES:
        raise ConfigError(f"rule must be one of {', '.join(RULES)}. Received: {rule!r}.{nearest(rule, RULES)}")
    names = require_blocks(model)
    passes = activation_gradients(model, [names[b][-1] for b in blocks])

    def call(images: np.ndarray, classes: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray]:
        parts: dict[int, list[np.ndarray]] = {b: [] for b in blocks}
        logits = []
        for start in range(0, len(images), BATCH):
            rows = slice(start, start + BATCH)
            activations, gradients, scores = passes(images[rows], classes[rows])
            logits.append(scores)
            for block, a, g in zip(blocks, activations, gradients, strict=True):
                parts[block].append(RULES[rule](a, g).astype(np.float32))
        return {b: np.concatenate(maps) for b, maps in parts.items()}, np.concatenate(logits)

    return call


def heatmaps(
    subject: Subject,
    method: str,
    raw: dict[int, np.ndarray],
    logits: np.ndarray,
    images: np.ndarray,
    files: tuple[str, ...],
    index: int,
    rule: str = "gradcam",
) -> BlockHeatmaps:
    """The result object; `index` -1 stands for each image's top class."""
    top = logits.argmax(axis=1)
    return BlockHeatmaps(
        method=method,
        raw=raw,
        images=images,
        files=files,
        classes=top if index < 0 else np.full(len(top), index),
        class_names=subject.class_names,
        probabilities=softmax(logits, axis=1),
        rule=rule,
        resize=subject.resize,
    )
