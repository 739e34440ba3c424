"""surrogate.py against scikit-learn's Ridge, figures worked out by hand, and repeated independent draws."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import Ridge

from xaitune.explain.lime.fit import (
    SMOOTHED_CLASSES,
    expected_stability,
    fit_package,
    fit_pairs,
    jaccard,
    r_squared,
    ridge,
    sample_weights,
    spearman,
)
from xaitune.explain.lime.masks import balanced_masks, draw_halves, package_masks


def every_mask(superpixels):
    return (np.arange(2**superpixels)[:, None] >> np.arange(superpixels)) & 1


def problem(samples=200, superpixels=12, classes=3, seed=0):
    masks = package_masks(superpixels, samples, seed)
    rng = np.random.default_rng(seed)
    targets = masks @ rng.normal(size=(superpixels, classes)) + rng.normal(0, 0.1, (samples, classes))
    return masks, targets, sample_weights(masks)


class Network:
    """Softmax of logits with interactions: what a network answers to masks of `superpixels`."""

    def __init__(self, superpixels, classes=3, seed=0, scale=1.0):
        rng = np.random.default_rng(seed)
        self.linear = rng.normal(size=(superpixels, classes)) * scale
        self.pairs = rng.normal(size=(superpixels, superpixels, classes)) * scale / 4

    def __call__(self, masks):
        z = masks - 0.5
        return softmax(z @ self.linear + np.einsum("ni,nj,ijc->nc", z, z, self.pairs), axis=1)

    def fit(self, samples, seed):
        halves = draw_halves(len(self.linear), samples // 2, seed)
        return fit_pairs(halves, self(halves), self(1 - halves), seed)


@pytest.mark.parametrize("samples", [200, 8])  # more samples than superpixels, and fewer
def test_fit_is_scikit_learns_ridge(samples):
    masks, targets, kernel = problem(samples)
    weights, starts = ridge(masks, targets, kernel[None])
    for c in range(3):
        theirs = Ridge(alpha=1.0).fit(masks, targets[:, c], sample_weight=kernel)
        np.testing.assert_allclose(weights[0, c], theirs.coef_, atol=1e-9)
        assert starts[0, c] == pytest.approx(theirs.intercept_, abs=1e-9)
        score = theirs.score(masks, targets[:, c], sample_weight=kernel)
        assert r_squared(masks, targets[:, c], weights[0, c]) == pytest.approx(score, abs=1e-9)
    np.testing.assert_array_equal(fit_package(masks, targets, 0).weights, weights[0])


def test_a_constant_answer_has_no_weights_and_no_score():
    masks, _, _ = problem()
    found = fit_package(masks, np.full((200, 2), 0.3), 0)
    np.testing.assert_allclose(found.weights, 0, atol=1e-12)
    assert r_squared(masks, np.full(200, 0.3), found.weights[0]) == 0
    halves = draw_halves(12, 100, 0)
    constant = np.full((100, 2), 0.5)
    np.testing.assert_allclose(fit_pairs(halves, constant, constant, 0).weights, 0, atol=1e-12)


@pytest.mark.parametrize(("kept", "value"), [(0.1, 0.024), (0.3, 0.195), (0.5, 0.503), (0.7, 0.808), (0.9, 0.979)])
def test_kernel_by_kept_share(kept, value):
    mask = np.zeros((1, 10))
    mask[0, : round(kept * 10)] = 1
    assert sample_weights(mask)[0] == pytest.approx(value, abs=5e-4)


def test_kernel_ends():
    assert sample_weights(np.ones((1, 7)))[0] == 1
    assert sample_weights(np.zeros((1, 7)))[0] == pytest.approx(np.sqrt(np.exp(-16)))


def test_package_masks():
    masks = package_masks(20, 4000, 3)
    assert masks[0].tolist() == [1] * 20
    assert set(np.unique(masks)) == {0, 1}
    np.testing.assert_allclose(masks.mean(axis=0), 0.5, atol=0.04)
    assert np.abs(np.corrcoef(masks[1:].T) - np.eye(20)).max() < 0.08  # independent
    np.testing.assert_array_equal(masks, package_masks(20, 4000, 3))
    assert not np.array_equal(masks, package_masks(20, 4000, 4))


@pytest.mark.parametrize("superpixels", [1, 2, 5, 12, 21, 40])
def test_halves(superpixels):
    """All ones first, no pair twice, at most as many as there are, each mask of a pair equally likely."""
    halves = draw_halves(superpixels, 500, 3)
    assert len(halves) == min(500, 2 ** (superpixels - 1))
    assert halves[0].tolist() == [1] * superpixels
    both = np.concatenate([halves, 1 - halves])
    assert len(np.unique(both, axis=0)) == len(both)
    np.testing.assert_array_equal(both.mean(axis=0), np.full(superpixels, 0.5))
    if superpixels >= 12:
        assert np.abs(np.corrcoef(both.T) - np.eye(superpixels)).max() < 0.2
        assert not np.array_equal(halves, draw_halves(superpixels, 500, 4))
    np.testing.assert_array_equal(draw_halves(superpixels, 100, 3), halves[:100])  # fewer are the first of more


def test_all_masks_together_leave_nothing_to_chance():
    """With every one of 2^6 masks the weights are the exact regression's, without spread, whatever the seed."""
    network = Network(6)
    one, two = network.fit(64, 0), network.fit(64, 1)
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-12)
    masks = (np.arange(64)[:, None] >> np.arange(6)) & 1
    kernel = sample_weights(masks)
    exact = Ridge(alpha=0.064).fit(masks, network(masks)[:, 1], sample_weight=kernel)
    np.testing.assert_allclose(one.weights[1], exact.coef_, atol=1e-9)
    np.testing.assert_allclose(one.interval[..., 0], one.interval[..., 1], atol=1e-12)
    np.testing.assert_array_equal(one.stability, 1)


