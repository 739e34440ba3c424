"""schedule.py: schedules and multipliers against rates computed by hand."""

import math

import numpy as np
import pytest

from xaitune.config.choices import OPTIMIZERS
from xaitune.config.settings import TrainConfig
from xaitune.models import blocks, vgg
from xaitune.models.backend import keras
from xaitune.models.keras_private import scaled_optimizer
from xaitune.models.optimizers import optimizer_class
from xaitune.training import schedule
from xaitune.training.schedule import block_factors, cuts_rate, epoch_rates, variable_parts


def all_rates(steps=2, cuts=(0, 0, 0, 0), rate=0.1, **options):
    config = TrainConfig(epochs=len(cuts), **options)
    return np.concatenate([epoch_rates(config, rate, epoch, steps, c) for epoch, c in enumerate(cuts)])


def test_constant_is_the_rate():
    np.testing.assert_array_equal(all_rates(), np.full(8, 0.1))


def test_cosine_by_hand():
    half = math.sqrt(0.5)
    expected = [0.1, 0.05 * (1 + half), 0.05, 0.05 * (1 - half)]
    np.testing.assert_allclose(all_rates(steps=1, schedule="cosine"), expected, rtol=1e-12)


def test_warm_up_rises_in_equal_steps_and_cosine_falls_over_the_rest():
    expected = [0.025, 0.05, 0.075, 0.1]  # two epochs of two steps
    np.testing.assert_allclose(all_rates(warmup_epochs=2), [*expected, *[0.1] * 4])
    cosine = [0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    np.testing.assert_allclose(all_rates(warmup_epochs=2, schedule="cosine"), [*expected, *cosine])


def test_plateau_by_hand():
    assert (schedule.PLATEAU_EPOCHS, schedule.PLATEAU_FACTOR) == (2, 0.3)
    plateau = all_rates(steps=1, schedule="plateau", cuts=(0, 0, 1, 2))
    np.testing.assert_allclose(plateau, [0.1, 0.1, 0.03, 0.009])
    np.testing.assert_allclose(all_rates(steps=1, cuts=(0, 0, 1, 2)), 0.1)  # cuts affect no other schedule


def test_plateau_cuts_at_every_second_epoch_without_a_better_score_after_the_warm_up():
    waits = [0, 1, 2, 3, 4, 0, 1, 2]
    config = TrainConfig(schedule="plateau")
    assert [cuts_rate(config, e, w) for e, w in enumerate(waits)] == [w in (2, 4) for w in waits]
    warm = TrainConfig(schedule="plateau", warmup_epochs=3)
    assert [e for e, w in enumerate(waits) if cuts_rate(warm, e, w)] == [4, 7]
    assert not any(cuts_rate(TrainConfig(schedule="cosine"), e, w) for e, w in enumerate(waits))


def test_each_variable_has_the_factor_of_its_block():
    model = vgg.build_vgg16(3, image_size=(32, 32), weights="slim")
    blocks.freeze_blocks(model, 3)
    parts = variable_parts(model)
    assert parts == (4,) * 6 + (5,) * 6 + ("head",) * 2
    assert block_factors(parts, "1-4=0.1,head=10") == (0.1,) * 6 + (1.0,) * 6 + (10.0,) * 2
    assert set(block_factors(parts, None)) == {1.0}
    assert scaled_optimizer(keras.optimizers.SGD, (1.0, 1.0)) is keras.optimizers.SGD


def test_sgd_steps_by_hand():
    """v - rate * factor * g; with momentum m = 0.9 m - rate * factor * g, v + m."""
    for options, moved in (({}, 1 + 1), ({"momentum": 0.9}, 1 + 1.9)):
        variables = [keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])]
        optimizer = scaled_optimizer(keras.optimizers.SGD, (1.0, 0.25))(learning_rate=0.5, **options)
        optimizer.build(variables)
        gradient = keras.ops.convert_to_tensor([1.0, -4.0])
        for _ in range(2):
            optimizer.apply([gradient, gradient], variables)
        np.testing.assert_allclose(variables[0], [1 - 0.5 * moved, 2 + 2.0 * moved], rtol=1e-6)
        np.testing.assert_allclose(variables[1], [1 - 0.125 * moved, 2 + 0.5 * moved], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_a_rate_for_a_variable_is_the_optimizer_at_half_the_rate(name):
    """With a rate that changes between steps, and with AdamW's weight decay; the other variable is the same bit for bit."""
    class_name, options, *_ = OPTIMIZERS[name]
    kind = optimizer_class(class_name)

    def after_four_steps(kind, rate):
        variables = [keras.Variable([0.3, -0.7, 2.0]), keras.Variable([0.1, 0.2])]
        optimizer = kind(learning_rate=rate, **options)
        optimizer.build(variables)
        rng = np.random.default_rng(0)
        for step in range(4):
            optimizer.learning_rate = rate / (1 + step)
            gradients = [rng.normal(size=v.shape).astype(np.float32) for v in variables]
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
        return [keras.ops.convert_to_numpy(v) for v in variables]

    mixed = after_four_steps(scaled_optimizer(kind, (0.5, 1.0)), 0.01)
    np.testing.assert_array_equal(mixed[1], after_four_steps(kind, 0.01)[1])
    np.testing.assert_allclose(mixed[0], after_four_steps(kind, 0.005)[0], rtol=1e-6)
    assert np.abs(mixed[0] - after_four_steps(kind, 0.01)[0]).max() > 1e-6
