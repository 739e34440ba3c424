"""Grad-CAM (Selvaraju et al. 2017) at every block of a classifier, from one forward and one backward pass."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy.special import softmax

from xaitune.config.schema import parse_blocks
from xaitune.errors import ConfigError, nearest
from xaitune.explain.classifier import Images, Subject, open_subject
from xaitune.models import backend as device
from xaitune.models.backend import keras
from xaitune.models.flatten import find_stages
from xaitune.models.vgg import is_vgg
from xaitune.results import BlockHeatmaps

ops = keras.ops
Tensor = Any  # of the backend, or a numpy array
BlockMaps = dict[int, np.ndarray]
# What a model was copied or compiled to: building it takes a second, which a notebook would pay with every call. It goes
# when the model goes.
_COPIES: "WeakKeyDictionary[keras.Model, keras.Model]" = WeakKeyDictionary()
_PASSES: "WeakKeyDictionary[keras.Model, dict[tuple[Any, ...], Any]]" = WeakKeyDictionary()


def _gradcam(a: Tensor, g: Tensor) -> Tensor:
    return ops.einsum("nhwc,nc->nhw", a, ops.mean(g, axis=(1, 2)))


def _gradcam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    # g^2 / (2 g^2 + sum(a) g^3) * relu(g), with what cancels left out: float32 holds no g^3. The paper's activations
    # come after a ReLU; where others sum below 0, the divisor stays 2.
    positive = ops.relu(g)
    total = ops.relu(ops.sum(a, axis=(1, 2), keepdims=True))
    weights = ops.sum(positive / (2 + total * positive), axis=(1, 2))  # (n, c)
    return ops.einsum("nhwc,nc->nhw", a, weights)


def _xgradcam(a: Tensor, g: Tensor) -> Tensor:
    total = ops.sum(a, axis=(1, 2))  # (n, c)
    some = ops.abs(total) > 1e-12  # a channel that is silent weighs nothing
    weights = ops.where(some, ops.sum(a * g, axis=(1, 2)) / ops.where(some, total, 1), 0)
    return ops.einsum("nhwc,nc->nhw", a, weights)


def _hirescam(a: Tensor, g: Tensor) -> Tensor:
    return ops.sum(a * g, axis=-1)


def _layercam(a: Tensor, g: Tensor) -> Tensor:
    return ops.sum(a * ops.relu(g), axis=-1)


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
    model: Any,
    images: Images,
    *,
    blocks: Any = "all",
    class_name: str | None = None,
    rule: str = "gradcam",
    precision: str = "auto",
) -> BlockHeatmaps:
    """Heatmaps of one or more blocks for each image.

    At block b: A (h_b, w_b, c_b) is the last convolution of Block b after its ReLU and before pooling, the weight of
    a channel the spatial mean of d logit / dA, and the raw map sum_c weight_c A_c. `raw` keeps the values before the
    method's last ReLU; `view` applies it. Frozen blocks give maps too, and the model is not changed.

    `model`: a Run, a path or a keras.Model that takes raw RGB 0..255, its preprocessing inside: VGG16, or any Keras
    classifier whose layers' names tell its convolution stages (`graphs.find_stages`); a final softmax is left out.
    `images`: a path, paths, a folder, or an array (n, h, w, 3) 0..255. `blocks`: 3, '1-3', [1, 3] or 'all'.
    `class_name`: the class to explain, by default each image's top class. `rule`: a name in RULES. `precision`:
    'float32', 'bfloat16', or 'auto', see `computing_model`. Raises ModelError, ImageError, ConfigError.
    """
    subject = open_subject(model)
    computing, used = computing_model(subject.model, precision)
    mapper = block_mapper(computing, blocks, rule)
    array, files = subject.read(images)
    index = subject.class_index(class_name)
    raw, logits = mapper(array, np.full(len(array), index, np.int32))
    return heatmaps(subject, "gradcam", raw, logits, array, files, index, rule, used)


def computing_model(model: keras.Model, precision: str = "auto") -> tuple[keras.Model, str]:
    """(the model to compute maps with, its precision): itself in float32, a copy in bfloat16.

    'auto' is bfloat16 for a VGG where a GPU is visible or the processor has units for it: raw maps of photographs agree
    with float32's there, by a mean Spearman correlation of at least 0.98 at every block for every rule. Everything up
    to the first pooling stays in float32: rounded to bfloat16, neighbours tie more often, and a tie gives a pixel's
    whole gradient to another one. Raises ConfigError.
    """
    if precision == "auto" and not is_vgg(model):
        return model, "float32"
    resolved, _ = device.resolve_precision(precision)
    if resolved == "float32":
        return model, resolved
    if model in _COPIES:
        device.copy_layers(model.layers, _COPIES[model].layers)
        return _COPIES[model], resolved
    pooling = (i for i, layer in enumerate(model.layers) if isinstance(layer, keras.layers.MaxPooling2D))
    keep = [layer.name for layer in model.layers[: next(pooling, 0) + 1]]
    _COPIES[model] = device.with_precision(model, resolved, keep)
    return _COPIES[model], resolved


def block_mapper(
    model: keras.Model, blocks: Any = "all", rule: str = "gradcam"
) -> Callable[[np.ndarray, np.ndarray], tuple[BlockMaps, np.ndarray]]:
    """`rules_mapper` for one rule: a function (images, classes) -> (block -> raw maps (n, h_b, w_b), logits)."""
    mapper = rules_mapper(model, blocks, (rule,))

    def call(images: np.ndarray, classes: np.ndarray) -> tuple[BlockMaps, np.ndarray]:
        maps, logits = mapper(images, classes)
        return maps[rule], logits

    return call


def rules_mapper(
    model: keras.Model, blocks: Any = "all", rules: Sequence[str] = tuple(RULES)
) -> Callable[[np.ndarray, np.ndarray], tuple[dict[str, BlockMaps], np.ndarray]]:
    """A function (images (n, h, w, 3), classes (n,), -1 for the top one) -> (rule -> block -> raw maps, logits).

    All rules come from the same pass and cost little more than one. Made once and called for many batches: it holds
    the compiled pass, and follows the model's weights. Raises ConfigError, ModelError.
    """
    for rule in rules:
        if rule not in RULES:
            raise ConfigError(f"rule must be one of {', '.join(RULES)}. Received: {rule!r}.{nearest(rule, RULES)}")
    stages = find_stages(model)
    wanted = parse_blocks(blocks, high=len(stages))

    def weigh(a: Tensor, g: Tensor) -> dict[str, Tensor]:
        a, g = (
            ops.cast(a, "float32"),
            ops.cast(g, "float32"),
        )  # sums over a whole map in bfloat16 would lose most digits
        return {rule: RULES[rule](a, g) for rule in rules}

    known = _PASSES.setdefault(model, {})
    key = (wanted, tuple(rules))
    if key not in known:
        known[key] = device.activation_gradients(model, [stages[b] for b in wanted], weigh)
    passes = known[key]

    def call(images: np.ndarray, classes: np.ndarray) -> tuple[dict[str, BlockMaps], np.ndarray]:
        size = device.images_at_once(*images.shape[1:3])
        parts = [passes(images[i : i + size], classes[i : i + size]) for i in range(0, len(images), size)]
        maps = {
            rule: {b: np.concatenate([made[k][rule] for made, _ in parts]) for k, b in enumerate(wanted)}
            for rule in rules
        }
        return maps, np.concatenate([logits for _, logits in parts])

    return call


def heatmaps(
    subject: Subject,
    method: str,
    raw: BlockMaps,
    logits: np.ndarray,
    images: np.ndarray,
    files: tuple[str, ...],
    index: int,
    rule: str = "gradcam",
    precision: str = "float32",
) -> BlockHeatmaps:
    """The result object; `index` -1 stands for each image's top class. Raises ModelError for logits that are not finite."""
    top = subject.require_finite(logits).argmax(axis=1)
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
        precision=precision,
    )