def test_pairs_find_a_linear_answer():
    effect = np.linspace(-0.02, 0.02, 24)
    halves = draw_halves(24, 60, 0)
    shown, hidden = (0.5 + m @ effect for m in (halves, 1 - halves))
    found = fit_pairs(halves, *(np.stack([p, 1 - p], axis=1) for p in (shown, hidden)), 0)
    np.testing.assert_allclose(found.weights[0], effect, atol=1.5e-3)  # 0.04 in all; the emulator bends a little
    np.testing.assert_allclose(found.weights[1], -found.weights[0], atol=1e-9)


@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_nearer_to_the_limit_and_to_each_other_than_the_package(scale):
    """At equal model calls, over independently drawn masks, against the limit of very many samples."""
    network = Network(20, seed=4, scale=scale)
    many = package_masks(20, 40_000, 99)
    limit = ridge(many, network(many), sample_weights(many)[None])[0][0, 0]
    ours = np.array([network.fit(150, seed).weights[0] for seed in range(12)])
    theirs = []
    for seed in range(12):
        masks = package_masks(20, 150, seed)
        theirs.append(fit_package(masks, network(masks), seed).weights[0])
    theirs = np.array(theirs)

    def error(runs):
        return np.sqrt(((runs - limit) ** 2).mean())

    assert error(ours) < 0.75 * error(theirs)
    assert spearman(ours[:6], ours[6:]) > spearman(theirs[:6], theirs[6:])


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_more_samples_lead_to_limes_limit(scale):
    """The limit is LIME's regression on all 2^14 masks, not the emulator's; on the way there it is nearer than Ridge is."""
    network = Network(14, seed=2, scale=scale)
    many = every_mask(14)
    limit = ridge(many, network(many), sample_weights(many)[None], alpha=len(many) / 1000)[0][0]

    def errors(samples):
        halves = draw_halves(14, samples // 2, 0)
        masks = np.concatenate([halves, 1 - halves])
        plain = ridge(masks, network(masks), sample_weights(masks)[None], samples / 1000)[0][0]
        return [np.abs(found - limit).max() for found in (network.fit(samples, 0).weights, plain)]

    few, some, most, all_of_them = (errors(samples) for samples in (200, 1600, 12_800, 2**14))
    assert some[0] < few[0] / 3
    assert all(own < 0.75 * plain for own, plain in (few, some, most))
    assert most[0] < 0.01 * np.abs(limit).max()
    assert all_of_them[0] < 1e-9


@pytest.mark.parametrize("scale", [0.5, 3.0])
@pytest.mark.parametrize("samples", [100, 200])
def test_the_stability_foretold_is_that_of_independent_runs(scale, samples):
    network = Network(16, seed=1, scale=scale)
    runs = [network.fit(samples, seed) for seed in range(24)]
    weights = np.array([r.weights[0] for r in runs])
    foretold = np.mean([r.stability[0] for r in runs], axis=0)
    assert foretold[0] == pytest.approx(spearman(weights[:12], weights[12:]), abs=0.07)
    assert foretold[1] == pytest.approx(jaccard(weights[:12], weights[12:]), abs=0.15)


def test_stability_of_noise_is_low():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=30)
    assert expected_stability(noise, rng.normal(size=(200, 30)))[0] < 0.35
    assert expected_stability(noise, np.zeros((200, 30))) == (1.0, 1.0)
    assert expected_stability(noise[:1], rng.normal(size=(200, 1))) == (1.0, 1.0)


