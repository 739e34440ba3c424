"""keras_private.py: each private name of Keras and TensorFlow works as its function says."""

import configparser
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from xaitune.models.backend import BACKEND, keras, tf
from xaitune.models.keras_private import (
    SEEN_TO_WORK,
    dismantle,
    inputs_of,
    is_called_once,
    scaled_optimizer,
    sum_gradients_ourselves,
)

needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras runs on another backend")


@needs_tensorflow
def test_the_private_names_exist():
    """The message says which versions have them; the other tests check what they do."""
    from tensorflow.python.framework import func_graph

    layer = keras.layers.Dense(1)
    layer(keras.Input((2,)))
    node = next(iter(getattr(layer, "_inbound_nodes", [])), None)
    methods = ("_all_reduce_sum_gradients", "_apply_weight_decay", "_get_variable_index", "assign_sub", "update_step")
    names = [
        (layer, "_inbound_nodes"),
        *((node, name) for name in ("operation", "parent_nodes")),
        *((keras.optimizers.SGD, name) for name in methods),
        (func_graph, "dismantle_func_graph"),
    ]
    missing = [name for owner, name in names if not hasattr(owner, name)]
    tested = ", ".join(f"{name} {oldest} to {newest}" for name, (oldest, newest) in SEEN_TO_WORK.items())
    assert not missing, (
        f"keras {keras.__version__} and tensorflow {tf.__version__} lack {missing}, which xaitune.models.keras_private "
        f"uses. These names were seen to work with {tested}."
    )


def test_the_oldest_versions_seen_to_work_are_the_oldest_that_setup_cfg_allows():
    config = configparser.ConfigParser()
    assert config.read(Path(__file__).parents[2] / "setup.cfg")
    minimum = dict(
        line.split(">=")
        for line in config["options"]["install_requires"].split()
        if line.split(">=")[0] in SEEN_TO_WORK
    )
    assert minimum == {name: oldest for name, (oldest, _) in SEEN_TO_WORK.items()}


# ---- layers


def test_a_layer_is_called_once_until_it_is_called_again():
    layer, inputs = keras.layers.Dense(2), keras.Input((2,))
    assert not is_called_once(layer)  # not called at all
    x = layer(inputs)
    assert is_called_once(layer)
    layer(x)
    assert not is_called_once(layer)


def test_calls_on_arrays_do_not_count():
    layer = keras.layers.Dense(2)
    layer(keras.Input((2,)))
    layer(np.ones((1, 2), np.float32))
    assert is_called_once(layer)


def test_inputs_of_layers_and_operations():
    inputs = keras.Input((2,))
    first, second, third = (keras.layers.Dense(2) for _ in range(3))
    add = keras.layers.Add()
    x = first(inputs)
    model = keras.Model(inputs, keras.ops.relu(add([second(x), third(x)])))
    entry, last = model.operations[0], model.operations[-1]  # of which the last is not a layer
    assert inputs_of(entry) == []
    assert inputs_of(first) == [entry]
    assert inputs_of(second) == inputs_of(third) == [first]
    assert inputs_of(add) == [second, third]
    assert inputs_of(last) == [add]


def test_inputs_of_an_operation_not_called_exactly_once():
    layer = keras.layers.Dense(2)
    assert inputs_of(layer) is None
    layer(layer(keras.Input((2,))))
    assert inputs_of(layer) is None


# ---- optimizers


def step(optimizer, variables, gradient=(1.0, -4.0)):
    """The variables after one step with the same gradient for each."""
    optimizer.build(variables)
    optimizer.apply([keras.ops.convert_to_tensor(gradient)] * len(variables), variables)
    return [keras.ops.convert_to_numpy(v) for v in variables]


def test_a_scaled_sgd_step_by_hand():
    """v - factor * rate * g, with v = (1, 2), g = (1, -4) and rate 0.5."""
    variables = [keras.Variable([1.0, 2.0]) for _ in range(3)]
    same, quarter, none = step(scaled_optimizer(keras.optimizers.SGD, (1.0, 0.25, 0.0))(learning_rate=0.5), variables)
    np.testing.assert_allclose(same, [0.5, 4.0], rtol=1e-6)
    np.testing.assert_allclose(quarter, [0.875, 2.5], rtol=1e-6)
    np.testing.assert_array_equal(none, [1.0, 2.0])


def test_weight_decay_is_scaled_by_the_same_factor():
    """v * (1 - decay * factor * rate) - factor * rate * g, with decay 0.1: it is applied once, at the variable's rate."""
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])]
    optimizer = scaled_optimizer(keras.optimizers.SGD, (1.0, 0.25))(learning_rate=0.5, weight_decay=0.1)
    same, quarter = step(optimizer, variables)
    np.testing.assert_allclose(same, [0.95 - 0.5, 1.9 + 2.0], rtol=1e-6)
    np.testing.assert_allclose(quarter, [0.9875 - 0.125, 1.975 + 0.5], rtol=1e-6)


def test_an_optimizer_without_other_factors_is_left_as_it_is():
    assert scaled_optimizer(keras.optimizers.Adam, (1.0, 1.0)) is keras.optimizers.Adam
    assert issubclass(scaled_optimizer(keras.optimizers.Adam, (1.0, 2.0)), keras.optimizers.Adam)


@needs_tensorflow
def test_keras_sums_gradients_by_the_attribute_that_is_replaced(monkeypatch):
    """Keras's own method is called in every step, and no longer after `sum_gradients_ourselves`."""
    calls = []
    real = keras.optimizers.SGD._all_reduce_sum_gradients
    monkeypatch.setattr(
        keras.optimizers.SGD,
        "_all_reduce_sum_gradients",
        lambda self, pairs: (calls.append(len(pairs)), real(self, pairs))[1],
    )
    (plain,) = step(keras.optimizers.SGD(learning_rate=0.5), [keras.Variable([1.0, 2.0])])
    assert calls == [1]
    optimizer = keras.optimizers.SGD(learning_rate=0.5)
    sum_gradients_ourselves(optimizer)
    (replaced,) = step(optimizer, [keras.Variable([1.0, 2.0])])
    assert calls == [1]
    np.testing.assert_array_equal(replaced, plain)


# ---- graphs


def concrete_step(optimizer):
    """A training step of a tiny model, traced."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer.build(model.trainable_variables)

    def step(inputs):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs, training=True))
        optimizer.apply(tape.gradient(loss, [v.value for v in model.trainable_variables]), model.trainable_variables)
        return loss

    return tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec((None, 2)))


@needs_tensorflow
def test_without_keras_sums_a_graph_can_be_freed():
    optimizer = keras.optimizers.SGD()
    sum_gradients_ourselves(optimizer)
    concrete = concrete_step(optimizer)
    graph = weakref.ref(concrete.graph)
    del concrete, optimizer
    gc.collect()
    assert graph() is None


@needs_tensorflow
def test_a_dismantled_graph_is_freed():
    """Its operations and captured tensors at once, the rest when the garbage collector runs."""
    optimizer = keras.optimizers.SGD()
    sum_gradients_ourselves(optimizer)
    concrete = concrete_step(optimizer)
    graph = concrete.graph
    assert graph.get_operations()
    assert graph.captures
    dismantle(concrete)
    assert not graph.get_operations()
    assert not graph.captures
    graph = weakref.ref(graph)
    del concrete, optimizer
    gc.collect()
    assert graph() is None
