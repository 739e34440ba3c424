"""The private names of Keras and TensorFlow that xaitune uses, each in one function, where no public name does the same.

tests/models/test_keras_private.py checks that each of them works as its function says.
"""

import contextlib
from typing import Any

SEEN_TO_WORK = {"keras": ("3.8", "3.15"), "tensorflow": ("2.18", "2.21")}  # the oldest and the newest version tested


def is_called_once(layer: Any) -> bool:
    """Whether a layer has been called exactly once, and so has a single output."""
    return len(layer._inbound_nodes) == 1


def inputs_of(operation: Any) -> list[Any] | None:
    """The operations whose outputs an operation takes; None unless the operation has been called exactly once."""
    nodes = operation._inbound_nodes
    return [node.operation for node in nodes[0].parent_nodes] if len(nodes) == 1 else None


def origin_name(tensor: Any) -> str:
    """The name of the layer or operation that a tensor comes from."""
    return str(tensor._keras_history.operation.name)


def last_input(graph: Any) -> Any:
    """The tensor that the last operation of a model with one output takes in this graph, also if it is in others too."""
    history = graph.outputs[0]._keras_history
    return history.operation._inbound_nodes[history.node_index].input_tensors[0]


def sum_gradients_ourselves(optimizer: Any) -> None:
    """Stop a Keras optimizer from summing gradients over GPUs, which the training step does before it clips them.

    It matters with one GPU or none too: TensorFlow registers a gradient function for each such sum, which keeps the
    graph in memory for good.
    """
    optimizer._all_reduce_sum_gradients = lambda pairs: pairs


def dismantle(concrete_function: Any) -> None:
    """Free a TensorFlow graph's operations and captured tensors at once.

    A graph and its operations refer to each other: without this they stay in memory until Python's garbage collector
    happens to run.
    """
    with contextlib.suppress(Exception):  # the interpreter may be shutting down
        from tensorflow.python.framework import func_graph

        func_graph.dismantle_func_graph(concrete_function.graph)


def scaled_optimizer(kind: type[Any], factors: tuple[float, ...]) -> type[Any]:
    """A subclass of a Keras optimizer that multiplies the learning rate, and so the weight decay, by a factor per variable.

    `factors`: one for each variable that the optimizer will be built for, in their order. If all are 1, `kind` itself
    is returned.
    """

    class Scaled(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            rate = learning_rate * factors[self._get_variable_index(variable)]
            if self.weight_decay is not None:
                self.assign_sub(variable, variable * self.weight_decay * rate)
            super().update_step(gradient, variable, rate)

        def _apply_weight_decay(self, variables: Any) -> None:
            """Do nothing: `update_step` applies the decay to each variable at its own rate."""

    return Scaled if any(factor != 1 for factor in factors) else kind
