"""The five blocks of the VGG networks: their layers, how to freeze them, and what they cost to compute."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xaitune.config.choices import SCRATCH
from xaitune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import keras

BLOCKS = (1, 2, 3, 4, 5)
CHANNELS = (64, 128, 256, 512, 512)
# Convolutions in each block (Simonyan and Zisserman 2015, configurations D and E).
COUNTS = {"vgg16": (2, 2, 3, 3, 3), "vgg16-bn": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
LENET_FILTERS = (6, 16, 120)
XRAY_FILTERS = (32, 64, 128, 128, 256)
BASE_LAYER = re.compile(r"block(\d)_(conv|bn)\d")


def convolutions(architecture: str = "vgg16") -> dict[int, tuple[str, ...]]:
    """Block -> the names of its convolutions, which are Keras's.

    Examples:
        >>> convolutions("vgg19")[3]
        ('block3_conv1', 'block3_conv2', 'block3_conv3', 'block3_conv4')
    """
    counts = zip(BLOCKS, COUNTS[architecture], strict=True)
    return {block: tuple(f"block{block}_conv{i}" for i in range(1, count + 1)) for block, count in counts}


def freeze_blocks(model: "keras.Model", through: int, also: Sequence[int] = ()) -> "keras.Model":
    """Freeze Block 1..`through` of a VGG network and unfreeze the rest, in place; compile the model afterwards.

    0 freezes nothing, 5 is feature extraction. `also`: further blocks to freeze. The batch normalisation of a frozen block
    stays in inference mode. Raises ConfigError outside 0..5, and ModelError for a model without VGG's blocks.

    Examples:
        >>> from xaitune import build_vgg16
        >>> model = freeze_blocks(build_vgg16(3, image_size=(32, 32), weights="slim"), 3)
        >>> [model.get_layer(name).trainable for name in ("block3_conv3", "block4_conv1")]
        [False, True]
    """
    if not isinstance(through, int) or isinstance(through, bool) or not 0 <= through <= 5:
        raise ConfigError(f"freeze_through must be 0..5 (0 freezes nothing, 5 all of VGG16). Received: {through!r}.")
    if through or also:
        architecture_of(model)
    model.trainable = True
    for layer in base_layers(model):
        block = int(layer.name[5])
        layer.trainable = block > through and block not in also
    return model


def architecture_of(model: "keras.Model") -> str:
    """The name of a VGG network with all its blocks in one flat graph; raises ModelError for another model."""
    names = {layer.name for layer in model.layers}
    missing = [name for block in convolutions().values() for name in block if name not in names]
    if missing:
        nested = [layer.name for layer in model.layers if hasattr(layer, "layers")]
        hint = (
            f" Its layers are inside {nested[0]!r}: build it flat, from the backbone's output."
            if nested
            else " Use a model that xaitune trained, or one from build_vgg16."
        )
        raise ModelError(f"Not a VGG16 with named blocks: layer {missing[0]!r} is missing.{hint}")
    if "block5_conv4" in names:
        return "vgg19"
    return "vgg16-bn" if "block1_bn1" in names else "vgg16"


def base_layers(model: "keras.Model") -> list["keras.layers.Layer"]:
    """The layers of the convolutional base that have weights, from the input on; empty for a model without named blocks."""
    return [layer for layer in model.layers if BASE_LAYER.fullmatch(layer.name)]


def block_ends(model: "keras.Model") -> dict[int, str]:
    """Block -> the layer whose output are its maps: its last convolution, after its ReLU."""
    ends = {}
    for layer in model.layers:
        match = re.fullmatch(r"block(\d)_(conv|relu)\d", layer.name)
        if match:
            ends[int(match[1])] = layer.name
    return ends


def block_channels(model: "keras.Model") -> tuple[int, ...]:
    """Channels of Block 1 to 5."""
    return tuple(model.get_layer(name).output.shape[-1] for name in block_ends(model).values())


def is_vgg(model: "keras.Model") -> bool:
    """Whether a flat model has layers with the names of VGG16's convolutions; so has VGG19, or a model built on either."""
    return {name for names in convolutions().values() for name in names} <= {layer.name for layer in model.layers}


