"""The Gaussian-process emulator against its definition: predictions, leave-one-out predictions and uncertainty."""

import numpy as np
import pytest
from scipy.special import softmax

from xaitune.explain.lime import emulator as module
from xaitune.explain.lime.emulator import Emulator


def network(masks, seed=0):
    """(n, 3) probabilities with linear and pairwise effects."""
    rng = np.random.default_rng(seed)
    m = masks.shape[1]
    z = masks - 0.5
    pairs = rng.normal(size=(m, m, 3)) / 3
    return softmax(z @ rng.normal(size=(m, 3)) * 2 + np.einsum("ni,nj,ijc->nc", z, z, pairs), axis=1)


def random_masks(n, m=12, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (n, m))


def test_it_predicts_unseen_masks_better_than_a_linear_model():
    masks, new = random_masks(300), random_masks(400, seed=1)
    emulator, expected = Emulator(masks, network(masks)), network(new)
    design = np.column_stack([np.ones(300), masks])
    linear = np.column_stack([np.ones(400), new]) @ np.linalg.lstsq(design, network(masks), rcond=None)[0]
    assert ((emulator(new) - expected) ** 2).mean() < 0.1 * ((linear - expected) ** 2).mean()
    np.testing.assert_allclose(emulator(new).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(emulator(masks), network(masks), atol=0.02)  # it reproduces its training data


def test_leave_one_out_predicts_each_mask_from_the_others():
    """With the relevances and the mean of all masks, but one mask left out of the regression."""
    masks = random_masks(40, 6)
    probabilities = network(masks)
    emulator = Emulator(masks, probabilities)
    logs = np.log(probabilities)
    logs -= logs.mean(axis=1, keepdims=True)
    mean = logs.mean(axis=0)
    covariance = module._covariance(emulator._inputs, emulator._inputs)
    for out in (0, 17, 39):
        rest = np.delete(np.arange(40), out)
        known = covariance[np.ix_(rest, rest)] + module.NUGGET * np.eye(39)
        predicted = covariance[out, rest] @ np.linalg.solve(known, logs[rest] - mean) + mean
        np.testing.assert_allclose(emulator.leave_one_out[out], softmax(predicted), atol=1e-9)


def test_masks_beyond_the_training_masks(monkeypatch):
    monkeypatch.setattr(module, "MAX_TRAINING_MASKS", 60)
    masks = random_masks(100)
    short, long = Emulator(masks[:60], network(masks[:60])), Emulator(masks, network(masks))
    np.testing.assert_allclose(long(masks), short(masks))
    np.testing.assert_allclose(long.leave_one_out[60:], short(masks[60:]))
    np.testing.assert_allclose(long.leave_one_out[:60], short.leave_one_out)


@pytest.mark.parametrize("n", [60, 200])
def test_posterior_deviations_have_the_size_of_the_errors(n):
    masks, new = random_masks(n), random_masks(200, seed=1)
    emulator = Emulator(masks, network(masks))
    deviations = emulator.posterior_deviations(new, 200, 0)
    assert deviations.shape == (200, 200, 3)
    np.testing.assert_allclose(deviations.sum(axis=2), 0, atol=1e-12)  # probabilities still sum to 1
    error = np.sqrt(((emulator(new) - network(new)) ** 2).mean())
    assert 0.5 < deviations.std() / error < 2
    np.testing.assert_array_equal(deviations, emulator.posterior_deviations(new, 200, 0))
    # Smaller on training masks.
    assert emulator.posterior_deviations(masks[:20], 200, 0).std() < 0.6 * deviations.std()


def test_constant_answers():
    masks = random_masks(30)
    emulator = Emulator(masks, np.full((30, 2), 0.5))
    np.testing.assert_allclose(emulator(random_masks(5, seed=2)), 0.5, atol=1e-6)
    np.testing.assert_allclose(emulator.posterior_deviations(masks, 3, 0), 0)


def test_certain_answers_stay_finite():
    masks = random_masks(50)
    emulator = Emulator(masks, np.eye(2)[masks[:, 0]])
    assert np.isfinite(emulator.leave_one_out).all()
    assert (emulator(random_masks(50, seed=3)).argmax(axis=1) == random_masks(50, seed=3)[:, 0]).mean() > 0.9
