"""RAdam, AdamP and SGDP against their papers' update rules, written out in NumPy."""

import numpy as np
import pytest

from xaitune.models.backend import keras
from xaitune.models.optimizers import optimizer_class

RATE, STEPS = 0.01, 8


def gradients_of(shape, weights, orthogonal, rng):
    """A gradient for a step: at right angles to every output channel of the weight, or at random."""
    gradient = rng.normal(size=shape)
    if not orthogonal or len(shape) < 2:
        return gradient
    w, g = weights.reshape(-1, shape[-1]), gradient.reshape(-1, shape[-1])
    return (g - w * (w * g).sum(axis=0) / (w * w).sum(axis=0)).reshape(shape)


def by_hand(name, weights, gradients):
    w = weights.astype(np.float64)
    m, v, path = np.zeros_like(w), np.zeros_like(w), []
    for t in range(1, STEPS + 1):
        g = gradients(w)
        if name == "SGDP":
            m = 0.9 * m + g
            step = without_part_along(g + 0.9 * m, w, g)
        else:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            m_hat = m / (1 - 0.9**t)
            if name == "AdamP":
                step = without_part_along(m_hat / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), w, g)
            else:
                longest = 2 / 0.001 - 1
                rho = longest - 2 * t * 0.999**t / (1 - 0.999**t)
                step = m_hat
                if rho > 4:
                    r = np.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
                    step = m_hat * r * np.sqrt(1 - 0.999**t) / (np.sqrt(v) + 1e-8)
        w = w - RATE * step
        path.append(w.copy())
    return path


def without_part_along(step, w, g):
    """Heo et al. 2021: channel by channel, else as a whole, where the gradient is nearly at right angles to the weight."""
    if w.ndim < 2:
        return step
    for view in (w.shape[-1], 1):
        ws, gs, ps = (x.reshape(-1, view) for x in (w, g, step))
        cosine = np.abs((ws * gs).sum(axis=0)) / (np.linalg.norm(ws, axis=0) * np.linalg.norm(gs, axis=0))
        if cosine.max() < 0.1 / np.sqrt(len(ws)):
            unit = ws / np.linalg.norm(ws, axis=0)
            return (ps - unit * (unit * ps).sum(axis=0)).reshape(w.shape)
    return step


@pytest.mark.parametrize("name", ["RAdam", "AdamP", "SGDP"])
@pytest.mark.parametrize("shape", [(3, 3, 2, 4), (6, 5), (7,)])
@pytest.mark.parametrize("orthogonal", [False, True])
def test_steps_are_those_of_the_paper(name, shape, orthogonal):
    start = np.random.default_rng(0).normal(size=shape)
    rng = np.random.default_rng(1)
    expected = by_hand(name, start, lambda w: gradients_of(shape, w, orthogonal, rng))
    variable = keras.Variable(start.astype(np.float32))
    optimizer = optimizer_class(name)(learning_rate=RATE)
    optimizer.build([variable])
    rng = np.random.default_rng(1)
    for after in expected:
        weights = np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
        gradient = gradients_of(shape, weights, orthogonal, rng)
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))], [variable])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), after, atol=2e-5)


def test_a_projected_step_does_not_change_the_length_of_a_weight():
    """To first order: SGDP with gradients at right angles keeps the norm that SGD with momentum makes grow."""
    start = np.random.default_rng(0).normal(size=(6, 5))
    rng = np.random.default_rng(2)
    path = by_hand("SGDP", start, lambda w: gradients_of((6, 5), w, True, rng))
    grown = np.linalg.norm(path[-1]) / np.linalg.norm(start) - 1
    assert 0 < grown < STEPS * RATE**2 * 50


def test_known_names_come_from_keras():
    assert optimizer_class("SGD") is keras.optimizers.SGD