def has_blocks_head(model: "keras.Model") -> bool:
    """Whether a model has the head 'blocks': a linear one on the features of one or more blocks."""
    return any(layer.name == "standardise" for layer in model.layers)


def convolution_shapes(channels: Sequence[int] = CHANNELS, architecture: str = "vgg16") -> list[tuple[int, int]]:
    """(channels in, channels out) of each convolution, for blocks with these numbers of `channels`.

    Examples:
        >>> convolution_shapes()[:4]
        [(3, 64), (64, 64), (64, 128), (128, 128)]
    """
    channels_out = [channels[block - 1] for block, names in convolutions(architecture).items() for _ in names]
    return list(zip([3, *channels_out], channels_out, strict=False))


def multiply_adds(
    image_size: Sequence[int], channels: Sequence[int] = CHANNELS, architecture: str = "vgg16"
) -> dict[int, float]:
    """Multiply-adds of each block in one forward pass: the sum of h * w * 9 * c_in * c_out over its convolutions.

    For a network that is trained from random weights, those of the whole network as block 1.

    Examples:
        >>> multiply_adds((224, 224))[1]  # 224 * 224 * 9 * (3 * 64 + 64 * 64)
        1936392192.0
    """
    if architecture in SCRATCH:
        return {1: _scratch_multiply_adds(image_size, architecture)}
    shapes = iter(convolution_shapes(channels, architecture))
    costs = {}
    for block, names in convolutions(architecture).items():
        pixels = (image_size[0] >> (block - 1)) * (image_size[1] >> (block - 1))
        costs[block] = sum(9.0 * pixels * i * o for i, o in (next(shapes) for _ in names))
    return costs


def weight_count(image_size: Sequence[int], channels: Sequence[int] = CHANNELS, architecture: str = "vgg16") -> int:
    """About how many weights a network has, for an estimate: those of the convolutions, and of dense layers on whole maps.

    Examples:
        >>> weight_count((224, 224))  # VGG16 without its top has 14,714,688, biases included
        14710464
    """
    if architecture == "xray-cnn":
        maps = (image_size[0] >> 5) * (image_size[1] >> 5) * XRAY_FILTERS[-1]
        return sum(9 * i * o for i, o in zip((1, *XRAY_FILTERS), XRAY_FILTERS, strict=False)) + 128 * maps
    if architecture in SCRATCH:
        last = [(side - 9) // 2 - 4 for side in image_size]
        return (
            sum(25 * i * o for i, o in zip((3, *LENET_FILTERS), LENET_FILTERS, strict=False))
            + 84 * 120 * last[0] * last[1]
        )
    return sum(9 * i * o for i, o in convolution_shapes(channels, architecture))


def _scratch_multiply_adds(image_size: Sequence[int], architecture: str) -> float:
    """Multiply-adds of the convolutions, and of LeNet's dense layer, which has as many weights."""
    height, width = image_size
    if architecture == "xray-cnn":
        pairs = zip((1, *XRAY_FILTERS), XRAY_FILTERS, strict=False)
        return sum(9.0 * (height >> b) * (width >> b) * i * o for b, (i, o) in enumerate(pairs))
    sides = [(height - 4, width - 4), (height - 9, width - 9), ((height - 9) // 2 - 4, (width - 9) // 2 - 4)]
    pairs = zip((3, *LENET_FILTERS), LENET_FILTERS, strict=False)
    convolved = sum(25.0 * h * w * i * o for (h, w), (i, o) in zip(sides, pairs, strict=True))
    return convolved + 84.0 * sides[-1][0] * sides[-1][1] * LENET_FILTERS[-1]
