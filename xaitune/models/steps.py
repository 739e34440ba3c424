"""One step of training, the same on TensorFlow and torch, on one graphics card, several, or none."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaitune.models.backend import BACKEND, gpus, keras, tf, torch
from xaitune.models.keras_private import sum_gradients_ourselves
from xaitune.models.tracing import Traced

Tensors = tuple[Any, Any, Any]  # the loss, the weight of the images classified correctly, and the weight of all


def training_scope() -> contextlib.AbstractContextManager[Any]:
    """Where a model that is to be trained, its optimizer and its `TrainingStep` are made.

    With several graphics cards under TensorFlow all of them train it (MirroredStrategy); else this does nothing.
    """
    several = BACKEND == "tensorflow" and gpus() > 1
    return _strategy().scope() if several else contextlib.nullcontext()


@functools.cache
def _strategy() -> Any:
    return tf.distribute.MirroredStrategy()


class TrainingStep:
    """One step of training: (inputs, targets, sample weights) -> (loss, weighted accuracy) over the batch.

    `optimizer` is built for the model's trainable variables; targets are one-hot (n, classes), or indices (n,) for a
    sparse loss. A gradient longer than `clip_norm` over all variables is shortened to it.

    Under TensorFlow it is traced once for batches of any size, where Keras's own step is traced up to four times (with
    and without what it creates, for a whole batch and for the last). Of a model made in `training_scope` each card takes
    an equal part, filled up with images of weight 0; the weights are scaled accordingly, so that the loss is the mean over
    the batch as with one card.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: keras.losses.Loss,
        clip_norm: float,
    ) -> None:
        self.sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        make = _torch_step if BACKEND == "torch" else _tensorflow_step
        self.run = make(model, optimizer, loss, self.sparse, clip_norm)

    def __call__(self, inputs: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray) -> tuple[float, float]:
        kind = np.int64 if self.sparse else np.float32
        made = self.run(
            np.asarray(inputs, np.float32), np.asarray(targets, kind), np.asarray(sample_weight, np.float32)
        )
        value, right, weight = (float(keras.ops.convert_to_numpy(v)) for v in made)
        return value, right / weight if weight else 0.0


def _hits(targets: Any, logits: Any, weights: Any, sparse: bool) -> tuple[Any, Any]:
    """The weight of the images that are classified correctly, and of all."""
    true = targets if sparse else keras.ops.argmax(targets, axis=1)
    top = keras.ops.cast(keras.ops.argmax(logits, axis=1), "int64")
    right = keras.ops.cast(keras.ops.equal(top, keras.ops.cast(true, "int64")), "float32")
    return keras.ops.sum(right * weights), keras.ops.sum(weights)


def _clipped(gradients: Sequence[Any], clip_norm: float) -> list[Any]:
    """The gradients, shortened together; Keras's optimizers would do it for each card's part alone."""
    norm = keras.ops.sqrt(sum(keras.ops.sum(keras.ops.square(g)) for g in gradients))
    scale = clip_norm / keras.ops.maximum(norm, clip_norm)
    return [g * scale for g in gradients]


def _torch_step(
    model: keras.Model, optimizer: Any, loss: Any, sparse: bool, clip_norm: float
) -> Callable[..., Tensors]:
    variables = model.trainable_variables

    def torch_step(*arrays: np.ndarray) -> Tensors:
        inputs, targets, weights = (keras.ops.convert_to_tensor(a) for a in arrays)
        logits = model(inputs, training=True)
        value = loss(targets, logits, sample_weight=weights)
        gradients = torch.autograd.grad(value, [v.value for v in variables])
        with torch.no_grad():
            optimizer.apply(_clipped(gradients, clip_norm), variables)
            return value.detach(), *_hits(targets, logits.detach(), weights, sparse)

    return torch_step


def _tensorflow_step(
    model: keras.Model, optimizer: Any, loss: Any, sparse: bool, clip_norm: float
) -> Callable[..., Tensors]:
    variables, strategy = model.trainable_variables, tf.distribute.get_strategy()
    cards = strategy.num_replicas_in_sync
    sum_gradients_ourselves(optimizer)

    def card_step(inputs: Any, targets: Any, weights: Any) -> Tensors:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            value = loss(targets, logits, sample_weight=weights)  # with several cards Keras divides it by their number
        gradients = tape.gradient(value, [v.value for v in variables])
        if cards > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        optimizer.apply(_clipped(gradients, clip_norm), variables)
        return value, *_hits(targets, logits, weights, sparse)

    if cards > 1:
        return _SeveralCards(card_step, strategy)
    targets_of_any_number = tf.TensorSpec((None,), tf.int64) if sparse else tf.TensorSpec(model.output_shape)
    return Traced(
        card_step, [tf.TensorSpec((None, *model.input_shape[1:])), targets_of_any_number, tf.TensorSpec((None,))]
    )


class _SeveralCards:
    """The step of one card, on all cards of a strategy: each takes an equal part of the batch."""

    def __init__(self, card_step: Callable[..., Tensors], strategy: Any) -> None:
        self.strategy, self.cards = strategy, strategy.num_replicas_in_sync

        @tf.function(jit_compile=False, autograph=False)
        def all_cards(parts: Any) -> Tensors:
            value, right, weight = strategy.run(card_step, args=parts)
            return tuple(strategy.reduce(tf.distribute.ReduceOp.SUM, v, axis=None) for v in (value, right, weight))

        self.all_cards = all_cards

    def __call__(self, inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Tensors:
        count = len(inputs)
        each = -(-count // self.cards)
        places = np.arange(each * self.cards) % count
        scaled = np.where(np.arange(each * self.cards) < count, weights[places] * (each * self.cards / count), 0)
        arrays = (inputs[places], targets[places], scaled.astype(np.float32))

        def part_of_card(context: Any) -> tuple[Any, ...]:
            first = context.replica_id_in_sync_group * each
            return tuple(tf.constant(a[first : first + each]) for a in arrays)

        return self.all_cards(self.strategy.experimental_distribute_values_from_function(part_of_card))
