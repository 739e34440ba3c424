"""A U-Net on the five blocks of a VGG: raw RGB 0..255 in, the logits of every pixel out."""

import numpy as np

from xaitune.models.backend import keras
from xaitune.models.vgg import encoder, set_encoder
from xaitune.models.weights import Backbone

WIDTHS = {4: 64, 3: 32, 2: 16, 1: 16}  # channels of the decoder beside each block
RATE = 1e-3  # Adam's, of the decoder alone


def build_unet(
    num_classes: int, *, image_size: tuple[int, int] = (224, 224), weights: Backbone, seed: int = 0
) -> keras.Model:
    """A U-Net whose encoder is a VGG (Ronneberger et al. 2015): RGB (n, h, w, 3) -> logits (n, h, w, num_classes).

    Beside Block 4 to 1 the decoder doubles the size of what comes from below, puts the block's output beside it, and applies two
    3x3 convolutions. Unlike the paper's it has few channels (WIDTHS), pads, and normalises each convolution over the batch,
    as the features of the blocks differ in scale by orders of magnitude. Any size of at least 32 x 32 will do.
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
            x = keras.layers.ReLU(name=name.format("relu"))(x)
    initializer = keras.initializers.RandomNormal(0.0, 0.01, seed=seed * 100 + 2)
    outputs = keras.layers.Conv2D(num_classes, 1, kernel_initializer=initializer, dtype="float32", name="logits")(x)
    model = keras.Model(inputs, outputs, name=f"unet_{weights.architecture.replace('-', '_')}")
    set_encoder(model, weights)
    return model


def is_unet(model: keras.Model) -> bool:
    """Whether a model gives logits for every pixel."""
    return len(model.output_shape) == 4


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
