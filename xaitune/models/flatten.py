"""Any Keras image classifier as one flat graph that ends in logits."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from xaitune.errors import ModelError
from xaitune.models.backend import keras
from xaitune.models.keras_private import is_called_once, last_input
from xaitune.models.model_files import reason_of
from xaitune.models.precision import copy_layers, copy_of

HOW_TO_FLATTEN = "Build it as one flat graph of Keras's own layers, from backbone.output instead of backbone(inputs)"
ENDINGS = ("softmax", "sigmoid", "linear")


def as_classifier(model: keras.Model) -> keras.Model:
    """A model with one input and one output as one flat graph that ends in logits; the model itself if it is one already.

    Nested models are unwrapped and a final softmax or sigmoid is removed, in a copy with the same weights: the caller's
    model is not changed, nor is its graph. A single unit z becomes the two logits (0, z). The copy must give the model's
    logits for two images of noise. Raises ModelError, which says how to fix it, for a model that cannot be copied or
    whose last activation is another one.
    """
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # makes a Sequential a graph too
    flat = all(not isinstance(layer, keras.Model) and is_called_once(layer) for layer in graph.layers)
    one_unit = model.output_shape[-1] == 1
    graph = graph if flat else _unwrapped(graph)
    last = graph.operations[-1]
    activation = _activation_name(last)
    if activation == "linear" and flat and not one_unit:
        return graph if isinstance(model, keras.Sequential) else model
    if activation not in ENDINGS:
        raise ModelError(
            f"It ends in {last.name!r} with {activation}, whose logits cannot be told. "
            "Build it with activation=None (logits), softmax or sigmoid."
        )
    if activation != "linear":
        graph = _without_activation(graph, last, activation)
    copy_layers(_innermost_layers(model), graph.layers)
    _require_same_logits(graph, model)
    return _two_classes(graph) if one_unit else graph


def has_labels(model: keras.Model) -> bool:
    """Whether a model ends in a sigmoid of several units: labels of which any number may hold, not classes that compete."""
    last = model.operations[-1] if getattr(model, "operations", None) else None
    while isinstance(last, keras.Model):
        last = last.operations[-1]
    return last is not None and _activation_name(last) == "sigmoid" and model.output_shape[-1] > 1


def _innermost_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield from _innermost_layers(layer) if isinstance(layer, keras.Model) else [layer]


def _unwrapped(graph: keras.Model) -> keras.Model:
    """A copy of the graph, of new layers, in which nested models are replaced by their layers."""

    def inline(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer.call(*args, **kwargs) if isinstance(layer, keras.Model) else layer(*args, **kwargs)

    try:
        while any(isinstance(layer, keras.Model) for layer in graph.layers):
            graph = keras.models.clone_model(graph, clone_function=copy_of, call_function=inline, recursive=True)
        # Once more, since inlined layers have been called twice.
        return keras.models.clone_model(graph, clone_function=copy_of)
    except Exception as error:  # clashing names, subclassed models and lambdas raise different errors
        raise ModelError(f"Its nested models cannot be unwrapped ({reason_of(error)}). {HOW_TO_FLATTEN}.") from None


def _activation_name(last: Any) -> str:
    """The activation that the last operation (a layer or not) applies: 'linear', 'softmax' or another name."""
    name = getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())
    if name in ("softmax", "log_softmax"):
        return "softmax"
    return name if hasattr(keras.activations, name) else "linear"


def _without_activation(graph: keras.Model, last: Any, activation: str) -> keras.Model:
    if not getattr(last, "weights", None):  # the activation is an operation of its own: end the graph before it
        return keras.Model(graph.input, last.input, name=graph.name)

    def clone(layer: Any) -> Any:
        return copy_of(layer, **({"activation": "linear"} if layer is last else {}))

    try:
        return keras.models.clone_model(graph, clone_function=clone)
    except Exception as error:  # see _unwrapped
        raise ModelError(
            f"It ends in {last.name!r} with {activation} and cannot be copied without it ({reason_of(error)}). "
            "Build it with activation=None (logits)."
        ) from None


def _two_classes(graph: keras.Model) -> keras.Model:
    """A copy of a graph with one unit z whose output is the logits (0, z), of class 0 and class 1."""
    last = graph.operations[-1]
    dense = type(last) is keras.layers.Dense

    def clone(layer: Any) -> Any:
        return copy_of(layer, **({"units": 2} if dense and layer is last else {}))

    copy = keras.models.clone_model(graph, clone_function=clone)
    copy_layers([layer for layer in graph.layers if not (dense and layer is last)], copy.layers)
    if dense:
        copy.layers[-1].set_weights([np.concatenate([np.zeros_like(w), w], axis=-1) for w in last.get_weights()])
        return copy
    z = copy.output
    return keras.Model(copy.input, keras.ops.concatenate([keras.ops.zeros_like(z), z], axis=1), name=graph.name)


def _require_same_logits(graph: keras.Model, model: keras.Model) -> None:
    """Raise ModelError if the copy gives other logits, as it does where a layer keeps state outside its weights."""
    images = np.random.default_rng(0).uniform(0, 255, (2, *model.input_shape[1:])).astype(np.float32)
    logits = np.asarray(keras.ops.convert_to_numpy(graph(images, training=False)), float)
    expected = _logits(model, images)
    if not np.allclose(logits, expected, rtol=1e-3, atol=1e-4 * max(float(np.abs(expected).max()), 1e-3)):
        raise ModelError(
            f"A flat copy of it gives other outputs: a layer keeps state outside its weights. {HOW_TO_FLATTEN}."
        )


def _logits(model: keras.Model, images: Any) -> np.ndarray:
    """The model's logits for images, from the inputs of its last operation: behind a softmax most differences vanish."""
    graph = keras.Model(model.inputs[0], model.outputs[0])
    last = graph.operations[-1]
    tensor = last_input(graph)
    direct = tensor is graph.inputs[0]  # there is nothing before it
    before = images if direct else keras.Model(graph.inputs[0], tensor)(images, training=False)
    if isinstance(last, keras.Model):
        return _logits(last, before)
    if _activation_name(last) == "linear":
        output = model(images, training=False)
    elif type(last) is keras.layers.Dense:
        output = keras.ops.matmul(keras.ops.cast(before, "float32"), last.kernel)
        output = output + last.bias if last.use_bias else output
    else:
        output = before  # the activation is an operation of its own
    return np.asarray(keras.ops.convert_to_numpy(output), float)
