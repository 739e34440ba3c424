"""Grad-CAM (Selvaraju et al. 2017) at every block of a classifier, from one forward and one backward pass."""

import dataclasses
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from xaitune.config.parse import parse_blocks
from xaitune.config.rules import require_choice
from xaitune.errors import InputError, ModelError, nearest
from xaitune.explain.classifier import Classifier, Images, open_classifier
from xaitune.explain.heatmaps import BlockHeatmaps, Contributions
from xaitune.models.backend import keras
from xaitune.models.batches import images_at_once
from xaitune.models.blocks import is_vgg
from xaitune.models.gradients import ActivationGradients
from xaitune.models.precision import copy_layers, resolve_precision, with_precision
from xaitune.models.stages import find_stages, layers_with_maps
from xaitune.models.unet import set_region

ops = keras.ops
Tensor = Any  # a tensor of the backend or a numpy array
BlockMaps = dict[int, np.ndarray]
# Copies and compiled passes of models. Building one takes a second, which a notebook would pay in every call. Each is
# dropped together with its model.
_COPIES: "WeakKeyDictionary[keras.Model, keras.Model]" = WeakKeyDictionary()
_PASSES: "WeakKeyDictionary[keras.Model, dict[tuple[Any, ...], Any]]" = WeakKeyDictionary()


def _gradcam(a: Tensor, g: Tensor) -> Tensor:
    return ops.einsum("nhwc,nc->nhw", a, ops.mean(g, axis=(1, 2)))


def _gradcam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    # g^2 / (2 g^2 + sum(a) g^3) * relu(g) with g^2 cancelled, since g^3 underflows in float32. The paper's activations
    # come after a ReLU; where others have a sum below 0, the divisor stays 2.
    positive = ops.relu(g)
    total = ops.relu(ops.sum(a, axis=(1, 2), keepdims=True))
    weights = ops.sum(positive / (2 + total * positive), axis=(1, 2))  # (n, c)
    return ops.einsum("nhwc,nc->nhw", a, weights)


def _xgradcam(a: Tensor, g: Tensor) -> Tensor:
    total = ops.sum(a, axis=(1, 2))  # (n, c)
    active = ops.abs(total) > 1e-12  # a silent channel has weight 0
    weights = ops.where(active, ops.sum(a * g, axis=(1, 2)) / ops.where(active, total, 1), 0)
    return ops.einsum("nhwc,nc->nhw", a, weights)


def _hirescam(a: Tensor, g: Tensor) -> Tensor:
    return ops.sum(a * g, axis=-1)


def _layercam(a: Tensor, g: Tensor) -> Tensor:
    return ops.sum(a * ops.relu(g), axis=-1)


