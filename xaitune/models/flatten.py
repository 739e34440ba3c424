"""Any Keras image classifier as one flat graph that ends in logits, and its named convolution stages."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from xaitune.errors import ModelError
from xaitune.models.backend import keras
from xaitune.models.keras_private import is_called_once
from xaitune.models.precision import copy_layers

STAGE = re.compile(r"(block|stage|layer|conv)_?(\d+)(?![\dd])", re.IGNORECASE)  # Keras's own conv2d_1 is no stage
NO_TAP = ("Pooling", "Padding", "Dropout")  # in a class's name: a stage's maps are made before these
FLAT = "Build it flat, from backbone.output instead of backbone(inputs), of Keras's own layers"


def find_stages(model: keras.Model) -> dict[int, str]:
    """Block -> the layer that its maps are made of, for a flat model.

    Layers with an (n, h, w, c) output belong together by the number that leads their names: block3_conv1,
    conv4_block6_out, stage2_..., layer1_...; of several such words the one with most numbers counts. A block's layer
    is its last that neither pools nor pads: VGG's last convolution after its ReLU, ResNet's sum after its ReLU.
    Blocks count from 1 in the order of these numbers. Raises ModelError for a model without such names.
    """
    words: dict[str, dict[int, str]] = {}
    for layer in model.layers:  # from the input on
        named = STAGE.match(layer.name)
        once = is_called_once(layer)  # a layer that is called twice has no single output
        if named and once and len(layer.output.shape) == 4 and not any(w in type(layer).__name__ for w in NO_TAP):
            words.setdefault(named[1].lower(), {})[int(named[2])] = layer.name
    if not words:
        some = ", ".join(layer.name for layer in model.layers[1:5])
        raise ModelError(
            f"{model.name!r} has no convolution stages by name, such as block1_conv1, stage1_..., layer1_... or conv1_... "
            f"(its layers: {some}, ...). Name the layers of each stage as keras.applications does, or use --method lime."
        )
    stages = max(words.values(), key=len)
    return dict(enumerate((stages[number] for number in sorted(stages)), 1))


def as_classifier(model: keras.Model) -> keras.Model:
    """A model of one input and output as one flat graph that ends in logits; the model itself where it is so already.

    Models within the model are unwrapped and a final softmax is left out, in a copy with the same weights: nothing of
    the caller's model is changed, nor are its layers called. The copy is asked about one image of noise and must
    answer as the model does. Raises ModelError, saying how to mend it, for what cannot be copied, and for a last
    activation other than softmax.
    """
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # a Sequential, too, is then a graph
    flat = all(not isinstance(layer, keras.Model) and is_called_once(layer) for layer in graph.layers)
    graph = graph if flat else _unwrapped(graph)
    last = graph.operations[-1]
    ending = _ending(last)
    if ending == "linear" and flat:
        return graph if isinstance(model, keras.Sequential) else model
    if ending == "softmax":
        graph = _without_softmax(graph, last)
    elif ending != "linear":
        raise ModelError(
            f"It ends in {last.name!r} with {ending}, under which classes do not compete as under a softmax. "
            "Build it with activation=None (logits)."
        )
    copy_layers(_leaves(model), graph.layers)
    _compare(graph, model)
    return graph


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]


def _unwrapped(graph: keras.Model) -> keras.Model:
    """The same graph of new layers, in which models that were called as a layer are layers of the graph."""

    def inline(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer.call(*args, **kwargs) if isinstance(layer, keras.Model) else layer(*args, **kwargs)

    try:
        while any(isinstance(layer, keras.Model) for layer in graph.layers):
            graph = keras.models.clone_model(graph, call_function=inline, recursive=True)
        return keras.models.clone_model(graph)  # once more: what was inlined has been called twice
    except Exception as error:  # names that clash, a subclassed model, a lambda: each fails in its own way
        raise ModelError(f"The models within it cannot be unwrapped ({_first_line(error)}). {FLAT}.") from None


def _ending(last: Any) -> str:
    """'linear', 'softmax', or another activation that the last operation (a layer or not) applies."""
    name = getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower())
    if name in ("softmax", "log_softmax"):
        return "softmax"
    return name if hasattr(keras.activations, name) else "linear"


def _without_softmax(graph: keras.Model, last: Any) -> keras.Model:
    if not getattr(last, "weights", None):  # a step of its own: stop before it
        return keras.Model(graph.input, last.input, name=graph.name)

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        return type(layer).from_config(config | {"activation": "linear"} if layer is last else config)

    try:
        return keras.models.clone_model(graph, clone_function=clone)
    except Exception as error:  # as above
        raise ModelError(
            f"It ends in {last.name!r} with softmax and cannot be copied without it ({_first_line(error)}). "
            "Build it with activation=None (logits)."
        ) from None


def _compare(graph: keras.Model, model: keras.Model) -> None:
    """Raise ModelError where the copy answers otherwise, as where a layer keeps something outside its weights."""
    image = np.random.default_rng(0).uniform(0, 255, (1, *model.input_shape[1:])).astype(np.float32)
    logits, wanted = (np.asarray(keras.ops.convert_to_numpy(m(image, training=False)), float) for m in (graph, model))
    given = (logits, softmax(logits, axis=1), log_softmax(logits, axis=1))
    if not any(np.allclose(g, wanted, rtol=1e-3, atol=1e-4) for g in given):
        raise ModelError(f"A flat copy of it gives other outputs: a layer keeps state outside its weights. {FLAT}.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
