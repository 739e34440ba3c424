"""Forward passes of models with several named outputs: Keras models and TensorFlow SavedModels."""

from pathlib import Path
from typing import Any

import numpy as np

from xaitune.errors import ModelError
from xaitune.models.backend import BACKEND, keras, tf, to_array, torch
from xaitune.models.model_files import load_model, reason_of
from xaitune.models.tracing import Traced


class KerasOutputs:
    """Images (n, h, w, 3) -> name of an output -> its values (n, ...) float32, of the model in a .keras file.

    Raises ModelError for a file that is not a Keras model.
    """

    def __init__(self, path: Path) -> None:
        model = load_model(path)

        def forward(batch: Any) -> Any:
            return model(batch, training=False)

        if BACKEND == "torch":
            self.forward = torch.no_grad()(lambda batch: forward(keras.ops.convert_to_tensor(batch)))
        else:
            self.forward = Traced(forward, [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)])

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: to_array(values) for name, values in self.forward(images).items()}


class SavedModelOutputs:
    """As `KerasOutputs`, of a TensorFlow SavedModel that Keras exported. Raises ModelError for a damaged folder."""

    def __init__(self, path: Path) -> None:
        if BACKEND == "torch":
            raise ModelError(f"{path} is a TensorFlow SavedModel, which needs Keras's TensorFlow backend.")
        try:
            self.model = tf.saved_model.load(str(path))  # kept: it holds the variables
            self.forward = self.model.serve
        except Exception as error:  # a damaged folder fails in many ways
            raise ModelError(f"{path} cannot be loaded as a SavedModel: {reason_of(error)}") from error

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values.numpy() for name, values in self.forward(tf.constant(images)).items()}
