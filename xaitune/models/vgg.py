"""VGG16, VGG19 and VGG16 with batch normalisation, with named blocks in one flat graph: raw RGB 0..255 in, logits out."""

from collections.abc import Sequence

import numpy as np

from xaitune.config.choices import HEADS
from xaitune.config.parse import parse_image_size
from xaitune.errors import ConfigError, WeightsError
from xaitune.models.backend import keras
from xaitune.models.blocks import BLOCKS, convolutions
from xaitune.models.weights import PREPROCESSING, Backbone, download_reason, load_backbone

FC_UNITS = 256
IMAGENET = "VGG16 (ImageNet)"  # the name of the classifier that `imagenet_classifier` gives


def build_vgg16(
    num_classes: int,
    *,
    image_size: tuple[int, int] = (224, 224),
    head: str = "gap",
    head_blocks: Sequence[int] = BLOCKS,
    weights: str | Backbone = "imagenet",
    seed: int = 0,
) -> keras.Model:
    """VGG16 as one flat functional graph: raw RGB (n, h, w, 3) in 0..255 -> logits (n, num_classes).

    With a Backbone of another VGG network as `weights` it is that one; see `load_backbone`.

    `head`: 'gap' is global average pooling on block5_conv3 (no block5_pool, as in Zhou et al. 2016) and a Dense;
    'fc' is block5_pool, Flatten, Dense, Dropout, Dense; 'blocks' is the spatial mean and maximum of the last convolution
    of each of `head_blocks` after its ReLU, standardised by a Normalization layer, and a Dense, and the network ends
    with the last of these blocks. `weights`: see `load_backbone`. `seed` fixes the head's
    initial values, and the base's if `weights` is 'random'. Raises ConfigError and WeightsError.

    Examples:
        >>> build_vgg16(3, image_size=(32, 32), weights="random").output_shape
        (None, 3)
    """
    if head not in HEADS:
        raise ConfigError(f"head must be one of {', '.join(HEADS)}. Received: head={head!r}.")
    if num_classes < 2:
        raise ConfigError(f"num_classes must be at least 2. Received: {num_classes}.")
    base = load_backbone(weights) if isinstance(weights, str) else weights
    last = max(head_blocks) if head == "blocks" else 5
    inputs, ends = encoder(base, image_size, seed, last=last)
    x = ends[last]
    if head == "blocks":
        pooled = []
        for block in head_blocks:
            pooled += [keras.layers.GlobalAveragePooling2D(dtype="float32", name=f"block{block}_mean")(ends[block])]
            pooled += [keras.layers.GlobalMaxPooling2D(dtype="float32", name=f"block{block}_max")(ends[block])]
        x = keras.layers.Concatenate(dtype="float32", name="pooled")(pooled)
    elif head == "fc":
        x = keras.layers.MaxPooling2D(2, name=f"block{last}_pool")(x)
    model = keras.Model(inputs, _head(x, head, num_classes, seed), name=base.architecture.replace("-", "_"))
    set_encoder(model, base)
    return model


def encoder(
    base: Backbone, image_size: tuple[int, int], seed: int, last: int = 5
) -> tuple[keras.KerasTensor, dict[int, keras.KerasTensor]]:
    """The graph of Block 1..`last`: its input, and block -> the output of its last convolution, after its ReLU.

    Its weights are random, or zeros for a base with weights, which `set_encoder` then gives to the model.
    """
    height, width = parse_image_size(image_size)
    inputs = keras.Input((height, width, 3), name="image")
    x = keras.layers.Rescaling(**base.preprocessing, dtype="float32", name="preprocess")(inputs)
    ends = {}
    for block, names in list(convolutions(base.architecture).items())[:last]:
        for i, name in enumerate(names):
            initializer: keras.Initializer = keras.initializers.HeNormal(seed=seed * 100 + block * 10 + i)
            if base.arrays:  # the weights follow: random ones would take half a second
                initializer = keras.initializers.Zeros()
            x = _convolution(x, base, block, name, initializer)
        ends[block] = x
        if block < last:
            x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return inputs, ends


