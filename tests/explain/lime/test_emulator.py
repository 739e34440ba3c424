"""emulator.py against its definition: leaving masks out by hand, what it foretells, and how sure it is."""

import numpy as np
import pytest
from scipy.special import softmax

from xaitune.explain.lime import emulator
from xaitune.explain.lime.emulator import Emulator


def network(masks, seed=0):
    """(n, 3) probabilities with a linear part and pairs."""
    rng = np.random.default_rng(seed)
    m = masks.shape[1]
    z = masks - 0.5
    pairs = rng.normal(size=(m, m, 3)) / 3
    return softmax(z @ rng.normal(size=(m, 3)) * 2 + np.einsum("ni,nj,ijc->nc", z, z, pairs), axis=1)


def masks_of(n, m=12, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (n, m))


def test_it_foretells_what_it_was_not_asked():
    masks, new = masks_of(300), masks_of(400, seed=1)
    made, wanted = Emulator(masks, network(masks)), network(new)
    design = np.column_stack([np.ones(300), masks])
    linear = np.column_stack([np.ones(400), new]) @ np.linalg.lstsq(design, network(masks), rcond=None)[0]
    assert ((made(new) - wanted) ** 2).mean() < 0.1 * ((linear - wanted) ** 2).mean()
    np.testing.assert_allclose(made(new).sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(made(masks), network(masks), atol=0.02)  # what it was told it says


def test_left_out_is_as_if_a_mask_had_never_been_seen():
    """Same shares of the superpixels, mean and covariance; one mask less."""
    masks = masks_of(40, 6)
    answers = network(masks)
    whole = Emulator(masks, answers)
    logs = np.log(answers)
    logs -= logs.mean(axis=1, keepdims=True)
    mean = logs.mean(axis=0)
    covariance = emulator._covariance(whole._x, whole._x)
    for out in (0, 17, 39):
        rest = np.delete(np.arange(40), out)
        known = covariance[np.ix_(rest, rest)] + emulator.NUGGET * np.eye(39)
        foretold = covariance[out, rest] @ np.linalg.solve(known, logs[rest] - mean) + mean
        np.testing.assert_allclose(whole.left_out[out], softmax(foretold), atol=1e-9)


def test_masks_beyond_those_learnt(monkeypatch):
    monkeypatch.setattr(emulator, "LEARNT", 60)
    masks = masks_of(100)
    short, long = Emulator(masks[:60], network(masks[:60])), Emulator(masks, network(masks))
    np.testing.assert_allclose(long(masks), short(masks))
    np.testing.assert_allclose(long.left_out[60:], short(masks[60:]))
    np.testing.assert_allclose(long.left_out[:60], short.left_out)


@pytest.mark.parametrize("n", [60, 200])
def test_it_knows_how_sure_it_is(n):
    masks, new = masks_of(n), masks_of(200, seed=1)
    made = Emulator(masks, network(masks))
    off = made.deviations(new, 200, 0)
    assert off.shape == (200, 200, 3)
    np.testing.assert_allclose(off.sum(axis=2), 0, atol=1e-12)  # probabilities stay shares of one
    found = np.sqrt(((made(new) - network(new)) ** 2).mean())
    assert 0.5 < off.std() / found < 2
    np.testing.assert_array_equal(off, made.deviations(new, 200, 0))
    assert made.deviations(masks[:20], 200, 0).std() < 0.6 * off.std()  # surer of what it was told


def test_constant_answers():
    masks = masks_of(30)
    made = Emulator(masks, np.full((30, 2), 0.5))
    np.testing.assert_allclose(made(masks_of(5, seed=2)), 0.5, atol=1e-6)
    np.testing.assert_allclose(made.deviations(masks, 3, 0), 0)


def test_certain_answers_stay_finite():
    masks = masks_of(50)
    made = Emulator(masks, np.eye(2)[masks[:, 0]])
    assert np.isfinite(made.left_out).all()
    assert (made(masks_of(50, seed=3)).argmax(axis=1) == masks_of(50, seed=3)[:, 0]).mean() > 0.9
