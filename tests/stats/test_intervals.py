"""Scores, intervals and comparisons, against scikit-learn, scipy, numbers computed by hand and simulations."""

import functools
import importlib.util
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics as sk

from xaitune.config.choices import METRICS
from xaitune.errors import InputError
from xaitune.stats import comparisons, metrics, resampling
from xaitune.stats import intervals as stats

COVERAGE = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
# class 0: 2 of 3 right, class 1: 1 of 2, class 2: 1 of 1
TRUE = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])
SKLEARN = {
    "f1_macro": lambda t, p: sk.f1_score(t, p, average="macro", zero_division=0),
    "f1_weighted": lambda t, p: sk.f1_score(t, p, average="weighted", zero_division=0),
    "f1_micro": lambda t, p: sk.f1_score(t, p, average="micro", zero_division=0),
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
}


def test_confusion_has_true_classes_in_rows():
    assert metrics.confusion(TRUE, PREDICTED, 3).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 4 / 6),
        ("f1_micro", 4 / 6),
        ("balanced_accuracy", (2 / 3 + 1 / 2 + 1) / 3),
        ("f1_macro", (4 / 5 + 2 / 4 + 2 / 3) / 3),
        ("f1_weighted", (3 * 4 / 5 + 2 * 2 / 4 + 1 * 2 / 3) / 6),
    ],
)
def test_scores_by_hand(metric, expected):
    matrix = metrics.confusion(TRUE, PREDICTED, 3)
    assert metrics.scores_from_confusion(matrix, metric) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_scores_equal_those_of_scikit_learn_even_with_missing_classes(metric):
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 6, n), rng.integers(0, 6, n)) for n in (1, 2, 3, 5, 8, 40) for _ in range(20)]
    matrices = np.stack([metrics.confusion(t, p, 6) for t, p in pairs])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns if a predicted class does not occur
        expected = [SKLEARN[metric](t, p) for t, p in pairs]
    np.testing.assert_allclose(metrics.scores_from_confusion(matrices, metric), expected, atol=1e-12)


def test_a_matrix_without_images_scores_nan_and_an_unknown_metric_is_refused():
    assert np.isnan(metrics.scores_from_confusion(np.zeros((2, 3, 3)), "f1_macro")).all()
    with pytest.raises(InputError, match="Did you mean 'f1_macro'"):
        metrics.scores_from_confusion(np.eye(2), "f1macro")


def test_classification_metrics_by_hand_and_as_json():
    probabilities = np.array([[0.5, 0.5, 0], [0.25, 0.75, 0], [0.1, 0.7, 0.2]])
    scores = metrics.classification_metrics([0, 1, 1], probabilities, ["a", "b", "c"])
    assert scores["loss"] == pytest.approx(-(math.log(0.5) + math.log(0.75) + math.log(0.7)) / 3)
    assert scores["accuracy"] == 1.0
    assert scores["per_class"]["b"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}
    assert scores["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert scores["confusion"] == [[1, 0, 0], [0, 2, 0], [0, 0, 0]]
    assert json.loads(json.dumps(scores)) == scores


def test_classification_metrics_equal_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    true = rng.integers(0, 4, 30)
    probabilities = rng.dirichlet(np.ones(5), 30)  # class 4 may be predicted but never occurs
    predicted = probabilities.argmax(1)
    scores = metrics.classification_metrics(true, probabilities, list("abcde"))
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        assert scores[f"precision_{average}"] == pytest.approx(precision)
        assert scores[f"recall_{average}"] == pytest.approx(recall)
        assert scores[f"f1_{average}"] == pytest.approx(f1)
    assert scores["loss"] == pytest.approx(sk.log_loss(true, probabilities, labels=range(5)))


def test_a_probability_of_zero_gives_a_finite_loss_and_nan_is_refused():
    scores = metrics.classification_metrics([0], [[0.0, 1.0]], ["a", "b"])
    assert scores["loss"] == pytest.approx(-math.log(1e-15))
    with pytest.raises(InputError, match="diverged"):
        metrics.classification_metrics([0], [[np.nan, 1.0]], ["a", "b"])


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([0, 3], [0, 0], r"true must be class numbers 0\.\.2. Received: 0\.\.3"),
        ([0, 1], [0, -1], r"predicted must be class numbers"),
        ([0, 1], [0], "one entry per image"),
        ([0.0, 1.0], [0, 1], "dtype float64"),
        (np.zeros(0, int), np.zeros(0, int), "no images"),
    ],
)
def test_bad_labels_are_refused(true, predicted, message):
    with pytest.raises(InputError, match=message):
        metrics.confusion(true, predicted, 3)


