"""Private names of Keras and TensorFlow that xaitune needs, each in one function; a test says with which versions they work.

Nothing public does the same: a report to their authors would name what stands here.
"""

import contextlib
from typing import Any

SEEN_TO_WORK = {"keras": ("3.8", "3.15"), "tensorflow": ("2.18", "2.21")}  # the oldest and the newest version tried


def is_called_once(layer: Any) -> bool:
    """Whether a layer stands at one place in its graph, and so has one output."""
    return len(layer._inbound_nodes) == 1


def inputs_of(operation: Any) -> list[Any] | None:
    """The operations whose results an operation takes; None where it is called more than once."""
    nodes = operation._inbound_nodes
    return [node.operation for node in nodes[0].parent_nodes] if len(nodes) == 1 else None


def sum_gradients_ourselves(optimizer: Any) -> None:
    """Keep a Keras optimizer from summing gradients over graphics cards, which the training step does before it clips them.

    With one card too: TensorFlow registers a gradient for each such sum, and so keeps its graph for ever.
    """
    optimizer._all_reduce_sum_gradients = lambda pairs: pairs


def dismantle(concrete_function: Any) -> None:
    """Take a TensorFlow graph apart, so that its memory is freed.

    TensorFlow leaves that to Python, which cannot: graph and operations hold each other where its collector does not
    look. The graph would stay for ever, and with it the weights of a model that nobody uses any more.
    """
    with contextlib.suppress(Exception):  # Python may be ending
        from tensorflow.python.framework import func_graph

        func_graph.dismantle_func_graph(concrete_function.graph)


def scaled_optimizer(kind: type[Any], factors: tuple[float, ...]) -> type[Any]:
    """A Keras optimizer class whose learning rate, and with it its weight decay, has a factor for each variable.

    `factors`: one for each variable that the optimizer will be built for, in their order.
    """

    class Scaled(kind):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            rate = learning_rate * factors[self._get_variable_index(variable)]
            if self.weight_decay is not None:
                self.assign_sub(variable, variable * self.weight_decay * rate)
            super().update_step(gradient, variable, rate)

        def _apply_weight_decay(self, variables: Any) -> None:
            """Done in each variable's step, at its own rate."""

    return Scaled if any(factor != 1 for factor in factors) else kind
