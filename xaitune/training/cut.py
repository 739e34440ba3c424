"""Where a model is cut: what the frozen prefix hands on, and the part after it that is trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xaitune.models.backend import keras
from xaitune.models.blocks import block_ends, has_blocks_head
from xaitune.models.unet import is_unet

POOLED = "pooled"  # the mean and the maximum over space of each block's last convolution, (n, 2 * all channels)


def cut_layer(model: keras.Model, through: int) -> str:
    """The layer whose output the rest of the model needs if Block 1..`through` (1..5) are frozen.

    A head on the features of all blocks, and a decoder, need those of the frozen blocks too; see `cut_output`.
    """
    if is_unet(model):
        return block_ends(model)[through]
    if through < 5:
        return f"block{through}_pool"
    names = {layer.name for layer in model.layers}
    return next(name for name in (POOLED, "gap", "block5_pool") if name in names)


def cut_output(model: keras.Model, through: int) -> Any:
    """All that the rest of the model needs, as one tensor: the output of `cut_layer`.

    With a head on the features of all blocks and `through` < 5 it is that output made flat, followed by the features of
    the frozen blocks; with a decoder, the outputs of all frozen blocks made flat.
    """
    parts = _parts(model, through)
    if len(parts) == 1:
        return parts[0]
    return keras.ops.concatenate([keras.ops.reshape(keras.ops.cast(x, "float32"), (-1, _size(x))) for x in parts], 1)


def suffix_model(model: keras.Model, through: int) -> keras.Model:
    """The part of the model after the frozen prefix. It shares the model's layers, so training it trains the model."""
    if through == 0:
        return model
    parts = _parts(model, through)
    if len(parts) == 1:
        return keras.Model(parts[0], model.output)
    rest = keras.Model(parts, model.output)
    ends = np.cumsum([0, *map(_size, parts)]).tolist()
    packed = keras.Input((ends[-1],))
    columns = [
        keras.ops.reshape(packed[:, start:end], (-1, *part.shape[1:]))
        for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True)
    ]
    return keras.Model(packed, rest.call(columns))


def _parts(model: keras.Model, through: int) -> list[Any]:
    """The tensors that the rest of the model needs."""
    names = [cut_layer(model, through)]
    if is_unet(model):
        names = [cut_layer(model, block) for block in range(1, through + 1)]
    elif through < 5 and has_blocks_head(model):
        names += _pooling_layers(through)
    return [model.get_layer(name).output for name in names]


def cached_names(model: keras.Model, through: int) -> tuple[str, ...]:
    """The names of the cached features that the rest of the model needs."""
    if is_unet(model):
        return tuple(cut_layer(model, block) for block in range(1, through + 1))
    if through < 5:
        return (cut_layer(model, through), *([POOLED] if has_blocks_head(model) else []))
    # The pooled features come along: a sweep fits linear heads on them.
    return (POOLED,) if cut_layer(model, through) != "block5_pool" else ("block5_pool", POOLED)


def cached_output(model: keras.Model, name: str) -> Any:
    """The tensor of the model that is cached under this name."""
    if name != POOLED:
        return model.get_layer(name).output
    if has_blocks_head(model):
        return model.get_layer(POOLED).output
    outputs = [model.get_layer(name).output for name in block_ends(model).values()]
    kinds = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    return keras.ops.concatenate([kind(dtype="float32")(x) for x in outputs for kind in kinds], axis=1)


def suffix_inputs(model: keras.Model, through: int, cached: Sequence[np.ndarray]) -> Any:
    """The inputs of `suffix_model` for all images, from the arrays of `cached_names`."""
    if is_unet(model):
        return Packed(cached) if through > 1 else cached[0]
    if through < 5:
        pooled = has_blocks_head(model)
        return Packed([cached[0], cached[1][:, : _pooled_width(model, through)]]) if pooled else cached[0]
    if cut_layer(model, 5) == "gap":
        width = model.get_layer("gap").output.shape[-1]
        return cached[0][:, -2 * width : -width]  # the means of Block 5, whose maxima follow
    return cached[0]


def pooled_columns(channels: Sequence[int], block: int) -> slice:
    """The columns of a block's features (its means, then its maxima) among the pooled features of all blocks.

    Examples:
        >>> pooled_columns((64, 128, 256, 512, 512), 2)
        slice(128, 384, None)
    """
    first = 2 * sum(channels[: block - 1])
    return slice(first, first + 2 * channels[block - 1])


class Packed:
    """Several arrays (n, ...), indexed by rows: each made flat, one after the other, as float32."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = tuple(arrays)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, rows: Any) -> np.ndarray:
        chosen = [np.asarray(array[rows], np.float32) for array in self.arrays]
        return np.concatenate([part.reshape(len(part), -1) for part in chosen], axis=1)


def _pooling_layers(through: int) -> list[str]:
    """The pooling layers of the first blocks, in the order of their features."""
    return [f"block{block}_{kind}" for block in range(1, through + 1) for kind in ("mean", "max")]


def _pooled_width(model: keras.Model, through: int) -> int:
    return sum(model.get_layer(name).output.shape[-1] for name in _pooling_layers(through))


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.shape[1:]))