def test_wilson_interval_by_its_closed_form():
    # Values of Wilson's formula with z = 1.959964: 8 of 10, and 0 of 10, whose upper bound is z^2 / (10 + z^2).
    low, high = stats.wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4901625, abs=1e-6), pytest.approx(0.9433178, abs=1e-6))
    assert stats.wilson_interval(0, 10) == (0.0, pytest.approx(0.2775328, abs=1e-6))
    assert stats.wilson_interval(10, 10) == (pytest.approx(1 - 0.2775328, abs=1e-6), 1.0)
    assert stats.wilson_interval(0, 0) == (0.0, 1.0)
    interval = scipy_stats.binomtest(56, 72).proportion_ci(0.9, method="wilson")
    assert stats.wilson_interval(56, 72, level=0.9) == pytest.approx((interval.low, interval.high))
    with pytest.raises(InputError, match="successes=11"):
        stats.wilson_interval(11, 10)


def test_answers_that_cancel_out_within_a_group_leave_an_interval():
    """Two images of one part, of which each model misses another: no net effect, but not the same answers."""
    rng = np.random.default_rng(0)
    true, groups = rng.integers(0, 3, 120), np.repeat(np.arange(60), 2)
    a = true.copy()
    a[:24:2] = (true[:24:2] + 1) % 3
    b, c = a.copy(), a.copy()
    true[100:102] = a[100:102] = b[100:102] = c[100:102] = 0
    a[100] = b[101] = 1
    c[::7] = (c[::7] + 1) % 3
    scores = comparisons.PairedScores(true, groups, "accuracy")
    for name, predicted in {"a": a, "b": b, "c": c}.items():
        scores.add(name, predicted)
    gap = scores.difference("a", "b")
    assert gap.difference == 0
    assert gap.low < -0.005
    assert np.isfinite(list(scores.lower_bounds("a").values())).all()
    same = scores.difference("a", "a")
    assert (same.low, same.high, same.few) == (0, 0, "")


