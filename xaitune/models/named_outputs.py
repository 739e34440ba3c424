"""Forward passes of models with several named outputs: Keras models and TensorFlow SavedModels."""

from pathlib import Path

import numpy as np

from xaitune.errors import ModelError
from xaitune.models.backend import BACKEND, tf, to_array
from xaitune.models.model_files import load_model, reason_of
from xaitune.models.predict import forward_pass


class KerasOutputs:
    """Images (n, h, w, 3) -> name of an output -> its values (n, ...) float32, of the model in a .keras file.

    Raises ModelError for a file that is not a Keras model.
    """

    def __init__(self, path: Path) -> None:
        self.forward = forward_pass(load_model(path))

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
