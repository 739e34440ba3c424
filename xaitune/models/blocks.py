"""VGG16's five blocks: their layers, how to freeze them, and what they cost to compute."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xaitune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import keras

# Block -> its convolutions (Simonyan and Zisserman 2015, configuration D), by Keras's names.
BLOCKS = {b: tuple(f"block{b}_conv{i}" for i in range(1, count + 1)) for b, count in enumerate((2, 2, 3, 3, 3), 1)}
CHANNELS = (64, 128, 256, 512, 512)


def freeze_blocks(model: "keras.Model", through: int, also: Sequence[int] = ()) -> "keras.Model":
    """Freeze Block 1..`through` of a VGG16 and unfreeze the rest, in place; compile the model afterwards.

    0 freezes nothing, 5 is feature extraction. `also`: further blocks to freeze. Raises ConfigError outside 0..5, and
    ModelError for a model without VGG16's blocks.

    Examples:
        >>> from xaitune import build_vgg16
        >>> model = freeze_blocks(build_vgg16(3, image_size=(32, 32), weights="slim"), 3)
        >>> [model.get_layer(name).trainable for name in ("block3_conv3", "block4_conv1")]
        [False, True]
    """
    if not isinstance(through, int) or isinstance(through, bool) or not 0 <= through <= 5:
        raise ConfigError(f"freeze_through must be 0..5 (0 freezes nothing, 5 all of VGG16). Received: {through!r}.")
    layers = {block: [model.get_layer(name) for name in names] for block, names in require_blocks(model).items()}
    model.trainable = True
    for block, convolutions in layers.items():
        for layer in convolutions:
            layer.trainable = block > through and block not in also
    return model


def require_blocks(model: "keras.Model") -> dict[int, tuple[str, ...]]:
    """Return BLOCKS after checking that the model has them all in one flat graph; raises ModelError if it does not."""
    names = {layer.name for layer in model.layers}
    missing = [name for block in BLOCKS.values() for name in block if name not in names]
    if missing:
        nested = [layer.name for layer in model.layers if hasattr(layer, "layers")]
        hint = (
            f" Its layers are inside {nested[0]!r}: build it flat, from the backbone's output."
            if nested
            else " Use a model that xaitune trained, or one from build_vgg16."
        )
        raise ModelError(f"Not a VGG16 with named blocks: layer {missing[0]!r} is missing.{hint}")
    return BLOCKS


def is_vgg(model: "keras.Model") -> bool:
    """Whether a flat model has layers with the names of VGG16's convolutions; so has VGG19, or a model built on either."""
    return {name for names in BLOCKS.values() for name in names} <= {layer.name for layer in model.layers}


def has_blocks_head(model: "keras.Model") -> bool:
    """Whether a model has the head 'blocks': a linear one on the features of one or more blocks."""
    return any(layer.name == "standardise" for layer in model.layers)


def convolution_shapes(channels: Sequence[int] = CHANNELS) -> list[tuple[int, int]]:
    """(channels in, channels out) of each of the 13 convolutions, for blocks with these numbers of `channels`.

    Examples:
        >>> convolution_shapes()[:4]
        [(3, 64), (64, 64), (64, 128), (128, 128)]
    """
    channels_out = [channels[block - 1] for block, names in BLOCKS.items() for _ in names]
    return list(zip([3, *channels_out], channels_out, strict=False))


def multiply_adds(image_size: Sequence[int], channels: Sequence[int] = CHANNELS) -> dict[int, float]:
    """Multiply-adds of each block in one forward pass: the sum of h * w * 9 * c_in * c_out over its convolutions.

    Examples:
        >>> multiply_adds((224, 224))[1]  # 224 * 224 * 9 * (3 * 64 + 64 * 64)
        1936392192.0
    """
    shapes = iter(convolution_shapes(channels))
    costs = {}
    for block, names in BLOCKS.items():
        pixels = (image_size[0] >> (block - 1)) * (image_size[1] >> (block - 1))
        costs[block] = sum(9.0 * pixels * i * o for i, o in (next(shapes) for _ in names))
    return costs