@pytest.mark.parametrize("sizes", [(300, 2, 1), (3000, 1), (50, 1)])
def test_one_group_that_holds_almost_everything_gives_no_interval(sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    true = np.arange(len(groups)) % 2
    a, b = true.copy(), true.copy()
    a[:3], b[4:6] = 1 - a[:3], 1 - b[4:6]
    gap = comparisons.paired_bootstrap(a, b, true, groups, "accuracy")
    assert (gap.low, gap.high, gap.reliable) == (-math.inf, math.inf, False)
    score = stats.bootstrap_interval(true, a, groups, "accuracy")
    assert score.low <= score.value <= score.high
    assert not score.reliable


def test_bootstrap_weights_draw_g_of_g_groups_and_are_reproducible():
    weights = resampling.bootstrap_weights(7, draws=500, seed=3)
    assert weights.shape == (500, 7)
    assert (weights.sum(1) == 7).all()
    assert weights.mean() == 1.0
    assert (weights == resampling.bootstrap_weights(7, draws=500, seed=3)).all()
    assert (weights != resampling.bootstrap_weights(7, draws=500, seed=4)).any()


@pytest.mark.parametrize("metric", METRICS)
def test_bootstrap_equals_resampling_the_images_one_by_one(metric):
    rng = np.random.default_rng(5)
    true, predicted = rng.integers(0, 3, 24), rng.integers(0, 3, (2, 24))
    groups = np.repeat(np.arange(8), 3)
    scores = []
    for row in resampling.bootstrap_weights(8, 200, 9):
        images = np.concatenate([np.flatnonzero(groups == g) for g in np.repeat(np.arange(8), row)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores.append(np.mean([SKLEARN[metric](true[images], labels[images]) for labels in predicted]))
    interval = stats.bootstrap_interval(true, predicted, groups, metric, draws=200, seed=9)
    rest = [groups != g for g in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left_out = np.array([np.mean([SKLEARN[metric](true[r], labels[r]) for labels in predicted]) for r in rest])
    bounds = stats._bounds(np.array(scores), interval.value, left_out, 0.95)
    assert (interval.low, interval.high) == pytest.approx(bounds)
    assert (interval.groups, interval.images, interval.reliable) == (8, 24, False)


def test_bounds_by_hand():
    """Without bias and skewness they are the percentiles, wider for few groups; bias shifts them the other way."""
    drawn, cdf = np.linspace(0, 1, 100_001), scipy_stats.norm.cdf
    even = np.array([-1.0, 1.0] * 5)  # scores with each of 10 groups left out, not skewed
    reach = 2.262157 * math.sqrt(10 / 9)  # Student's quantile of 9 degrees of freedom
    assert stats._bounds(drawn, 0.5, even, 0.95) == pytest.approx((cdf(-reach), cdf(reach)), abs=1e-4)
    many = np.array([-1.0, 1.0] * 10**6)
    assert stats._bounds(drawn, 0.5, many, 0.95) == pytest.approx((0.025, 0.975), abs=1e-4)
    low, high = stats._bounds(drawn, cdf(0.5), many, 0.95)  # the resamples are too low
    assert (low, high) == pytest.approx((cdf(1 - 1.959964), cdf(1 + 1.959964)), abs=1e-4)
    skewed = np.array([1.0] * 9 + [-9.0])  # mean 0: the gaps are -1 (9 times) and 9
    skew = (9**3 - 9) / (6 * 90**1.5)
    expected = [cdf(side * reach / (1 - side * skew * reach)) for side in (-1, 1)]
    assert stats._bounds(drawn, 0.5, skewed, 0.95) == pytest.approx(expected, abs=1e-4)
    assert stats._bounds(np.ones(9), 1.0, np.ones(20), 0.95) == (1, 1)
    assert stats._bounds(np.array([0.2, 0.4]), 0.3, np.ones(1), 0.95) == (0.2, 0.4)


def test_an_interval_names_what_is_too_scarce():
    true = np.repeat([0, 1, 2], [20, 10, 4])
    predicted = true.copy()
    predicted[:9] = 1
    alone = stats.bootstrap_interval(true, predicted, None, "f1_macro", draws=50)
    assert (alone.few, alone.reliable) == ("4 groups in the smallest class", False)
    assert stats.bootstrap_interval(true, predicted, None, "accuracy", draws=50).reliable  # not a mean over classes
    groups = np.arange(34) // 5
    assert stats.bootstrap_interval(true, predicted, groups, "balanced_accuracy", draws=50).few == (
        "7 groups, 1 group in the smallest class, 2 groups with a mistake"
    )
    sure = stats.bootstrap_interval(true, true, None, "accuracy", draws=50)
    assert (sure.low, sure.high, sure.few) == (1, 1, "0 groups with a mistake")
    other = predicted.copy()
    other[0] = 0
    gap = comparisons.paired_bootstrap(predicted, other, true, None, "accuracy", draws=50)
    assert (gap.few, gap.reliable) == ("", True)  # on one image only they differ, but on 9 they are wrong
    both = comparisons.paired_bootstrap(
        np.stack([predicted, true]), np.stack([true, predicted]), true, None, "accuracy"
    )
    assert (both.difference, both.few) == (0, "")
    perfect = comparisons.paired_bootstrap(true, true, true, None, "accuracy", draws=50)
    assert (perfect.few, perfect.reliable) == ("0 groups with a mistake", False)


def test_drawing_in_small_chunks_gives_the_same_interval(monkeypatch):
    rng = np.random.default_rng(6)
    true, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    whole = stats.bootstrap_interval(true, predicted, draws=100)
    monkeypatch.setattr(resampling, "CHUNK", 100)
    assert stats.bootstrap_interval(true, predicted, draws=100) == whole


def test_the_interval_covers_the_true_accuracy_when_groups_share_their_difficulty():
    rng = np.random.default_rng(7)
    covered = covered_by_images = 0
    for _ in range(200):
        chance = rng.beta(2, 1, 60)  # accuracy within each group; its mean is 2/3
        right = rng.random((60, 5)) < chance[:, None]
        true, predicted = np.zeros(300, int), (~right).ravel().astype(int)
        groups = np.repeat(np.arange(60), 5)
        interval = stats.bootstrap_interval(true, predicted, groups, "accuracy", draws=300)
        covered += interval.low <= 2 / 3 <= interval.high
        low, high = stats.wilson_interval(int(right.sum()), 300)
        covered_by_images += low <= 2 / 3 <= high
    assert covered >= 180  # 95 % of 200 is 190; fewer than 180 has a probability below 0.001
    assert covered_by_images < covered  # images are not independent trials here


def test_the_committed_simulation_confirms_the_coverage():
    """Where intervals call themselves reliable, about 95 % of them contain the truth, and more for differences.

    Also where the groups are of very different sizes. At most 4 % of the verdicts are false, in every case.
    """
    table = pd.read_csv(COVERAGE.parent / "results" / "coverage.csv")
    reliable = table[table["reliable"] > 0.8]
    assert len(reliable) > 60
    assert {"1", "1-9", "lognormal"} <= set(reliable["images a group"])
    held = reliable["holds it where reliable"]
    assert held[reliable["of"] == "score"].between(0.93, 0.99).all()
    assert held[reliable["of"] == "difference"].between(0.93, 0.995).all()
    verdicts = pd.read_csv(COVERAGE.parent / "results" / "verdicts.csv")
    assert len(verdicts) == 36
    assert verdicts[["falsely confirmed", "falsely contradicted"]].max().max() <= 0.04
    assert verdicts[["falsely confirmed before", "falsely contradicted before"]].max().min() > 0.25


@pytest.mark.parametrize(("classes", "images", "groups"), [("3 even", "1-9", 40), ("6 uneven", "1-9", 160)])
def test_intervals_contain_a_known_truth(classes, images, groups, monkeypatch):
    """A small part of benchmarks/coverage.py: 95 % intervals of scores and differences, even and uneven classes."""
    spec = importlib.util.spec_from_file_location("coverage_benchmark", COVERAGE)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(resampling, "bootstrap_weights", functools.cache(resampling.bootstrap_weights))
    table = benchmark.simulate(classes, images, groups, sets=300, draws=300)
    assert len(table) == 4  # accuracy and macro F1, of a score and of a difference
    # Of 300 at 95 %, fewer than 273 (91 %) or more than 297 (99 %) have a probability below 0.003 each. The interval of
    # a difference is meant to be wide where few images tell the two apart.
    highest = np.where(table["of"].str.contains("differ"), 0.999, 0.99)
    assert ((table["holds it"] >= 0.91) & (table["holds it"] <= highest)).all(), table.to_string()


def test_paired_difference_is_the_difference_of_seed_means():
    true = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    a = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]])  # 8/8, 7/8
    b = np.array([[0, 0, 0, 0, 1, 1, 0, 0]])  # 6/8
    gap = comparisons.paired_bootstrap(a, b, true, None, "accuracy", draws=500)
    assert gap.difference == pytest.approx(7.5 / 8 - 6 / 8)
    assert gap.low <= gap.difference <= gap.high
    assert (gap.groups, gap.images, gap.reliable) == (8, 8, False)
    # Per image, a minus b: the standard deviation of a resample's mean is that of the images over sqrt(8). The models differ
    # on 3 images, and 2 more are imagined. b has one seed, so nothing is known of the variance over seeds.
    deviation = np.std([0, 0, 0, -0.5, 0, 0, 1, 1]) / math.sqrt(8) * math.sqrt((3 + 2) / 3)
    expected = scipy_stats.t.ppf(0.975, 7) * math.sqrt(8 / 7) * deviation
    assert gap.half_width == pytest.approx(expected, rel=0.1)
    swapped = comparisons.paired_bootstrap(b, a, true, None, "accuracy", draws=500)
    assert (swapped.low, swapped.high) == pytest.approx((-gap.high, -gap.low))
    alone = comparisons.paired_bootstrap(a, b, true, np.zeros(8, int), "accuracy", draws=5)
    assert (alone.low, alone.high) == (-math.inf, math.inf)  # one group says nothing about others


def test_equal_predictions_differ_by_zero_with_an_interval_that_does_not_collapse():
    """Models that agree on these images may differ on others: as if they had answered two groups differently."""
    rng = np.random.default_rng(8)
    true, a = rng.integers(0, 5, 100), rng.integers(0, 5, (3, 100))
    gap = comparisons.paired_bootstrap(a, a, true, np.arange(100) // 4)
    assert gap.difference == 0
    share = (1 / (5 * np.bincount(true))[true]).reshape(25, 4).sum(axis=1)  # of each group in the mean over 5 classes
    expected = scipy_stats.t.ppf(0.975, 24) * math.sqrt(2 * (share**2).mean())
    assert (gap.low, gap.high) == pytest.approx((-expected, expected))
    ten = comparisons.paired_bootstrap(np.zeros(10, int), np.zeros(10, int), np.zeros(10, int), None, "accuracy")
    assert ten.low < -0.2  # of ten images the interval of Bonett and Price reaches this far
    assert ten.few == "10 groups, 0 groups with a mistake"


def test_a_difference_of_single_images_has_the_interval_of_bonett_and_price():
    """Differences b and c among n images: (b - c) / n with the variance (b + c + 2) / n^2 - (b - c)^2 / n^3."""
    n, b, c = 400, 14, 6
    true = np.zeros(n, int)
    one, two = np.zeros(n, int), np.zeros(n, int)
    two[:b], one[b : b + c] = 1, 1
    gap = comparisons.paired_bootstrap(one, two, true, None, "accuracy", draws=20_000)
    variance = ((b + c) / n - ((b - c) / n) ** 2) / n * (1 + 2 / (b + c))
    assert gap.difference == pytest.approx((b - c) / n)
    assert gap.half_width == pytest.approx(scipy_stats.t.ppf(0.975, n - 1) * math.sqrt(variance), rel=0.02)


def test_seeds_widen_a_difference_by_their_own_student_quantile():
    """3 seeds whose differences are 10, 20 and 30 points of 1,000 images: s^2 / 3 with 2 degrees of freedom."""
    true, right = np.zeros(1000, int), np.zeros(1000, int)
    a = np.stack([right] * 3)
    b = np.stack([np.where(np.arange(1000) < wrong, 1, 0) for wrong in (100, 200, 300)])
    seeds = comparisons.paired_bootstrap(a, b, true, None, "accuracy", draws=2000)
    groups = comparisons.paired_bootstrap(a[:1], b[1:2], true, None, "accuracy", draws=2000)
    own = scipy_stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert seeds.difference == pytest.approx(0.2)
    assert own < seeds.half_width < math.hypot(own, groups.half_width)
    assert (seeds.seeds, groups.seeds) == (3, 1)
    # With other pairs beside it, their mean variance counts for two more degrees of freedom.
    scores = comparisons.PairedScores(true, None, "accuracy", draws=2000)
    for name, predicted in (("a", a), ("b", b), ("c", a), ("d", a)):
        scores.add(name, predicted)
    pooled = (2 * 0.01 + 2 * 0.01 / 2) / 4  # three of the six pairs vary like a and b, three not at all
    assert scores.difference("a", "b").half_width == pytest.approx(
        math.hypot(scipy_stats.t.ppf(0.975, 4) * math.sqrt(pooled / 3), math.sqrt(seeds.half_width**2 - own**2)),
        rel=1e-6,
    )


def test_simultaneous_lower_bounds_lie_below_those_of_single_pairs():
    rng = np.random.default_rng(3)
    true = rng.integers(0, 3, 600)

    def model(accuracy):
        return np.where(rng.random(600) < accuracy, true, (true + 1) % 3)

    scores = comparisons.PairedScores(true, np.arange(600) // 2, "accuracy")
    for depth in range(1, 6):
        scores.add(depth, model(0.8))
    bounds = scores.lower_bounds(3)
    assert set(bounds) == {1, 2, 4, 5}
    for depth, bound in bounds.items():
        single = scores.difference(3, depth)
        reached = (single.difference - bound) / single.half_width
        assert 1.1 < reached < 1.45  # of four correlated ones: between Student's 0.975 and Bonferroni's quantile
    alone = comparisons.PairedScores(true, None, "accuracy")
    alone.add(1, true)
    assert alone.lower_bounds(1) == {}


def test_lots_of_unequal_size_count_as_fewer():
    """Kish: one lot with half of 100 images among 51 counts as little as 4 equal ones."""
    groups = np.r_[np.zeros(50, int), np.arange(1, 51)]
    assert resampling.effective_groups(groups) == pytest.approx(100**2 / (50**2 + 50))
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 100)
    predicted = np.where(rng.random(100) < 0.7, true, 1 - true)
    lots = stats.bootstrap_interval(true, predicted, groups, "accuracy")
    assert lots.few == "4 effective groups (the largest of 51 has 50 images)"
    assert stats.bootstrap_interval(true, predicted, None, "accuracy").reliable


def test_a_class_that_a_resample_has_lost_is_left_out_false_alarms_or_not():
    """Its F1 is unknown there, not 0."""
    matrix = np.array([[8, 0, 0], [0, 9, 1], [0, 0, 0]])  # no image of the third class is left, but a false alarm
    assert metrics.scores_from_confusion(matrix, "f1_macro") == pytest.approx((1 + 18 / 19 + 0) / 3)
    known = np.array([True, True, True])
    assert metrics.scores_from_confusion(matrix, "f1_macro", known) == pytest.approx((1 + 18 / 19) / 2)
    # A class that does not occur in the truth at all stays a false alarm, as scikit-learn counts it.
    absent = np.array([True, True, False])
    assert metrics.scores_from_confusion(matrix, "f1_macro", absent) == pytest.approx((1 + 18 / 19 + 0) / 3)


def test_pairing_narrows_the_interval_and_groups_widen_it():
    rng = np.random.default_rng(9)
    true = np.zeros(300, int)
    hard = np.repeat(rng.random(60) < 0.4, 5)  # both models miss whole groups
    a, b = hard.astype(int), (hard | (rng.random(300) < 0.05)).astype(int)
    groups = np.repeat(np.arange(60), 5)
    alone = stats.bootstrap_interval(true, a, groups, "accuracy")
    assert comparisons.paired_bootstrap(a, b, true, groups, "accuracy").half_width < (alone.high - alone.low) / 4
    by_image = stats.bootstrap_interval(true, a, None, "accuracy")
    assert alone.high - alone.low > 1.8 * (by_image.high - by_image.low)  # sqrt(5) = 2.2


def test_more_seeds_do_not_count_as_more_images():
    rng = np.random.default_rng(10)
    true, labels = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    one, many = (stats.bootstrap_interval(true, p, None, "accuracy") for p in (labels, np.tile(labels, (6, 1))))
    assert (one.low, one.high) == pytest.approx((many.low, many.high))


def test_mean_intervals_by_hand():
    # Two groups with means 1 and 4 (sizes 2 and 1): a resample gives 1 (1/4), 4 (1/4) or (2 + 4) / 3 = 2 (1/2).
    values = np.array([[0.0, np.nan, np.nan], [2.0, np.nan, 5.0], [4.0, np.nan, np.nan]])
    mean, low, high = stats.mean_intervals(values, ["a", "a", "b"])
    np.testing.assert_array_equal(mean, [2, np.nan, 5])
    np.testing.assert_array_equal(low, [1, np.nan, np.nan])  # a single group has no interval
    np.testing.assert_array_equal(high, [4, np.nan, np.nan])
    assert stats.mean_intervals(values, ["a", "a", "b"], level=0.2)[1][0] == 2
    with pytest.raises(InputError, match="one entry per image"):
        stats.mean_intervals(values, ["a"])


def test_mean_intervals_of_single_images_are_near_normal_and_do_not_depend_on_chunks(monkeypatch):
    values = np.random.default_rng(0).normal(3, 2, (400, 2))
    values[200:, 1] = np.nan
    mean, low, high = stats.mean_intervals(values)
    np.testing.assert_allclose(mean, np.nanmean(values, axis=0))
    error = np.nanstd(values, axis=0) / np.sqrt([400, 200])
    np.testing.assert_allclose((high - low) / 2, 1.96 * error, rtol=0.08)
    monkeypatch.setattr(resampling, "CHUNK", 400 * 7)
    np.testing.assert_allclose(stats.mean_intervals(values), (mean, low, high))


def test_groups_of_the_wrong_length_are_refused():
    with pytest.raises(InputError, match="groups must have one entry per image"):
        stats.bootstrap_interval(TRUE, PREDICTED, np.arange(5))
    with pytest.raises(InputError, match="level=95"):
        stats.bootstrap_interval(TRUE, PREDICTED, level=95)


def test_mcnemar_by_hand():
    a = np.array([1] * 5 + [0] + [1] * 10, bool)
    b = np.array([0] * 5 + [1] + [1] * 10, bool)
    two_sided = 2 * (1 + 6) / 2**6  # 5 against 1: twice P(0 or 1 of 6)
    assert comparisons.mcnemar_exact(a, b) == pytest.approx(two_sided)
    assert comparisons.mcnemar_exact(b, a) == comparisons.mcnemar_exact(a, b)
    assert comparisons.mcnemar_exact(a, a) == 1.0
    assert comparisons.mcnemar_exact([True], [False]) == 1.0
    with pytest.raises(InputError, match="one entry per image"):
        comparisons.mcnemar_exact([True], [True, False])
