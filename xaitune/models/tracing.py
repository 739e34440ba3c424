"""A function of tensors as TensorFlow's graph, freed with its owner."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaitune.models.backend import tf
from xaitune.models.keras_private import dismantle


class Traced:
    """`function` traced once for `signature`; it takes arrays, and its graph goes when it goes."""

    def __init__(self, function: Callable[..., Any], signature: Sequence[Any]) -> None:
        self.function = function  # holds the variables: the graph does not
        options = {"input_signature": signature, "jit_compile": False, "autograph": False}
        self.graph = tf.function(function, **options).get_concrete_function()

    def __call__(self, *arrays: np.ndarray) -> Any:
        return self.graph(*(tf.constant(array) for array in arrays))

    def __del__(self) -> None:
        if hasattr(self, "graph"):
            dismantle(self.graph)