# (activations, gradients), both (n, h, w, c) -> maps (n, h, w) before the ReLU. Grad-CAM++: Chattopadhay et al. 2018,
# with the usual exp() of the logit; HiResCAM: Draelos and Carin 2020; XGrad-CAM: Fu et al. 2020; LayerCAM: Jiang et al.
# 2021.
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
    layers: Sequence[str] | str | None = None,
    class_name: str | None = None,
    rule: str = "gradcam",
    precision: str = "auto",
    region: np.ndarray | None = None,
) -> BlockHeatmaps:
    """Heatmaps of one or more blocks for each image.

    At block b, A (h_b, w_b, c_b) is the output of the block's last convolution after its ReLU and before pooling, the
    weight of a channel is the spatial mean of d logit / dA, and the raw map is sum_c weight_c A_c. `raw` keeps the
    values before the method's last ReLU; `view` applies it. Frozen blocks have maps too, and the model is not changed.

    `model`: a Run, a path, a keras.Model that takes raw RGB 0..255, or a Classifier (`open_classifier`, which also takes
    models with other inputs): VGG16, or any Keras classifier, whose blocks are its convolution stages
    (`stages.find_stages`); a final softmax or sigmoid is left out. `images`: a path, paths, a folder, or images in memory
    (an array (n, h, w, 3) 0..255, tensors, PIL images, a tf.data.Dataset). `blocks`: 3, '1-3', [1, 3] or 'all'; or
    `layers`, names of layers with maps, which are then Block 1, 2, ... of the result.
    `class_name`: the class to explain, by default each image's top class. `rule`: a name in RULES. `precision`:
    'float32', 'bfloat16', or 'auto', see `model_for_maps`. Of a segmentation the maps explain the pixels that are predicted as
    the class (`unet.RegionScores`), or those of a `region`, bool at the model's input size, (h, w) for all images or (n, h, w).
    Raises ModelError, ImageError, ConfigError, InputError.

    Examples:
        >>> maps = gradcam_blocks("runs/first", "images/crack", blocks="3-5")  # doctest: +SKIP
        >>> maps.to_dataframe()[["file", "block", "raw_max"]]  # doctest: +SKIP
    """
    classifier = open_classifier(model)
    map_model, precision = model_for_maps(classifier.model, precision)
    mapper = BlockMapper(map_model, blocks, rule, layers)
    array, files = classifier.read(images)
    index = classifier.class_index(class_name)
    classes = np.full(len(array), index, np.int32)
    raw, logits = mapper(array, classes) if region is None else _of_regions(classifier, mapper, array, classes, region)
    made = as_heatmaps(classifier, "gradcam", raw, logits, array, files, index, rule, precision)
    return dataclasses.replace(made, layers=mapper.layers if layers else {})


def _of_regions(
    classifier: Classifier, mapper: "BlockMapper", images: np.ndarray, classes: np.ndarray, region: np.ndarray
) -> tuple[BlockMaps, np.ndarray]:
    """What `mapper` gives for the pixels of each image's region. Raises ModelError, InputError."""
    if classifier.segmenter is None:
        raise ModelError(f"{classifier.name} is not a segmentation, so no region of its pixels can be explained.")
    marked, size = np.asarray(region) != 0, tuple(classifier.image_size)
    if marked.shape not in (size, (len(images), *size)) or not marked.any((-2, -1)).all():
        raise InputError(
            f"region must mark pixels of {size}, as (h, w) or (n, h, w) for {len(images)} images. Received: {marked.shape}, "
            f"{int(marked.sum())} marked pixels."
        )
    each = np.broadcast_to(marked, (len(images), *size))
    parts = []
    try:
        for i, mask in enumerate(each):
            set_region(mapper.model, mask)
            parts.append(mapper(images[i : i + 1], classes[i : i + 1]))
    finally:
        set_region(mapper.model, None)
    raw = {block: np.concatenate([maps[block] for maps, _ in parts]) for block in parts[0][0]}
    return raw, np.concatenate([logits for _, logits in parts])


def model_for_maps(model: keras.Model, precision: str = "auto") -> tuple[keras.Model, str]:
    """The model that computes the maps, and its precision: the model itself for float32, a copy of it for bfloat16.

    'auto' is bfloat16 for a VGG where a GPU is visible or the processor has units for it. Its raw maps of photographs
    agree with those in float32 by a mean Spearman correlation of at least 0.98 at every block for every rule.
    Everything up to the first pooling stays in float32: rounded to bfloat16, neighbours tie more often, and a tie
    passes a pixel's whole gradient to another one. Raises ConfigError.
    """
    if precision == "auto" and not is_vgg(model):
        return model, "float32"
    resolved, _ = resolve_precision(precision)
    if resolved == "float32":
        return model, resolved
    if model in _COPIES:
        copy_layers(model.layers, _COPIES[model].layers)
        return _COPIES[model], resolved
    pooling = (i for i, layer in enumerate(model.layers) if isinstance(layer, keras.layers.MaxPooling2D))
    keep = [layer.name for layer in model.layers[: next(pooling, 0) + 1]]
    _COPIES[model] = with_precision(model, resolved, keep)
    return _COPIES[model], resolved


