"""The convolution stages of any flat model: by the names of its layers, or by where the maps become smaller."""

import re
from typing import Any

from xaitune.errors import ModelError
from xaitune.models.backend import keras
from xaitune.models.keras_private import inputs_of, is_called_once

STAGE = re.compile(r"(block|stage|layer|conv)_?(\d+)(?![\dd])", re.IGNORECASE)  # not Keras's default name conv2d_1
NO_STAGE_END = ("Pooling", "Padding", "Dropout")  # in a class name: the maps of a stage are taken before such a layer
SMALLER = 0.6  # a stage ends where the height falls below this share of that at its beginning


def find_stages(model: keras.Model) -> dict[int, str]:
    """Map each block of a flat model to the name of the layer whose output its maps are made from; blocks count from 1.

    By name: layers with an (n, h, w, c) output are grouped by the word and number that their names begin with
    (block3_conv1, conv4_block6_out, stage2_..., layer1_...); if there are several such words, the one with the most numbers
    is used. A block's layer is its last one that is not a pooling, padding or dropout layer: in VGG the last convolution
    after its ReLU, in ResNet the sum after its ReLU. Where names tell fewer than two blocks, or two fewer than sizes do, by
    size: a stage ends where the maps become about half as high, and its layer is the last one that everything after it needs.
    Raises ModelError for a model without such a layer.
    """
    named, sized = _by_name(model), _by_size(model)
    stages = named if len(named) >= max(2, len(sized) - 1) else sized or named
    if not stages:
        first_names = ", ".join(layer.name for layer in model.layers[1:5])
        raise ModelError(
            f"{model.name!r} has no layer with maps (n, height, width, channels) (its layers: {first_names}, ...). "
            "Use --method lime."
        )
    return stages


def layers_with_maps(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Layer -> (height, width, channels) of a flat model's layers whose output heatmaps can be made from, in order."""
    return {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers if _has_maps(layer)}


def _has_maps(layer: Any) -> bool:
    return (
        is_called_once(layer)  # a layer that is called twice has no single output
        and not isinstance(layer, keras.layers.InputLayer)
        and len(getattr(layer.output, "shape", ())) == 4
    )


def _ends_stage(layer: Any) -> bool:
    return not any(word in type(layer).__name__ for word in NO_STAGE_END)


def _by_name(model: keras.Model) -> dict[int, str]:
    by_word: dict[str, dict[int, str]] = {}
    for layer in model.layers:  # from the input on
        match = STAGE.match(layer.name)
        if match and _has_maps(layer) and _ends_stage(layer):
            by_word.setdefault(match[1].lower(), {})[int(match[2])] = layer.name
    stages = max(by_word.values(), key=len, default={})
    return dict(enumerate((stages[number] for number in sorted(stages)), 1))


def _by_size(model: keras.Model) -> dict[int, str]:
    """The last layer of each size that everything after it needs, from the first layer with weights on."""
    stages: list[str] = []
    height, begun = 0.0, False
    for layer in _needed_layers(model):
        begun = begun or bool(layer.weights)
        if "Global" in type(layer).__name__:  # what follows has no place
            break
        if not begun or not _ends_stage(layer):
            continue
        if not stages or layer.output.shape[1] <= SMALLER * height:
            stages.append(layer.name)
            height = layer.output.shape[1]
        else:
            stages[-1] = layer.name
    return dict(enumerate(stages, 1))


def _needed_layers(model: keras.Model) -> list[Any]:
    """The layers with maps that every path from the input to the output goes through, from the input on."""
    operations = list(model.operations)
    last_use: dict[int, int] = {}  # of an operation's output
    for i, operation in enumerate(operations):
        last_use |= {id(source): i for source in inputs_of(operation) or ()}
    reach, needed = 0, []  # reach: the furthest operation that takes the output of one before
    for i, operation in enumerate(operations):
        if reach <= i and isinstance(operation, keras.layers.Layer) and _has_maps(operation):
            needed.append(operation)
        reach = max(reach, last_use.get(id(operation), i))
    return needed
