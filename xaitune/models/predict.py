"""Forward passes over many images, batch by batch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from xaitune.models.backend import BACKEND, keras, tf, to_array, torch
from xaitune.models.batches import images_at_once
from xaitune.models.tracing import Traced


def forward_pass(model: keras.Model) -> Callable[[np.ndarray], Any]:
    """Inputs (n, ...) float32 -> the model's outputs as tensors of the backend, in inference and for any n."""

    def forward(batch: Any) -> Any:
        return model(batch, training=False)

    if BACKEND == "torch":
        return torch.no_grad()(lambda batch: forward(keras.ops.convert_to_tensor(batch)))
    return Traced(forward, [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])


class Predictor:
    """Inputs (n, ...) -> the model's one output (n, ...) as float32, such as logits (n, classes).

    Inputs are passed in batches of `batch_size`; without one they must be images, and `images_at_once` gives the batch
    size. Each call uses the model's current weights.
    """

    def __init__(self, model: keras.Model, batch_size: int | None = None) -> None:
        self.batch_size = batch_size or images_at_once(*model.input_shape[1:3])
        self.output_shape = model.output_shape[1:]

        self.forward = forward_pass(model)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        starts = range(0, len(inputs), self.batch_size)
        rows = [to_array(self.forward(np.asarray(inputs[i : i + self.batch_size], np.float32))) for i in starts]
        return np.concatenate(rows) if rows else np.zeros((0, *self.output_shape), np.float32)
