"""Any Keras image classifier as one flat graph that ends in logits, and its convolution stages by name."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from xaitune.errors import ModelError
from xaitune.models.backend import keras
from xaitune.models.keras_private import is_called_once
from xaitune.models.precision import copy_layers

STAGE = re.compile(r"(block|stage|layer|conv)_?(\d+)(?![\dd])", re.IGNORECASE)  # not Keras's default name conv2d_1
NO_STAGE_END = ("Pooling", "Padding", "Dropout")  # in a class name: the maps of a stage are taken before such a layer
HOW_TO_FLATTEN = "Build it as one flat graph of Keras's own layers, from backbone.output instead of backbone(inputs)"


def find_stages(model: keras.Model) -> dict[int, str]:
    """Map each block of a flat model to the name of the layer whose output its maps are made from.

    Layers with an (n, h, w, c) output are grouped by the word and number that their names begin with: block3_conv1,
    conv4_block6_out, stage2_..., layer1_...; if there are several such words, the one with the most numbers is used.
    A block's layer is its last one that is not a pooling, padding or dropout layer: in VGG the last convolution after
    its ReLU, in ResNet the sum after its ReLU. Blocks count from 1 in the order of the numbers. Raises ModelError for
    a model without such names.
    """
    stages_by_word: dict[str, dict[int, str]] = {}
    for layer in model.layers:  # from the input on
        match = STAGE.match(layer.name)
        once = is_called_once(layer)  # a layer that is called twice has no single output
        if match and once and len(layer.output.shape) == 4 and not any(w in type(layer).__name__ for w in NO_STAGE_END):
            stages_by_word.setdefault(match[1].lower(), {})[int(match[2])] = layer.name
    if not stages_by_word:
        first_names = ", ".join(layer.name for layer in model.layers[1:5])
        raise ModelError(
            f"{model.name!r} has no convolution stages by name, such as block1_conv1, stage1_..., layer1_... or conv1_... "
            f"(its layers: {first_names}, ...). Name the layers of each stage as keras.applications does, "
            "or use --method lime."
        )
    stages = max(stages_by_word.values(), key=len)
    return dict(enumerate((stages[number] for number in sorted(stages)), 1))


def as_classifier(model: keras.Model) -> keras.Model:
    """A model with one input and one output as one flat graph that ends in logits; the model itself if it is one already.

    Nested models are unwrapped and a final softmax is removed, in a copy with the same weights: the caller's model is
    not changed, nor is its graph. The copy must give the same output as the model for one image of noise. Raises
    ModelError, which says how to fix it, for a model that cannot be copied or whose last activation is neither linear
    nor a softmax.
    """
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # makes a Sequential a graph too
    flat = all(not isinstance(layer, keras.Model) and is_called_once(layer) for layer in graph.layers)
    graph = graph if flat else _unwrapped(graph)
    last = graph.operations[-1]
    activation = _activation_name(last)
    if activation == "linear" and flat:
        return graph if isinstance(model, keras.Sequential) else model
    if activation == "softmax":
        graph = _without_softmax(graph, last)
    elif activation != "linear":
        raise ModelError(
            f"It ends in {last.name!r} with {activation}, under which classes do not compete as under a softmax. "
            "Build it with activation=None (logits)."
        )
    copy_layers(_innermost_layers(model), graph.layers)
    _require_same_output(graph, model)
    return graph


def _innermost_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield from _innermost_layers(layer) if isinstance(layer, keras.Model) else [layer]


def _unwrapped(graph: keras.Model) -> keras.Model:
    """A copy of the graph, of new layers, in which nested models are replaced by their layers."""

    def inline(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer.call(*args, **kwargs) if isinstance(layer, keras.Model) else layer(*args, **kwargs)

    try:
        while any(isinstance(layer, keras.Model) for layer in graph.layers):
            graph = keras.models.clone_model(graph, call_function=inline, recursive=True)
        return keras.models.clone_model(graph)  # once more, since inlined layers have been called twice
    except Exception as error:  # clashing names, subclassed models and lambdas raise different errors
        raise ModelError(f"Its nested models cannot be unwrapped ({_first_line(error)}). {HOW_TO_FLATTEN}.") from None


def _activation_name(last: Any) -> str:
    """The activation that the last operation (a layer or not) applies: 'linear', 'softmax' or another name."""
    name = getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())
    if name in ("softmax", "log_softmax"):
        return "softmax"
    return name if hasattr(keras.activations, name) else "linear"


def _without_softmax(graph: keras.Model, last: Any) -> keras.Model:
    if not getattr(last, "weights", None):  # the softmax is an operation of its own: end the graph before it
        return keras.Model(graph.input, last.input, name=graph.name)

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        return type(layer).from_config(config | {"activation": "linear"} if layer is last else config)

    try:
        return keras.models.clone_model(graph, clone_function=clone)
    except Exception as error:  # see _unwrapped
        raise ModelError(
            f"It ends in {last.name!r} with softmax and cannot be copied without it ({_first_line(error)}). "
            "Build it with activation=None (logits)."
        ) from None


def _require_same_output(graph: keras.Model, model: keras.Model) -> None:
    """Raise ModelError if the copy gives other outputs, as it does where a layer keeps state outside its weights."""
    image = np.random.default_rng(0).uniform(0, 255, (1, *model.input_shape[1:])).astype(np.float32)
    logits, expected = (np.asarray(keras.ops.convert_to_numpy(m(image, training=False)), float) for m in (graph, model))
    outputs = (logits, softmax(logits, axis=1), log_softmax(logits, axis=1))
    if not any(np.allclose(output, expected, rtol=1e-3, atol=1e-4) for output in outputs):
        raise ModelError(
            f"A flat copy of it gives other outputs: a layer keeps state outside its weights. {HOW_TO_FLATTEN}."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
