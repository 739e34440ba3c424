"""Scores of segmentations against scikit-learn's and against cases worked out by hand, and their intervals."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from xaitune.stats.comparisons import PairedScores
from xaitune.stats.intervals import bootstrap_interval, outcome_interval
from xaitune.stats.metrics import scores_from_confusion
from xaitune.stats.outcomes import Outcomes
from xaitune.stats.per_class import per_pixel_class_intervals
from xaitune.stats.segmentation import (
    background_metrics,
    found_counts,
    metric_counts,
    pixel_counts,
    regions,
    segmentation_metrics,
)


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, (20, 8, 8))
    predicted = np.where(rng.random(true.shape) < 0.6, true, rng.integers(0, 3, true.shape))
    return true, predicted


def test_scores_are_scikit_learns(answers):
    true, predicted = answers
    counts = pixel_counts(true, predicted, 3)
    metrics = segmentation_metrics(counts, 0.5, ["background", "a", "b"])
    flat = true.ravel(), predicted.ravel()
    assert metrics["iou_mean"] == pytest.approx(jaccard_score(*flat, average="macro"))
    assert metrics["dice_mean"] == pytest.approx(f1_score(*flat, average="macro"))
    assert [m["iou"] for m in metrics["per_class"].values()] == pytest.approx(jaccard_score(*flat, average=None))
    assert metrics["pixel_accuracy"] == pytest.approx((true == predicted).mean())
    assert metrics["absent"] == []


def test_ignored_pixels_count_for_nothing(answers):
    true, predicted = answers
    true = true.copy()
    true[:, :4] = 255
    assert (pixel_counts(true, predicted, 3) == pixel_counts(true[:, 4:], predicted[:, 4:], 3)).all()


def counts_of(truth, prediction, overlap, classes=3, size=100):
    """Pixel counts of one image with one region in truth and prediction: (class, pixels), and the pixels in both."""
    matrix = np.zeros((classes, classes), int)
    (a, n), (b, m) = truth, prediction
    matrix[a, b] += overlap
    matrix[a, 0] += n - overlap
    matrix[0, b] += m - overlap
    matrix[0, 0] += size - matrix.sum()
    return matrix


CASES = {  # truth, prediction, overlap -> (row, column) pairs that count at IoU 0.5
    "found": ((1, 10), (1, 10), 8, [(1, 1)]),
    "right class, too little overlap": ((1, 10), (1, 10), 5, [(1, 0), (0, 1)]),
    "right place, wrong class": ((1, 10), (2, 10), 10, [(1, 0), (0, 2)]),
    "missed": ((1, 10), (0, 0), 0, [(1, 0)]),
    "false alarm": ((0, 0), (2, 5), 0, [(0, 2)]),
    "rightly nothing": ((0, 0), (0, 0), 0, [(0, 0)]),
}


@pytest.mark.parametrize("name", CASES)
def test_an_image_counts_only_if_class_and_region_are_right(name):
    truth, prediction, overlap, cells = CASES[name]
    counts = counts_of(truth, prediction, overlap)[None]
    if truth[0] == 0:
        counts[0, 0, 0] = 100 - counts[0].sum() + counts[0, 0, 0]
    found = found_counts(regions(counts), 3)[0]
    assert sorted(map(tuple, np.argwhere(found))) == sorted(cells)


def test_two_classes_in_one_prediction_count_as_the_larger():
    matrix = counts_of((1, 10), (1, 10), 9)
    matrix[0, 0], matrix[0, 2] = matrix[0, 0] - 3, 3
    assert regions(matrix[None]).predicted.tolist() == [1]
    matrix[0, 0], matrix[0, 2] = matrix[0, 0] - 30, 33
    assert regions(matrix[None]).predicted.tolist() == [2]


def test_f1_at_iou_by_hand():
    cases = [
        CASES[name] for name in ("found", "right class, too little overlap", "missed", "false alarm", "rightly nothing")
    ]
    counts = np.stack([counts_of(*case[:3]) for case in cases])
    # class 1: 1 hit, truth 3, claimed 2; class 2: truth 0, claimed 1, so it occurs and scores 0
    score = scores_from_confusion(metric_counts(counts, "f1_at_iou").sum(0), "f1_at_iou")
    assert float(score) == pytest.approx((2 / 5 + 0) / 2)


def test_background_everywhere_has_the_background_iou_of_its_share(answers):
    counts = pixel_counts(*answers, 3)
    metrics = background_metrics(counts, ["background", "a", "b"])
    assert metrics["per_class"]["background"]["iou"] == pytest.approx((answers[0] == 0).mean())
    assert metrics["per_class"]["a"]["iou"] == 0
    assert metrics["f1_at_iou"] == 0


def test_an_absent_class_is_said():
    counts = counts_of((1, 10), (1, 10), 8, classes=3)[None]
    metrics = segmentation_metrics(counts, 0.0, ["background", "a", "b"])
    assert metrics["absent"] == ["b"]
    assert metrics["iou_mean"] == pytest.approx((88 / 92 + 8 / 12) / 2)  # over the classes that occur


def test_counts_of_classes_have_the_intervals_of_classes():
    rng = np.random.default_rng(1)
    true, groups = rng.integers(0, 3, 60), rng.integers(0, 20, 60)
    predicted = np.where(rng.random(60) < 0.7, true, rng.integers(0, 3, 60))
    one = np.zeros((60, 3, 3), int)
    one[np.arange(60), true, predicted] = 1
    for metric in ("f1_macro", "accuracy"):
        expected = bootstrap_interval(true, predicted, groups, metric)
        assert outcome_interval(Outcomes.of_counts(one), groups, metric) == expected
    scores = PairedScores(groups=groups, metric="f1_macro")
    scores.add("counts", Outcomes.of_counts(one))
    scores.add("classes", Outcomes.of_classes(true, predicted))
    assert scores.difference("counts", "classes").difference == 0


def test_the_interval_of_iou_resamples_groups():
    rng = np.random.default_rng(2)
    counts = np.stack([counts_of((1, 20), (1, 20), int(k), classes=2) for k in rng.integers(0, 20, 40)])
    interval = outcome_interval(Outcomes.of_counts(counts), np.arange(40) // 2, "iou_mean")
    total = counts.sum(0)
    iou = [total[c, c] / (total[c].sum() + total[:, c].sum() - total[c, c]) for c in (0, 1)]
    assert interval.value == pytest.approx(np.mean(iou))
    assert interval.low < interval.value < interval.high
    assert (interval.groups, interval.images) == (20, 40)
    own = per_pixel_class_intervals(counts, np.arange(40) // 2).iou
    assert own.value.tolist() == pytest.approx(iou)
    assert (own.low <= own.value).all()
    assert (own.value <= own.high).all()


def test_models_on_other_images_are_refused():
    scores = PairedScores(groups=np.arange(3), metric="iou_mean")
    with pytest.raises(ValueError, match="same images"):
        scores.add("a", Outcomes.of_counts(np.ones((4, 2, 2))))


def test_false_alarms_do_not_make_data_scarce():
    cases = (
        [counts_of((1, 20), (1, 20), 18)] * 40 + [counts_of((2, 20), (2, 20), 18)] * 40 + [counts_of((0, 0), (1, 5), 0)]
    )
    counts = np.stack(cases)
    counts[:30, 1, 1], counts[:30, 1, 0] = 0, 20
    found = outcome_interval(Outcomes.of_counts(metric_counts(counts, "f1_at_iou")), None, "f1_at_iou")
    assert found.few == ""