def set_encoder(model: keras.Model, base: Backbone) -> None:
    """Give the blocks of a model the weights of a base, if it has any."""
    names = {layer.name for layer in model.layers}
    for name, arrays in (base.arrays or {}).items():
        if name in names:
            model.get_layer(name).set_weights(arrays)


def _convolution(
    x: keras.KerasTensor, base: Backbone, block: int, name: str, initializer: keras.Initializer
) -> keras.KerasTensor:
    """A 3x3 convolution with its ReLU, and the batch normalisation between them where the network has it."""
    normalised = base.architecture == "vgg16-bn"
    options = {"padding": "same", "kernel_initializer": initializer, "name": name}
    x = keras.layers.Conv2D(base.channels[block - 1], 3, activation=None if normalised else "relu", **options)(x)
    if normalised:
        x = keras.layers.BatchNormalization(name=name.replace("conv", "bn"), epsilon=1e-5)(x)
        x = keras.layers.ReLU(name=name.replace("conv", "relu"))(x)
    return x


def reset_weights(model: keras.Model, backbone: Backbone, seed: int) -> None:
    """Give a model of `build_vgg16` with the head 'gap' or 'fc' the weights that it would be built with now."""
    set_encoder(model, backbone)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(_initializer(layer.name, seed)(layer.kernel.shape))
            layer.bias.assign(keras.ops.zeros_like(layer.bias))


def _initializer(layer: str, seed: int) -> keras.Initializer:
    """The initial values of a layer of the head.

    The last layer starts near zero, as in VGG's own training: large random weights would send large errors into the
    convolutions as soon as these are unfrozen.
    """
    if layer == "logits":
        return keras.initializers.RandomNormal(0.0, 0.01, seed=seed * 100 + 2)
    return keras.initializers.HeNormal(seed=seed * 100 + 1)


def _head(x: keras.KerasTensor, head: str, num_classes: int, seed: int) -> keras.KerasTensor:
    def dense(units: int, name: str, activation: str | None = None) -> keras.layers.Dense:
        initializer = _initializer(name, seed)
        return keras.layers.Dense(
            units, activation=activation, kernel_initializer=initializer, dtype="float32", name=name
        )

    if head == "blocks":
        x = keras.layers.Normalization(dtype="float32", name="standardise")(x)
    elif head == "gap":
        x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="gap")(x)
    else:
        x = keras.layers.Flatten(dtype="float32", name="flatten")(x)
        x = dense(FC_UNITS, "fc1", "relu")(x)
        x = keras.layers.Dropout(0.5, seed=seed, dtype="float32", name="dropout")(x)
    return dense(num_classes, "logits")(x)


def imagenet_classifier() -> tuple[keras.Model, list[str]]:
    """VGG16 with ImageNet's 1,000 classes (raw RGB in, logits out), downloaded by Keras, and the names of the classes."""
    inputs = keras.Input((224, 224, 3), name="image")
    x = keras.layers.Rescaling(**PREPROCESSING["imagenet"], dtype="float32", name="preprocess")(inputs)
    try:
        model = keras.applications.VGG16(weights="imagenet", input_tensor=x, classifier_activation=None)
        decoded = keras.applications.vgg16.decode_predictions(np.arange(1000.0)[::-1][None], top=1000)[0]
    except Exception as error:
        reason = download_reason(error)
        raise WeightsError(
            f"ImageNet's VGG16 with its classes could not be downloaded ({reason}).\n"
            "Train a model first ('xaitune train DATA') or name one with --model."
        ) from None
    first = model.get_layer("block1_conv1")
    kernel, bias = first.get_weights()  # over BGR, as PREPROCESSING says
    first.set_weights([kernel[:, :, ::-1], bias])
    return model, [name for _, name, _ in decoded]
