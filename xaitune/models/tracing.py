"""A function of tensors as a TensorFlow graph that is freed together with its owner."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xaitune.models.backend import tf
from xaitune.models.keras_private import dismantle


class Traced:
    """`function` traced once for `signature` and called with arrays; its graph is freed when this object is."""

    def __init__(self, function: Callable[..., Any], signature: Sequence[Any]) -> None:
        self.function = function  # keeps the variables alive, which the graph does not
        options = {"input_signature": signature, "jit_compile": False, "autograph": False}
        self.graph = tf.function(function, **options).get_concrete_function()

    def __call__(self, *arrays: np.ndarray) -> Any:
        return self.graph(*(tf.constant(array) for array in arrays))

    def __del__(self) -> None:
        if hasattr(self, "graph"):
            dismantle(self.graph)
