"""Gradients of class logits with respect to a model's activations, from which every heatmap is made."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaitune.errors import ModelError
from xaitune.models.backend import BACKEND, keras, tf, to_array, torch
from xaitune.models.tracing import Traced

Reduce = Callable[[Any, Any], Any]  # a layer's activations and their gradients -> tensors in any structure


class ActivationGradients:
    """Activations and gradients of a model's layers, passed through `reduce`, and the logits, for images and classes.

    It is called with images (n, h, w, 3) and class indices (n,); index -1 stands for the image's top class. `reduce`
    takes a layer's activations and their gradients d logit[class] / d activation, both tensors (n, h_b, w_b, c_b), and
    returns tensors in any structure; by default it returns the two as they are. It is compiled together with the pass,
    so that only its results are copied out, as float32 arrays. All layers share one forward and one backward pass over
    activations alone: no weight gradient is computed and the model is not changed. Raises ModelError for layers that
    the model lacks or that do not lead to its logits.
    """

    def __init__(self, model: keras.Model, layers: Sequence[str], reduce: Reduce | None = None) -> None:
        self.layers, self.reduce = layers, reduce
        try:
            outputs = [model.get_layer(name).output for name in layers]
        except ValueError as error:
            raise ModelError(f"The model lacks a layer that is needed: {error}") from None
        self.taps = keras.Model(model.input, [*outputs, model.output])
        if BACKEND == "torch":
            self.gradient_pass: Callable[[np.ndarray, np.ndarray], Any] = self._torch_pass
        else:
            signature = [  # for any number of images, so that it is traced once
                tf.TensorSpec((None, *self.taps.input_shape[1:]), tf.float32),
                tf.TensorSpec((None,), tf.int32),
            ]
            self.gradient_pass = Traced(_tensorflow_pass(self.taps, layers, reduce), signature)

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> tuple[list[Any], np.ndarray]:
        tensors = self.gradient_pass(np.asarray(images, np.float32), np.asarray(classes, np.int32))
        return keras.tree.map_structure(to_array, tensors)

    def _torch_pass(self, images: np.ndarray, classes: np.ndarray) -> Any:
        inputs = keras.ops.convert_to_tensor(images)
        inputs.requires_grad_(True)  # so that frozen layers are recorded too; no gradient is computed for the image
        with torch.enable_grad():
            *activations, logits = self.taps(inputs, training=False)
            score = _chosen_logits(logits, keras.ops.convert_to_tensor(classes))
        gradients = torch.autograd.grad(score, activations, allow_unused=True)
        with torch.no_grad():
            reduced = _reduced(self.layers, [a.detach() for a in activations], gradients, self.reduce)
        return reduced, logits.detach()


def _tensorflow_pass(taps: keras.Model, layers: Sequence[str], reduce: Reduce | None) -> Callable[..., Any]:
    """A function of tensors, to be traced. It holds no `ActivationGradients`, since that holds the function's graph."""

    def gradient_pass(images: Any, classes: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)  # so that the tape records; no gradient is computed for the image
            *activations, logits = taps(images, training=False)
            score = _chosen_logits(logits, classes)
        return _reduced(layers, activations, tape.gradient(score, activations), reduce), logits

    return gradient_pass


def _chosen_logits(logits: Any, classes: Any) -> Any:
    """The sum over the images of the logit of each image's class, or of its top class where the index is -1."""
    chosen = keras.ops.where(classes < 0, keras.ops.cast(keras.ops.argmax(logits, axis=1), "int32"), classes)
    return keras.ops.sum(keras.ops.take_along_axis(logits, chosen[:, None], axis=1))


def _reduced(layers: Sequence[str], activations: Sequence[Any], gradients: Sequence[Any], reduce: Reduce | None) -> Any:
    unconnected = [name for name, gradient in zip(layers, gradients, strict=True) if gradient is None]
    if unconnected:
        raise ModelError(f"The logits have no gradient with respect to layer {unconnected[0]!r}.")
    return [reduce(a, g) if reduce else (a, g) for a, g in zip(activations, gradients, strict=True)]
