"""One training step, the same on TensorFlow and torch, with one GPU, several or none."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaitune.models.backend import BACKEND, gpus, keras, tf, torch
from xaitune.models.keras_private import sum_gradients_ourselves
from xaitune.models.tracing import Traced

# The loss; the total weight of the correctly classified images, and that of all images; the share of the clipped parts.
Scalars = tuple[Any, Any, Any, Any]


def training_scope() -> contextlib.AbstractContextManager[Any]:
    """The context in which a model to be trained, its optimizer and its `TrainingStep` must be made.

    With several GPUs under TensorFlow, all of them train the model (MirroredStrategy); otherwise it does nothing.
    """
    mirrored = BACKEND == "tensorflow" and gpus() > 1
    return _strategy().scope() if mirrored else contextlib.nullcontext()


@functools.cache
def _strategy() -> Any:
    return tf.distribute.MirroredStrategy()


class Gradients:
    """The gradients of a loss with respect to a model's trainable variables, which any optimizer can then apply.

    `compute` takes tensors (inputs, targets, sample weights) and gives the loss, the weight of the correctly classified
    images, that of all images and the clipped share over the batch, with the gradients. Targets are one-hot
    (n, classes), or indices (n,) for a sparse loss. For a segmentation `loss` is a `pixel_loss`, targets and weights are
    (n, h, w), and pixels take the place of images. `parts` names the part of the model that each trainable variable
    belongs to. The gradient of a part whose norm exceeds `clip_norm` is scaled down to that norm; the clipped share is
    that of such parts. A norm over all variables would clip a model more, the more of its blocks are trained.
    """

    def __init__(
        self, model: keras.Model, loss: Callable[..., Any], clip_norm: float, parts: Sequence[int | str]
    ) -> None:
        self.model, self.variables = model, model.trainable_variables
        self.pixels = len(model.output_shape) == 4
        self.sparse = self.pixels or isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        self.compute = _gradient_function(model, loss, self.sparse, clip_norm, parts)

    @functools.cached_property
    def traced(self) -> Traced:
        """`compute` under TensorFlow, traced once for arrays of any batch size."""
        each = self.model.output_shape[:-1]  # one label and one weight for each
        target_spec = tf.TensorSpec(each, tf.int64) if self.sparse else tf.TensorSpec(self.model.output_shape)
        signature = [tf.TensorSpec((None, *self.model.input_shape[1:])), target_spec, tf.TensorSpec(each)]
        return Traced(self.compute, signature)


class TrainingStep:
    """One training step: (inputs, targets, sample weights) -> (loss, weighted accuracy, clipped share) over the batch.

    `optimizer` must have been built for the variables of `gradients`. Under TensorFlow the gradients and the optimizer's
    update are traced apart, so that steps with different optimizers share the gradients, whose tracing takes longer. For
    a model made in `training_scope`, each GPU takes an equal part of the batch, filled up with images of weight 0; the
    weights are scaled so that the loss is the mean over the batch, as with one GPU.
    """

    def __init__(self, gradients: Gradients, optimizer: keras.optimizers.Optimizer) -> None:
        self.sparse = gradients.sparse
        self.step = (_torch_step if BACKEND == "torch" else _tensorflow_step)(gradients, optimizer)

    def __call__(
        self, inputs: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray
    ) -> tuple[float, float, float]:
        target_type = np.int64 if self.sparse else np.float32
        scalars = self.step(
            np.asarray(inputs, np.float32), np.asarray(targets, target_type), np.asarray(sample_weight, np.float32)
        )
        loss, correct, total, clipped = (float(keras.ops.convert_to_numpy(t)) for t in scalars)
        return loss, correct / total if total else 0.0, clipped


def _correct_and_total(targets: Any, logits: Any, weights: Any, sparse: bool) -> tuple[Any, Any]:
    """The total weight of the correctly classified images, and that of all images."""
    true = targets if sparse else keras.ops.argmax(targets, axis=1)
    top = keras.ops.cast(keras.ops.argmax(logits, axis=-1), "int64")
    correct = keras.ops.cast(keras.ops.equal(top, keras.ops.cast(true, "int64")), "float32")
    return keras.ops.sum(correct * weights), keras.ops.sum(weights)


def _clipped(gradients: Sequence[Any], parts: Sequence[int | str], clip_norm: float) -> tuple[list[Any], Any, Any]:
    """The gradients, scaled down part by part, the share of the parts that are, and whether all gradients are finite.

    Keras's optimizers would do it for each GPU's part of the batch separately.
    """
    squares: dict[int | str, Any] = {}
    for gradient, part in zip(gradients, parts, strict=True):
        squares[part] = squares.get(part, 0.0) + keras.ops.sum(keras.ops.square(gradient))
    scales = {part: clip_norm / keras.ops.maximum(keras.ops.sqrt(s), clip_norm) for part, s in squares.items()}
    share = sum(keras.ops.cast(scale < 1, "float32") for scale in scales.values()) / max(len(scales), 1)
    finite = keras.ops.isfinite(sum(squares.values()))
    return [g * scales[part] for g, part in zip(gradients, parts, strict=True)], share, finite


def _gradient_function(
    model: keras.Model, loss: Callable[..., Any], sparse: bool, clip_norm: float, parts: Sequence[int | str]
) -> Callable[..., tuple[Scalars, list[Any]]]:
    variables = model.trainable_variables

    def torch_gradients(inputs: Any, targets: Any, weights: Any) -> tuple[Any, Any, Sequence[Any]]:
        logits = model(inputs, training=True)
        value = loss(targets, logits, weights)
        gradients = torch.autograd.grad(value, [v.value for v in variables])
        return value.detach(), logits.detach(), gradients

    def tensorflow_gradients(inputs: Any, targets: Any, weights: Any) -> tuple[Any, Any, Sequence[Any]]:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            value = loss(targets, logits, weights)  # with several GPUs Keras divides by their number
        gradients = tape.gradient(value, [v.value for v in variables])
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return value, logits, gradients

    differentiate = torch_gradients if BACKEND == "torch" else tensorflow_gradients

    def compute(inputs: Any, targets: Any, weights: Any) -> tuple[Scalars, list[Any]]:
        value, logits, gradients = differentiate(inputs, targets, weights)
        gradients, clipped, finite = _clipped(gradients, parts, clip_norm)
        # oneDNN's ReLU turns NaN into 0, so that a network with weights of NaN could have a finite loss.
        value = keras.ops.where(finite, value, float("nan"))
        return (value, *_correct_and_total(targets, logits, weights, sparse), clipped), gradients

    return compute


def _torch_step(gradients: Gradients, optimizer: Any) -> Callable[..., Scalars]:
    def torch_step(*arrays: np.ndarray) -> Scalars:
        scalars, clipped_gradients = gradients.compute(*(keras.ops.convert_to_tensor(a) for a in arrays))
        with torch.no_grad():
            optimizer.apply(clipped_gradients, gradients.variables)
        return scalars

    return torch_step


def _tensorflow_step(gradients: Gradients, optimizer: Any) -> Callable[..., Scalars]:
    strategy, variables = tf.distribute.get_strategy(), gradients.variables
    replicas = strategy.num_replicas_in_sync  # one per GPU, or one in all
    sum_gradients_ourselves(optimizer)

    def replica_step(*tensors: Any) -> Scalars:
        (value, correct, total, clipped), clipped_gradients = gradients.compute(*tensors)
        optimizer.apply(clipped_gradients, variables)
        return value, correct, total, clipped / replicas

    if replicas > 1:
        return _MirroredStep(replica_step, strategy)
    update = Traced(
        lambda *values: optimizer.apply(values, variables), [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    )

    def tensorflow_step(*arrays: np.ndarray) -> Scalars:
        scalars, clipped_gradients = gradients.traced(*arrays)
        update(*clipped_gradients)
        return scalars

    return tensorflow_step


class _MirroredStep:
    """The step of one replica, run on all replicas of a strategy, each of which takes an equal part of the batch."""

    def __init__(self, replica_step: Callable[..., Scalars], strategy: Any) -> None:
        self.strategy, self.replicas = strategy, strategy.num_replicas_in_sync

        @tf.function(jit_compile=False, autograph=False)
        def all_replicas(parts: Any) -> Scalars:
            scalars = strategy.run(replica_step, args=parts)
            return tuple(strategy.reduce(tf.distribute.ReduceOp.SUM, t, axis=None) for t in scalars)

        self.all_replicas = all_replicas

    def __call__(self, inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Scalars:
        count = len(inputs)
        part_size = -(-count // self.replicas)
        padded = np.arange(part_size * self.replicas)  # positions in the batch, then those that fill it up
        positions = padded % count
        factor = np.where(padded < count, part_size * self.replicas / count, 0)
        scaled = weights[positions] * factor.reshape(-1, *[1] * (weights.ndim - 1))
        arrays = (inputs[positions], targets[positions], scaled.astype(np.float32))

        def part_of_replica(context: Any) -> tuple[Any, ...]:
            first = context.replica_id_in_sync_group * part_size
            return tuple(tf.constant(a[first : first + part_size]) for a in arrays)

        return self.all_replicas(self.strategy.experimental_distribute_values_from_function(part_of_replica))