def test_spearman_and_jaccard_by_hand():
    assert spearman(np.array([[1, 2, 3, 4]]), np.array([[4, 3, 2, 1]])) == -1
    assert spearman(np.array([[1, 2, 3, 4], [1, 2, 3, 4]]), np.array([[1, 2, 4, 3], [1, 2, 3, 4]])) == pytest.approx(
        0.9
    )
    assert spearman(np.ones((1, 4)), np.array([[4, 3, 2, 1]])) == 0
    one, two = np.arange(10)[None], np.roll(np.arange(10), 1)[None]  # highest: ids 5..9 against 6..9 and 0 (value 9)
    assert jaccard(one, one) == 1
    assert jaccard(one, two) == pytest.approx(4 / 6)


def coverage(fit):
    truth = np.linspace(-1, 1, 8)
    hits = []
    for seed in range(40):
        interval = fit(truth, seed)
        assert (interval[:, 0] <= interval[:, 1]).all()
        hits.append((interval[:, 0] <= truth) & (truth <= interval[:, 1]))
    return np.mean(hits)


def test_package_intervals_cover():
    """In about 95 % of repetitions the interval holds what an endless number of samples would give."""

    def fit(truth, seed):
        masks = package_masks(8, 300, seed)
        noise = np.random.default_rng([seed, 9]).normal(0, 0.5, (300, 1))
        return fit_package(masks, (masks @ truth)[:, None] + noise, seed).interval[0]

    assert 0.88 < coverage(fit) <= 0.99


@pytest.mark.parametrize(
    ("superpixels", "scale", "samples"), [(16, 2.0, 128), (16, 2.0, 400), (18, 3.0, 600), (7, 1.0, 112), (10, 1.0, 512)]
)
def test_pair_intervals_cover_the_limit(superpixels, scale, samples):
    """Also where the emulator is averaged over some of all masks (18), and where most masks are drawn (7, 10)."""
    network = Network(superpixels, seed=5, scale=scale)
    many = every_mask(superpixels)
    limit = ridge(many, network(many), sample_weights(many)[None], alpha=len(many) / 1000)[0][0]
    hits = []
    for seed in range(20):
        found = network.fit(samples, seed)
        hits.append((found.interval[..., 0] <= limit) & (limit <= found.interval[..., 1]))
    assert np.mean(hits) > 0.88


@pytest.mark.parametrize("superpixels", [17, 40, 255])
def test_balanced_masks(superpixels):
    """Any four superpixels in all 16 ways equally often."""
    masks = balanced_masks(superpixels)
    assert masks.shape == (65_536, superpixels)
    rng = np.random.default_rng(0)
    for _ in range(30):
        four = masks[:, rng.choice(superpixels, 4, replace=False)].astype(int) @ [1, 2, 4, 8]
        assert (np.bincount(four, minlength=16) == 4096).all()


def test_balanced_masks_of_few_superpixels_are_all_there_are():
    np.testing.assert_array_equal(balanced_masks(10), every_mask(10))
    assert balanced_masks(300).shape == (2**14, 300)


def test_more_samples_than_the_emulator_learns_from():
    """What it learns from shows and hides each superpixel alike, so that more samples are no worse."""
    network = Network(18, seed=5)
    many = every_mask(18)
    limit = ridge(many, network(many), sample_weights(many)[None], alpha=len(many) / 1000)[0][0]
    two, four = (np.abs(network.fit(samples, 0).weights - limit).max() for samples in (2000, 4400))
    assert four < 2 * two
    assert four < 0.005 * np.abs(limit).max()


def test_one_pair_tells_nothing():
    found = Network(6).fit(2, 0)
    np.testing.assert_array_equal(found.stability, 0)
    assert np.isnan(found.interval).all()
    assert np.isfinite(found.weights).all()


def test_intervals_shrink_with_samples():
    def width(samples):
        masks = package_masks(6, samples, 0)
        answer = masks @ np.ones(6) + np.random.default_rng(1).normal(size=samples)
        return np.diff(fit_package(masks, answer[:, None], 0).interval).mean()

    assert width(100) / width(10_000) == pytest.approx(10, rel=0.3)  # the root of a hundred


def test_very_many_classes():
    """Beyond the likeliest 20 the weights are Ridge's and the interval is unknown."""
    network = Network(10, classes=60, seed=3)
    found = network.fit(200, 0)
    known = np.isfinite(found.stability[:, 0])
    assert known.sum() == SMOOTHED_CLASSES
    assert np.isfinite(found.weights).all()
    np.testing.assert_array_equal(np.isfinite(found.interval).all(axis=(1, 2)), known)
