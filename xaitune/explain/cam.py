"""Class activation maps: of the GAP head (Zhou et al. 2016), and of the linear head on the features of all blocks."""

from typing import Any

import numpy as np

from xaitune.errors import ModelError
from xaitune.explain.classifier import Images, open_classifier
from xaitune.explain.gradcam import BlockMaps, as_heatmaps, model_for_maps
from xaitune.explain.heatmaps import BlockHeatmaps, Contributions
from xaitune.models.backend import keras, to_array
from xaitune.models.batches import images_at_once
from xaitune.models.blocks import BLOCKS, has_blocks_head
from xaitune.models.stages import find_stages


def class_activation_map(
    model: Any, images: Images, *, class_name: str | None = None, precision: str = "auto"
) -> BlockHeatmaps:
    """The class activation maps of a model whose logits are linear in pooled activations.

    With the `gap` head, CAM: sum_c w_c A_c, where w is the class's column of the Dense kernel and A the input of the
    pooling. The map is that of the last block, Block 5 of VGG16, and equals H * W times the raw Grad-CAM there.

    With the `blocks` head there is a map of each block, and all of them with `constant` add up to the logit. With w, m and
    s the weight, mean and standard deviation of a feature, w_c A_c(x) / (s_c H W) of a channel's mean lies at every pixel x,
    and w_c max A_c / s_c of its maximum where that is reached first. `contributions` has what each block adds to the logit
    of the average training image, which is the bias: sum_c w_c (f_c - m_c) / s_c over its means f, and over its maxima.

    `raw` is without a ReLU. Arguments as in `gradcam_blocks`. Raises ModelError for a model with another head.

    Examples:
        >>> maps = class_activation_map("runs/first", "images/crack", class_name="crack")  # doctest: +SKIP
        >>> maps.raw[5].shape  # doctest: +SKIP
    """
    classifier = open_classifier(model)
    try:
        map_model, precision = model_for_maps(classifier.model, precision)
        mapper = cam_mapper(map_model)
    except ModelError as error:
        raise ModelError(f"{classifier.name}: {error}") from None
    array, files = classifier.read(images)
    index = classifier.class_index(class_name)
    raw, logits, contributions = mapper(array, np.full(len(array), index, np.int32))
    return as_heatmaps(
        classifier, "cam", raw, logits, array, files, index, precision=precision, contributions=contributions
    )


def cam_mapper(model: keras.Model) -> "CamMapper | BlocksCamMapper":
    """The mapper for a model's head. Raises ModelError for a head that has no class activation maps."""
    return BlocksCamMapper(model) if has_blocks_head(model) else CamMapper(model)


class CamMapper:
    """Images (n, h, w, 3) and classes (n,), -1 for the top class -> ({the last block: raw maps}, logits, None).

    Raises ModelError for a model without a GAP head.
    """

    def __init__(self, model: keras.Model) -> None:
        pooling, self.dense = _gap_head(model)
        self.last = len(find_stages(model))
        self.taps = keras.Model(model.input, [pooling.input, model.output])
        self.size = images_at_once(*model.input_shape[1:3])

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> tuple[BlockMaps, np.ndarray, None]:
        starts = range(0, len(images), self.size)
        parts = [self._batch(images[i : i + self.size], classes[i : i + self.size]) for i in starts]
        maps, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        return {self.last: maps}, logits, None

    def every_class(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The raw maps of all classes (n, classes, h, w), and the logits (n, classes), of one batch of images."""
        activations, logits = (to_array(t) for t in self.taps(np.asarray(images, np.float32), training=False))
        return np.einsum("nhwc,ck->nkhw", activations, to_array(self.dense.kernel), optimize=True), logits

    def _batch(self, images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        activations, logits = (to_array(t) for t in self.taps(np.asarray(images, np.float32), training=False))
        chosen = np.where(classes < 0, logits.argmax(axis=1), classes)
        kernel = to_array(self.dense.kernel)  # (channels, classes)
        return np.einsum("nhwc,cn->nhw", activations, kernel[:, chosen], optimize=True), logits


class BlocksCamMapper:
    """Images (n, h, w, 3) and classes (n,), -1 for the top class -> (block -> raw maps, logits, contributions).

    For a model with a linear head on the mean and the maximum of the channels of one or more blocks.
    """

    def __init__(self, model: keras.Model) -> None:
        names = {layer.name for layer in model.layers}
        self.blocks = tuple(block for block in BLOCKS if f"block{block}_mean" in names)
        outputs = [model.get_layer(f"block{block}_mean").input for block in self.blocks]
        self.taps = keras.Model(model.input, [*outputs, model.get_layer("pooled").output, model.output])
        self.standardise, self.dense = model.get_layer("standardise"), model.get_layer("logits")
        self.size = images_at_once(*model.input_shape[1:3])

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> tuple[BlockMaps, np.ndarray, Contributions]:
        starts = range(0, len(images), self.size)
        parts = [self._batch(images[i : i + self.size], classes[i : i + self.size]) for i in starts]
        maps = {b: np.concatenate([m[k] for m, _, _ in parts]) for k, b in enumerate(self.blocks)}
        means, maxima, constant = (np.concatenate(n) for n in zip(*(numbers for _, _, numbers in parts), strict=True))
        contributions = Contributions(means, maxima, constant, self.blocks)
        return maps, np.concatenate([logits for _, logits, _ in parts]), contributions

    def _batch(self, images: np.ndarray, classes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, tuple[Any, ...]]:
        outputs = self.taps(np.asarray(images, np.float32), training=False)
        *activations, pooled, logits = (to_array(t) for t in outputs)
        chosen = np.where(classes < 0, logits.argmax(axis=1), classes)
        mean, variance = (np.asarray(w, np.float64) for w in self.standardise.get_weights()[:2])
        weights = to_array(self.dense.kernel).astype(np.float64)[:, chosen].T / np.sqrt(variance)  # (n, features)
        added = weights * (pooled - mean)
        constant = to_array(self.dense.bias)[chosen] - weights @ mean
        maps, means, maxima, first = [], [], [], 0
        for a in activations:
            n, height, width, channels = a.shape
            flat = a.reshape(n, -1, channels)
            mean_part, max_part = slice(first, first + channels), slice(first + channels, first + 2 * channels)
            block_map = np.einsum("npc,nc->np", flat, weights[:, mean_part] / (height * width), optimize=True)
            peaks = flat.argmax(axis=1)  # (n, channels)
            np.add.at(block_map, (np.arange(n)[:, None], peaks), weights[:, max_part] * flat.max(axis=1))
            maps.append(block_map.reshape(n, height, width).astype(np.float32))
            means.append(added[:, mean_part].sum(axis=1))
            maxima.append(added[:, max_part].sum(axis=1))
            first += 2 * channels
        return maps, logits, (np.stack(means, axis=1), np.stack(maxima, axis=1), constant)


def _gap_head(model: keras.Model) -> tuple[keras.layers.Layer, keras.layers.Dense]:
    pooling, dense = [layer for layer in model.layers if not isinstance(layer, keras.layers.Dropout)][-2:]
    if isinstance(pooling, keras.layers.GlobalAveragePooling2D) and isinstance(dense, keras.layers.Dense):
        return pooling, dense
    raise ModelError(
        "It has no GAP head (global average pooling, then one Dense layer), which CAM needs. "
        "Train with --head gap or --head blocks, or use --method gradcam."
    )
