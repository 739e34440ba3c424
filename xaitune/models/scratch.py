"""The networks of the studies that begin at random weights: LeNet-5 and a small CNN. Raw RGB 0..255 in, logits out."""

import itertools

from xaitune.config.choices import SCRATCH
from xaitune.errors import ConfigError
from xaitune.models.backend import keras
from xaitune.models.blocks import LENET_FILTERS, XRAY_FILTERS

LENET_SMALLEST = 19  # pixels a side, for at least one value after the third convolution
XRAY_SMALLEST = 32
DENSE_UNITS = (128, 64)
layers = keras.layers


def build_scratch(architecture: str, num_classes: int, *, image_size: tuple[int, int], seed: int = 0) -> keras.Model:
    """One of config.choices.SCRATCH with random weights (Glorot's) that `seed` determines: (n, h, w, 3) -> (n, num_classes).

    'lenet5-tanh' and 'lenet5-relu' are LeNet-5 as the freezing study lays it out (its table 4): 5x5 convolutions of 6, 16
    and 120 filters without padding, average pooling of 2x2 with stride 1 after the first and stride 2 after the second, a
    dense layer of 84. 'xray-cnn' follows the study of losses on X-rays: the mean of the three channels, five stages of
    convolution (3x3), batch normalisation and max pooling, and two dense layers with dropout; that study does not state its
    widths, so XRAY_FILTERS and DENSE_UNITS are ours. Images are divided by 255. Raises ConfigError for images too small.

    Examples:
        >>> build_scratch("lenet5-tanh", 11, image_size=(224, 403)).count_params()
        200432331
    """
    smallest = XRAY_SMALLEST if architecture == "xray-cnn" else LENET_SMALLEST
    if architecture not in SCRATCH or min(image_size) < smallest:
        raise ConfigError(f"{architecture} needs images of at least {smallest}x{smallest}. Received: {image_size}.")
    seeds = itertools.count(seed * 100)
    inputs = keras.Input((*image_size, 3), name="image")
    x = layers.Rescaling(1 / 255, dtype="float32", name="preprocess")(inputs)
    build = _xray_cnn if architecture == "xray-cnn" else _lenet5
    x = build(x, architecture.rpartition("-")[2], seeds)
    logits = layers.Dense(num_classes, kernel_initializer=_glorot(seeds), dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name=architecture.replace("-", "_"))


def _lenet5(x: keras.KerasTensor, activation: str, seeds: "itertools.count[int]") -> keras.KerasTensor:
    for block, filters in enumerate(LENET_FILTERS, 1):
        x = layers.Conv2D(
            filters, 5, activation=activation, kernel_initializer=_glorot(seeds), name=f"block{block}_conv1"
        )(x)
        if block < 3:
            x = layers.AveragePooling2D(2, strides=block, name=f"block{block}_pool")(x)
    x = layers.Flatten(dtype="float32", name="flatten")(x)
    return layers.Dense(84, activation=activation, kernel_initializer=_glorot(seeds), dtype="float32", name="f6")(x)


def _xray_cnn(x: keras.KerasTensor, _: str, seeds: "itertools.count[int]") -> keras.KerasTensor:
    x = keras.ops.mean(x, axis=-1, keepdims=True)
    for block, filters in enumerate(XRAY_FILTERS, 1):
        x = layers.Conv2D(
            filters, 3, padding="same", activation="relu", kernel_initializer=_glorot(seeds), name=f"block{block}_conv1"
        )(x)
        x = layers.BatchNormalization(name=f"block{block}_bn1")(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    x = layers.Flatten(dtype="float32", name="flatten")(x)
    for number, units in enumerate(DENSE_UNITS, 1):
        dense = layers.Dense(
            units, activation="relu", kernel_initializer=_glorot(seeds), dtype="float32", name=f"fc{number}"
        )
        x = layers.Dropout(0.5, seed=next(seeds), dtype="float32", name=f"dropout{number}")(dense(x))
    return x


def _glorot(seeds: "itertools.count[int]") -> keras.Initializer:
    return keras.initializers.GlorotUniform(seed=next(seeds))
