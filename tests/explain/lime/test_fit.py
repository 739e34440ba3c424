"""LIME's linear model against scikit-learn's Ridge, figures worked out by hand, and repeated independent draws."""

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


def all_masks(superpixels):
    return (np.arange(2**superpixels)[:, None] >> np.arange(superpixels)) & 1


def problem(samples=200, superpixels=12, classes=3, seed=0):
    masks = package_masks(superpixels, samples, seed)
    rng = np.random.default_rng(seed)
    targets = masks @ rng.normal(size=(superpixels, classes)) + rng.normal(0, 0.1, (samples, classes))
    return masks, targets, sample_weights(masks)


class Network:
    """Softmax of logits with pairwise interactions, as a stand-in for a network's answers to masks."""

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
    weights, intercepts = ridge(masks, targets, kernel[None])
    for c in range(3):
        theirs = Ridge(alpha=1.0).fit(masks, targets[:, c], sample_weight=kernel)
        np.testing.assert_allclose(weights[0, c], theirs.coef_, atol=1e-9)
        assert intercepts[0, c] == pytest.approx(theirs.intercept_, abs=1e-9)
        score = theirs.score(masks, targets[:, c], sample_weight=kernel)
        assert r_squared(masks, targets[:, c], weights[0, c]) == pytest.approx(score, abs=1e-9)
    np.testing.assert_array_equal(fit_package(masks, targets, 0).weights, weights[0])


def test_a_constant_target_has_zero_weights_and_score():
    masks, _, _ = problem()
    fit = fit_package(masks, np.full((200, 2), 0.3), 0)
    np.testing.assert_allclose(fit.weights, 0, atol=1e-12)
    assert r_squared(masks, np.full(200, 0.3), fit.weights[0]) == 0
    halves = draw_halves(12, 100, 0)
    constant = np.full((100, 2), 0.5)
    np.testing.assert_allclose(fit_pairs(halves, constant, constant, 0).weights, 0, atol=1e-12)


@pytest.mark.parametrize(("share", "value"), [(0.1, 0.024), (0.3, 0.195), (0.5, 0.503), (0.7, 0.808), (0.9, 0.979)])
def test_kernel_by_share_shown(share, value):
    mask = np.zeros((1, 10))
    mask[0, : round(share * 10)] = 1
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
    """All ones first, no pair twice, never more than exist, each mask of a pair equally likely."""
    halves = draw_halves(superpixels, 500, 3)
    assert len(halves) == min(500, 2 ** (superpixels - 1))
    assert halves[0].tolist() == [1] * superpixels
    both = np.concatenate([halves, 1 - halves])
    assert len(np.unique(both, axis=0)) == len(both)
    np.testing.assert_array_equal(both.mean(axis=0), np.full(superpixels, 0.5))
    if superpixels >= 12:
        assert np.abs(np.corrcoef(both.T) - np.eye(superpixels)).max() < 0.2
        assert not np.array_equal(halves, draw_halves(superpixels, 500, 4))
    # A shorter draw is the start of a longer one.
    np.testing.assert_array_equal(draw_halves(superpixels, 100, 3), halves[:100])


def test_with_all_masks_nothing_is_random():
    """With all 2^6 masks the weights are those of the exact regression, without spread, for any seed."""
    network = Network(6)
    one, two = network.fit(64, 0), network.fit(64, 1)
    np.testing.assert_allclose(one.weights, two.weights, atol=1e-12)
    masks = (np.arange(64)[:, None] >> np.arange(6)) & 1
    kernel = sample_weights(masks)
    exact = Ridge(alpha=0.064).fit(masks, network(masks)[:, 1], sample_weight=kernel)
    np.testing.assert_allclose(one.weights[1], exact.coef_, atol=1e-9)
    np.testing.assert_allclose(one.interval[..., 0], one.interval[..., 1], atol=1e-12)
    np.testing.assert_array_equal(one.stability, 1)


def test_pairs_recover_linear_effects():
    effect = np.linspace(-0.02, 0.02, 24)
    halves = draw_halves(24, 60, 0)
    shown, hidden = (0.5 + m @ effect for m in (halves, 1 - halves))
    fit = fit_pairs(halves, *(np.stack([p, 1 - p], axis=1) for p in (shown, hidden)), 0)
    # Their range is 0.04; the emulator is not quite linear.
    np.testing.assert_allclose(fit.weights[0], effect, atol=1.5e-3)
    np.testing.assert_allclose(fit.weights[1], -fit.weights[0], atol=1e-9)