class RulesMapper:
    """Images (n, h, w, 3) and classes (n,), -1 for the top class -> (rule -> block -> raw maps (n, h_b, w_b), logits).

    All rules come from the same pass and cost little more than one. Create it once and call it for many batches: it
    holds the compiled pass and follows the model's weights. Raises ConfigError, ModelError.
    """

    def __init__(
        self,
        model: keras.Model,
        blocks: Any = "all",
        rules: Sequence[str] = tuple(RULES),
        layers: Sequence[str] | str | None = None,
    ) -> None:
        for rule in rules:
            require_choice("rule", rule, RULES)
        stages = _named_layers(model, layers) if layers else find_stages(model)
        self.rules, self.blocks = tuple(rules), parse_blocks("all" if layers else blocks, high=len(stages))
        self.layers = {block: stages[block] for block in self.blocks}
        compiled = _PASSES.setdefault(model, {})
        key = (tuple(self.layers.values()), self.rules)
        if key not in compiled:
            compiled[key] = ActivationGradients(model, list(self.layers.values()), _ApplyRules(self.rules))
        self.gradients = compiled[key]

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> tuple[dict[str, BlockMaps], np.ndarray]:
        size = images_at_once(*images.shape[1:3])
        parts = [self.gradients(images[i : i + size], classes[i : i + size]) for i in range(0, len(images), size)]
        maps = {
            rule: {b: np.concatenate([reduced[k][rule] for reduced, _ in parts]) for k, b in enumerate(self.blocks)}
            for rule in self.rules
        }
        return maps, np.concatenate([logits for _, logits in parts])


def _named_layers(model: keras.Model, layers: Sequence[str] | str) -> dict[int, str]:
    """1, 2, ... -> the layers of these names. Raises ModelError, with the layers that there are, for another name."""
    names = layers.split(",") if isinstance(layers, str) else list(layers)
    known = layers_with_maps(model)
    for name in names:
        if name not in known:
            listed = ", ".join(f"{n} {'x'.join(map(str, shape))}" for n, shape in known.items())
            raise ModelError(
                f"{model.name!r} has no layer {name!r} with maps (n, height, width, channels).{nearest(name, known)} "
                f"It has: {listed}."
            )
    return dict(enumerate(names, 1))


class _ApplyRules:
    """A layer's activations and gradients (n, h, w, c) -> rule -> maps (n, h, w), in float32.

    In bfloat16, sums over a whole map would lose most digits.
    """

    def __init__(self, rules: tuple[str, ...]) -> None:
        self.rules = rules

    def __call__(self, a: Tensor, g: Tensor) -> dict[str, Tensor]:
        a, g = ops.cast(a, "float32"), ops.cast(g, "float32")
        return {rule: RULES[rule](a, g) for rule in self.rules}


class BlockMapper:
    """`RulesMapper` for one rule: images and classes -> (block -> raw maps (n, h_b, w_b), logits)."""

    def __init__(
        self,
        model: keras.Model,
        blocks: Any = "all",
        rule: str = "gradcam",
        layers: Sequence[str] | str | None = None,
    ) -> None:
        self.model, self.rule, self.mapper = model, rule, RulesMapper(model, blocks, (rule,), layers)
        self.layers = self.mapper.layers

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> tuple[BlockMaps, np.ndarray]:
        maps, logits = self.mapper(images, classes)
        return maps[self.rule], logits


def as_heatmaps(
    classifier: Classifier,
    method: str,
    raw: BlockMaps,
    logits: np.ndarray,
    images: np.ndarray,
    files: tuple[str, ...],
    index: int,
    rule: str = "gradcam",
    precision: str = "float32",
    contributions: Contributions | None = None,
) -> BlockHeatmaps:
    """The result object; `index` -1 means each image's top class. Raises ModelError for logits that are not finite."""
    top = classifier.require_finite(logits).argmax(axis=1)
    return BlockHeatmaps(
        method=method,
        raw=raw,
        images=images,
        files=files,
        classes=top if index < 0 else np.full(len(top), index),
        class_names=classifier.class_names,
        probabilities=classifier.probabilities(logits),
        rule=rule,
        resize=classifier.resize,
        bit_depth=classifier.bit_depth,
        precision=precision,
        contributions=contributions,
    )
