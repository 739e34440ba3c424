"""A U-Net on the five blocks of a VGG: raw RGB 0..255 in, the logits of every pixel out."""

from typing import Any

import numpy as np

from xaitune.models.backend import keras
from xaitune.models.vgg import encoder, set_encoder
from xaitune.models.weights import Backbone

WIDTHS = {4: 64, 3: 32, 2: 16, 1: 16}  # channels of the decoder beside each block
RATE = 3e-3  # Adam's, of the decoder alone
SLOPE = 0.1  # for negative values: with 0, pixels of a rare class can end up where no gradient reaches them


def build_unet(
    num_classes: int, *, image_size: tuple[int, int] = (224, 224), weights: Backbone, seed: int = 0
) -> keras.Model:
    """A U-Net whose encoder is a VGG (Ronneberger et al. 2015): RGB (n, h, w, 3) -> logits (n, h, w, num_classes).

    Beside Block 4 to 1 the decoder doubles the size of what comes from below, puts the block's output beside it, and applies two
    3x3 convolutions. Unlike the paper's it has few channels (WIDTHS), pads, normalises each convolution over the batch, as the
    features of the blocks differ in scale by orders of magnitude, and its ReLU is leaky. Any size of at least 32 x 32 will do.
    """
    inputs, ends = encoder(weights, image_size, seed)
    x = ends[5]
    for block, width in WIDTHS.items():
        x = keras.layers.UpSampling2D(2, name=f"decoder{block}_up")(x)
        lacking = [ends[block].shape[side] - x.shape[side] for side in (1, 2)]  # 1 where the block's side is odd
        if any(lacking):
            x = keras.layers.ZeroPadding2D(((0, lacking[0]), (0, lacking[1])), name=f"decoder{block}_pad")(x)
        x = keras.layers.Concatenate(name=f"decoder{block}_skip")([x, ends[block]])
        for number in (1, 2):
            name = f"decoder{block}_{{}}{number}"
            initializer = keras.initializers.HeNormal(seed=seed * 100 + block * 10 + number)
            options = {"padding": "same", "use_bias": False, "kernel_initializer": initializer}
            x = keras.layers.Conv2D(width, 3, name=name.format("conv"), **options)(x)
            x = keras.layers.BatchNormalization(momentum=0.9, dtype="float32", name=name.format("bn"))(x)
            x = keras.layers.LeakyReLU(SLOPE, name=name.format("relu"))(x)
    initializer = keras.initializers.RandomNormal(0.0, 0.01, seed=seed * 100 + 2)
    outputs = keras.layers.Conv2D(num_classes, 1, kernel_initializer=initializer, dtype="float32", name="logits")(x)
    model = keras.Model(inputs, outputs, name=f"unet_{weights.architecture.replace('-', '_')}")
    set_encoder(model, weights)
    return model


def is_unet(model: keras.Model) -> bool:
    """Whether a model gives logits for every pixel."""
    shape = getattr(model, "output_shape", None)  # a subclassed model may have none
    return isinstance(shape, tuple) and len(shape) == 4


def decoder_multiply_adds(image_size: tuple[int, int], channels: tuple[int, ...], num_classes: int = 2) -> float:
    """Multiply-adds of the decoder in one forward pass, for blocks with these numbers of `channels`."""
    total, below = 0.0, channels[4]
    for block, width in WIDTHS.items():
        pixels = float(np.prod([side >> (block - 1) for side in image_size]))
        total += pixels * 9 * width * (below + channels[block - 1] + width)
        below = width
    return total + float(np.prod(image_size)) * below * num_classes


def decoder_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of the decoder that have weights, the last one included."""
    return [
        layer
        for layer in model.layers
        if layer.weights and (layer.name.startswith("decoder") or layer.name == "logits")
    ]


class RegionScores(keras.layers.Layer):
    """Logits of pixels (n, h, w, C) -> one score for each class (n, C), whose gradient is that of the class's pixels.

    The gradient is that of the mean logit of a class over the pixels that are predicted as the class, or over all pixels where
    none is (Seg-Grad-CAM, Vinogradova et al. 2020, which sums), or over those marked in `region`, if any. The value is not that
    mean, but the log of the class's share of the pixels that are predicted as other than background, so that the top class is
    that of the largest region, and background (class 0) is on top where there is none.
    """

    def build(self, shape: tuple[int, ...]) -> None:
        """Make the variable `region` (h, w), 0 for no region."""
        self.region = self.add_weight(shape=shape[1:3], initializer="zeros", trainable=False, name="region")

    def call(self, logits: Any) -> Any:
        """The scores (n, C)."""
        ops = keras.ops
        count = logits.shape[-1]
        logits = ops.cast(logits, "float32")
        predicted = ops.cast(ops.one_hot(ops.argmax(logits, axis=-1), count), "float32")
        pixels = ops.sum(predicted, axis=(1, 2))
        over = ops.where(pixels[:, None, None] > 0, predicted, ops.ones_like(predicted))
        given = self.region[None, :, :, None]
        over = ops.where(ops.sum(self.region) > 0, given * ops.ones_like(predicted), over)
        score = ops.sum(over * logits, axis=(1, 2)) / ops.sum(over, axis=(1, 2))
        marked = ops.sum(pixels[:, 1:], axis=1, keepdims=True)
        share = pixels[:, 1:] / ops.maximum(marked, 1.0)
        value = ops.log(ops.concatenate([ops.cast(marked == 0, "float32"), share], axis=1) + 1e-6)
        return score + ops.stop_gradient(value - score)


def region_classifier(model: keras.Model) -> keras.Model:
    """A segmentation model as a classifier of images by their largest region, for heatmaps; it shares the model's layers."""
    return keras.Model(model.input, RegionScores(name="region_scores")(model.output), name=model.name)


def set_region(model: keras.Model, region: np.ndarray | None) -> None:
    """Explain the pixels of a `region` (h, w) bool, or with None those that are predicted, in a `region_classifier`."""
    layer = model.get_layer("region_scores")
    layer.region.assign(np.zeros(layer.region.shape, np.float32) if region is None else region.astype(np.float32))