@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_pairs_are_closer_to_the_limit_and_to_each_other_than_the_package(scale):
    """For equal numbers of model calls and independent masks, against the limit of very many samples."""
    network = Network(20, classes=2, seed=4, scale=scale)
    many = package_masks(20, 40_000, 99)
    limit = ridge(many, network(many), sample_weights(many)[None])[0][0, 0]
    ours = np.array([network.fit(150, seed).weights[0] for seed in range(8)])
    theirs = []
    for seed in range(8):
        masks = package_masks(20, 150, seed)
        theirs.append(fit_package(masks, network(masks), seed).weights[0])
    theirs = np.array(theirs)

    def error(runs):
        return np.sqrt(((runs - limit) ** 2).mean())

    assert error(ours) < 0.75 * error(theirs)
    assert spearman(ours[:4], ours[4:]) > spearman(theirs[:4], theirs[4:])


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_more_samples_converge_to_limes_limit(scale):
    """The limit is LIME's regression on all 2^14 masks, not the emulator's; with fewer samples, errors are below Ridge's."""
    network = Network(14, seed=2, scale=scale)
    many = all_masks(14)
    limit = ridge(many, network(many), sample_weights(many)[None], alpha=len(many) / 1000)[0][0]

    def errors(samples):
        halves = draw_halves(14, samples // 2, 0)
        masks = np.concatenate([halves, 1 - halves])
        plain = ridge(masks, network(masks), sample_weights(masks)[None], samples / 1000)[0][0]
        return [np.abs(weights - limit).max() for weights in (network.fit(samples, 0).weights, plain)]

    at_200, at_1600, at_12800, at_all = (errors(samples) for samples in (200, 1600, 12_800, 2**14))
    assert at_1600[0] < at_200[0] / 3
    assert all(ours < 0.75 * plain for ours, plain in (at_200, at_1600, at_12800))
    assert at_12800[0] < 0.01 * np.abs(limit).max()
    assert at_all[0] < 1e-9


@pytest.mark.parametrize(("scale", "samples"), [(3.0, 100), (0.5, 200)])  # the least stable, and the most
def test_the_expected_stability_is_that_of_independent_runs(scale, samples):
    network = Network(16, classes=2, seed=1, scale=scale)
    runs = [network.fit(samples, seed) for seed in range(16)]
    weights = np.array([r.weights[0] for r in runs])
    expected = np.mean([r.stability[0] for r in runs], axis=0)
    assert expected[0] == pytest.approx(spearman(weights[:8], weights[8:]), abs=0.07)
    assert expected[1] == pytest.approx(jaccard(weights[:8], weights[8:]), abs=0.15)


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
    a, b = np.arange(10)[None], np.roll(np.arange(10), 1)[None]  # highest: ids 5..9 against 6..9 and 0 (value 9)
    assert jaccard(a, a) == 1
    assert jaccard(a, b) == pytest.approx(4 / 6)


def coverage(fit):
    truth = np.linspace(-1, 1, 8)
    hits = []
    for seed in range(40):
        interval = fit(truth, seed)
        assert (interval[:, 0] <= interval[:, 1]).all()
        hits.append((interval[:, 0] <= truth) & (truth <= interval[:, 1]))
    return np.mean(hits)


def test_package_intervals_cover():
    """In about 95 % of repetitions the interval contains the weights of infinitely many samples."""

    def fit(truth, seed):
        masks = package_masks(8, 300, seed)
        noise = np.random.default_rng([seed, 9]).normal(0, 0.5, (300, 1))
        return fit_package(masks, (masks @ truth)[:, None] + noise, seed).interval[0]

    assert 0.88 < coverage(fit) <= 0.99


@pytest.mark.parametrize(
    ("superpixels", "scale", "samples", "fits"),
    [(16, 2.0, 128, 10), (18, 3.0, 600, 10), (7, 1.0, 112, 20), (10, 1.0, 512, 20)],
)
def test_pair_intervals_cover_the_limit(superpixels, scale, samples, fits):
    """Also where the emulator is averaged over only some of all masks (18), and where most masks are drawn (7, 10)."""
    network = Network(superpixels, seed=5, scale=scale)
    many = all_masks(superpixels)
    limit = ridge(many, network(many), sample_weights(many)[None], alpha=len(many) / 1000)[0][0]
    hits = []
    for seed in range(fits):
        fit = network.fit(samples, seed)
        hits.append((fit.interval[..., 0] <= limit) & (limit <= fit.interval[..., 1]))
    assert np.mean(hits) > 0.88


@pytest.mark.parametrize("superpixels", [17, 40, 255])
def test_balanced_masks(superpixels):
    """Any four superpixels are shown and hidden in all 16 ways equally often."""
    masks = balanced_masks(superpixels)
    assert masks.shape == (65_536, superpixels)
    rng = np.random.default_rng(0)
    for _ in range(30):
        four = masks[:, rng.choice(superpixels, 4, replace=False)].astype(int) @ [1, 2, 4, 8]
        assert (np.bincount(four, minlength=16) == 4096).all()


def test_balanced_masks_of_few_superpixels_are_all_masks():
    np.testing.assert_array_equal(balanced_masks(10), all_masks(10))
    assert balanced_masks(300).shape == (2**14, 300)


def test_more_samples_than_the_emulator_learns_from():
    """Its training masks show and hide each superpixel equally often, so more samples do not make it worse."""
    network = Network(18, seed=5)
    many = all_masks(18)
    limit = ridge(many, network(many), sample_weights(many)[None], alpha=len(many) / 1000)[0][0]
    at_2000, at_4400 = (np.abs(network.fit(samples, 0).weights - limit).max() for samples in (2000, 4400))
    assert at_4400 < 2 * at_2000
    assert at_4400 < 0.005 * np.abs(limit).max()


def test_a_single_pair_has_no_interval():
    fit = Network(6).fit(2, 0)
    np.testing.assert_array_equal(fit.stability, 0)
    assert np.isnan(fit.interval).all()
    assert np.isfinite(fit.weights).all()


def test_intervals_shrink_with_samples():
    def width(samples):
        masks = package_masks(6, samples, 0)
        target = masks @ np.ones(6) + np.random.default_rng(1).normal(size=samples)
        return np.diff(fit_package(masks, target[:, None], 0).interval).mean()

    assert width(100) / width(10_000) == pytest.approx(10, rel=0.3)  # the square root of 100


def test_many_classes():
    """Beyond the 20 most likely classes the weights are Ridge's and the interval is NaN."""
    network = Network(10, classes=60, seed=3)
    fit = network.fit(200, 0)
    known = np.isfinite(fit.stability[:, 0])
    assert known.sum() == SMOOTHED_CLASSES
    assert np.isfinite(fit.weights).all()
    np.testing.assert_array_equal(np.isfinite(fit.interval).all(axis=(1, 2)), known)


def test_answers_that_no_emulator_learns_have_ridges_weights_and_an_honest_stability():
    """Parity of three superpixels: before the emulator was left out, two runs were expected to agree by 0.41."""
    fits, agree = gate_fits(parity, pairs=150)
    assert all((fit.learnt < 0).all() for fit in fits)
    expected = np.mean([fit.stability[0, 0] for fit in fits])
    assert abs(expected - agree) < 0.25
    assert expected < 0.3


@pytest.mark.parametrize(("together", "excess"), [(2, 0.1), (3, 0.35)])
def test_the_order_of_superpixels_that_weigh_nothing_is_not_expected_to_last(together, excess):
    """Two, or three, superpixels count only together: two runs were expected to agree by 0.38 (found 0.22), 0.73 (0.23)."""
    fits, agree = gate_fits(lambda masks: masks[:, :together].all(axis=1), pairs=100)
    assert all((fit.learnt > 0.9).all() for fit in fits)
    assert np.mean([fit.stability[0, 0] for fit in fits]) < agree + excess


def gate_fits(gate, pairs, draws=6):
    """Fits to draws of masks of 30 superpixels, to which the answer is 0.98 or 0.02, and how well their weights agree."""
    fits = []
    for seed in range(draws):
        halves = draw_halves(30, pairs, seed)
        answers = (0.02 + 0.96 * gate(masks) for masks in (halves, 1 - halves))
        shown, hidden = (np.stack([p, 1 - p], axis=1) for p in answers)
        fits.append(fit_pairs(halves, shown, hidden, seed))
    weights = np.array([fit.weights[0] for fit in fits])
    return fits, np.mean([spearman(weights[[i]], weights[[j]]) for i in range(draws) for j in range(i)])


def parity(masks):
    return masks[:, :3].sum(axis=1) % 2
