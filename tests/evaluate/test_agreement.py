"""Localisation, concentration, agreement, stability and null maps, by hand and against scikit-learn, scipy and skimage."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from sklearn.metrics import average_precision_score

from xaitune import evaluate
from xaitune.errors import InputError
from xaitune.evaluate import agreement
from xaitune.evaluate import maps as map_arrays

# From the top of the ranking: 8 inside, 7 outside, 6 inside, 5 outside, then two zeros, one of them inside.
MAP = np.array([[8.0, 7.0, 0.0], [6.0, 5.0, 0.0]])
MASK = np.array([[1, 0, 0], [1, 0, 1]])
CONSTANT = np.full((2, 3), 0.25)
EMPTY = np.zeros((2, 3))
SCORES = [
    evaluate.best_iou,
    evaluate.mass_inside,
    evaluate.pointing_game,
    evaluate.average_precision,
    lambda m, k: evaluate.iou_at(m, k, 0.5),
]


# ---- localisation


def test_iou_at_by_hand():
    assert evaluate.iou_at(MAP, MASK, 1.0) == pytest.approx(1 / 3)  # only the 8
    assert evaluate.iou_at(MAP, MASK, 0.75) == pytest.approx(2 / 4)  # 8, 7, 6: two of them inside
    assert evaluate.iou_at(MAP, MASK, 0.5) == pytest.approx(2 / 5)  # 8, 7, 6, 5
    assert evaluate.iou_at(np.array([[-9.0, 2.0]]), [[0, 1]], 0.5) == 1.0  # a negative value is never chosen
    with pytest.raises(InputError, match="threshold=0"):
        evaluate.iou_at(MAP, MASK, 0)


def test_best_iou_by_hand():
    # after 1, 2, 3, 4 and all 6 pixels: 1/3, 1/4, 2/4, 2/5, 3/6
    assert evaluate.best_iou(MAP, MASK) == 0.5
    assert evaluate.best_iou(-MAP, MASK) == 0.5  # 1/4, 1/5, 2/5... until all: 3/6
    assert evaluate.best_iou(MASK * 1.0, MASK) == 1.0


def test_mass_inside_by_hand():
    assert evaluate.mass_inside(MAP, MASK) == pytest.approx((8 + 6 + 0) / 26)
    assert evaluate.mass_inside(np.array([[3.0, -5.0], [1.0, 0.0]]), [[1, 1], [0, 0]]) == pytest.approx(3 / 4)


def test_pointing_game_by_hand():
    assert evaluate.pointing_game(MAP, MASK) == 1.0
    assert evaluate.pointing_game(MAP, 1 - MASK) == 0.0
    assert evaluate.pointing_game([[2.0, 2.0, 2.0, 1.0]], [[1, 0, 0, 1]]) == pytest.approx(1 / 3)
    assert evaluate.pointing_game([[-1.0, -2.0]], [[1, 0]]) == 1.0


def test_average_precision_by_hand():
    # hits at rank 1 (1/1), rank 3 (2/3), and in the tie that ends at rank 6 (3/6)
    assert evaluate.average_precision(MAP, MASK) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)


def test_average_precision_equals_scikit_learn_with_and_without_ties():
    rng = np.random.default_rng(0)
    maps = np.concatenate([rng.normal(size=(8, 6, 7)), rng.integers(0, 4, (8, 6, 7))])
    masks = rng.random((16, 6, 7)) < 0.3
    expected = [average_precision_score(k.ravel(), m.ravel()) for m, k in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(evaluate.average_precision(maps, masks), expected)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("flat", [CONSTANT, EMPTY, -CONSTANT])
def test_a_constant_map_scores_the_masks_area(score, flat):
    assert score(flat, MASK) == pytest.approx(3 / 6)


@pytest.mark.parametrize("score", SCORES)
def test_an_empty_mask_scores_nan_and_a_full_one_does_not(score):
    assert np.isnan(score(MAP, EMPTY))
    assert score(MAP, np.ones((2, 3))) > 0


@pytest.mark.parametrize("score", SCORES)
def test_leading_axes_are_kept_and_give_the_same_scores(score, monkeypatch):
    rng = np.random.default_rng(1)
    maps, masks = rng.integers(-2, 5, (3, 4, 5, 6)), rng.random((3, 1, 5, 6)) < 0.4
    masks[1] = False
    one_by_one = [[score(maps[i, b], masks[i, 0]) for b in range(4)] for i in range(3)]
    scores = score(maps, masks)
    np.testing.assert_allclose(scores, one_by_one)
    assert np.isnan(scores).sum() == 4
    monkeypatch.setattr(map_arrays, "CHUNK", 60)  # two maps at a time
    np.testing.assert_allclose(score(maps, masks), scores)


@pytest.mark.parametrize("score", SCORES)
def test_maps_that_are_not_finite_or_do_not_fit_are_refused(score):
    with pytest.raises(InputError, match="finite"):
        score(MAP * np.nan, MASK)
    with pytest.raises(InputError, match=r"Received: \(3, 3\)"):
        score(MAP, np.ones((3, 3)))
    with pytest.raises(InputError, match="height, width"):
        score(np.ones(4), np.ones(4))


def test_localise_gives_the_single_scores():
    rng = np.random.default_rng(7)
    maps, masks = rng.integers(-2, 5, (3, 4, 5, 6)), rng.random((3, 1, 5, 6)) < 0.4
    masks[1] = False
    scores = evaluate.localise(maps, masks, threshold=0.3)
    for name in ("mass_inside", "pointing_game", "average_precision", "best_iou"):
        np.testing.assert_array_equal(getattr(scores, name), getattr(evaluate, name)(maps, masks))
    np.testing.assert_array_equal(scores.iou, evaluate.iou_at(maps, masks, 0.3))
    assert evaluate.localise(MAP, MASK) == pytest.approx((14 / 26, 1, (1 + 2 / 3 + 3 / 6) / 3, 0.5, 2 / 5))
    assert np.isnan(evaluate.localise(MAP, EMPTY)).all()
    with pytest.raises(InputError, match="threshold=2"):
        evaluate.localise(MAP, MASK, threshold=2)


def test_f1_at_iou_by_hand():
    true = [0, 0, 0, 1, 1, 2]
    predicted = [0, 0, 1, 1, 1, 2]
    iou = [0.6, 0.4, 0.9, 0.5, 0.1, np.nan]
    # class 0: one correct of 3 true and 2 predicted; class 1: one of 2 true and 3 predicted; class 2 has no mask
    scores = evaluate.f1_at_iou(true, predicted, iou, threshold=0.5)
    assert scores == (pytest.approx((2 / 5 + 2 / 5) / 2), 5, 1)
    assert evaluate.f1_at_iou([0, 1], [0, 1], [1, 1]).f1 == 1.0
    assert np.isnan(evaluate.f1_at_iou([0], [0], [np.nan]).f1)


# ---- concentration, agreement, stability


def test_concentration_by_hand():
    single, uniform = np.array([[0.0, 0.0, 5.0, 0.0]]), np.ones((1, 4))
    assert evaluate.map_concentration(single) == (pytest.approx(1), pytest.approx(0))
    assert evaluate.map_concentration(uniform) == (pytest.approx(0), pytest.approx(1))
    assert evaluate.map_concentration(np.zeros((1, 4))) == (pytest.approx(0), pytest.approx(1))
    # 1, 1, 2, 4 of 8: Gini = (-3*1 - 1*1 + 1*2 + 3*4) / (3*8); entropy (1/8*3*2 + 1/4*2 + 1/2*1) bits of 2 bits
    scores = evaluate.map_concentration(np.array([[1.0, 4.0], [2.0, 1.0]]))
    assert scores.gini == pytest.approx(10 / 24)
    assert scores.entropy == pytest.approx(1.75 / 2)
    # two of four pixels: a negative value counts as 0, so half the entropy of four
    assert evaluate.map_concentration([[3.0, 3.0, 0.0, -7.0]]) == (pytest.approx(2 / 3), pytest.approx(0.5))
    assert np.isnan(evaluate.map_concentration([[1.0]]).gini)
    assert evaluate.map_concentration(np.ones((3, 5, 2, 2))).gini.shape == (3, 5)


def test_agreement_by_hand():
    a = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    b = np.array([[1.0, 2.0, 3.0, 5.0, 4.0]])
    scores = evaluate.map_agreement(a, b, top=0.4)
    assert scores.spearman == pytest.approx(1 - 6 * 2 / (5 * 24))  # two ranks differ by 1
    assert scores.top_iou == 1.0  # both hold the last two pixels
    assert evaluate.map_agreement(a, b, top=0.2).top_iou == 0.0
    assert evaluate.map_agreement(a, np.exp(a))[:2] == (pytest.approx(1), 1.0)
    assert evaluate.map_agreement(a, -a).spearman == pytest.approx(-1)
    # top 2 of [3, 1, 1, 0]: 1, 1/2, 1/2, 0 against 1, 1, 0, 0: minima 1.5, maxima 2.5
    assert evaluate.map_agreement([[3.0, 1.0, 1.0, 0.0]], [[9.0, 8.0, 0.0, 0.0]], top=0.5).top_iou == pytest.approx(
        1.5 / 2.5
    )


def test_agreement_equals_scipy_with_ties_and_is_nan_for_a_constant_map():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 5, (2, 6, 4, 5)).astype(float)
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(evaluate.map_agreement(a, b).spearman, expected)
    assert np.isnan(evaluate.map_agreement(a[0], np.ones((4, 5)))).all()
    with pytest.raises(InputError, match="same shape"):
        evaluate.map_agreement(a, b[0])


def test_ssim_by_hand_and_where_it_is_undefined():
    spot, other = np.zeros((2, 3, 3))
    spot[1, 1], other[0, 0] = 5.0, 2.0  # each becomes a 1 among zeros, in the only 3x3 window
    # means 1/9, variances (1/9 - 1/81) 9/8 = 1/9, covariance -1/81 * 9/8 = -1/72; the means' factor cancels
    assert evaluate.map_agreement(spot, other).ssim == pytest.approx((-1 / 36 + 9e-4) / (2 / 9 + 9e-4))
    # Minimum and maximum are scaled to 0 and 1.
    assert evaluate.map_agreement(spot, 3 * spot - 7).ssim == pytest.approx(1)
    assert np.isnan(evaluate.map_agreement(spot, np.ones((3, 3))).ssim)
    scores = evaluate.map_agreement([[1.0, 2.0]], [[1.0, 2.0]])  # no window fits
    assert (scores.spearman, np.isnan(scores.ssim)) == (pytest.approx(1), True)
    assert np.isnan(evaluate.map_agreement([[3.0]], [[3.0]])).all()  # a single pixel is a constant map


@pytest.mark.parametrize("size", [(7, 7), (16, 21), (5, 9), (4, 30)])
def test_ssim_equals_scikit_image(size):
    rng = np.random.default_rng(8)
    a, b = rng.random((2, 6, *size))
    b = 0.6 * a + 0.4 * b
    a, b = (agreement._stretched(x.reshape(6, -1)).reshape(x.shape) for x in (a, b))
    window = min(7, (min(size) - 1) // 2 * 2 + 1)
    expected = [structural_similarity(x, y, win_size=window, data_range=1) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(evaluate.map_agreement(a, b).ssim, expected)
    np.testing.assert_allclose(
        evaluate.map_agreement(a.reshape(2, 3, *size), b.reshape(2, 3, *size)).ssim.ravel(), expected
    )


def test_stability_by_hand():
    a = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert evaluate.map_stability(a, np.stack([a, 2 * a, -a])) == pytest.approx((1 + 1 - 1) / 3)
    # A map that became constant counts 0.
    assert evaluate.map_stability(a, np.stack([a, np.zeros_like(a)])) == pytest.approx(1 / 2)
    assert np.isnan(evaluate.map_stability(np.ones((1, 4)), a[None]))
    maps = np.random.default_rng(3).normal(size=(2, 5, 4, 4))
    np.testing.assert_allclose(evaluate.map_stability(maps, np.stack([maps, maps])), np.ones((2, 5)))
    with pytest.raises(InputError, match="changed must be"):
        evaluate.map_stability(maps, maps)


def test_input_stability_by_hand():
    images = np.zeros((2, 1, 4, 3), np.float32)
    fixed = np.broadcast_to(np.array([[1.0, 2.0, 3.0, 4.0]]), (2, 1, 4))
    seen = []

    def ignore_the_image(x):
        seen.append(x)
        return fixed

    # Noise changes nothing; shifted back by one, 2 3 4 1 against 1 2 3 4 has squares of 1 1 1 9: 1 - 6 * 12 / (4 * 15).
    rng = np.random.default_rng(0)
    scores = evaluate.input_stability(ignore_the_image, images, rng, maps=fixed, shift=1)
    np.testing.assert_allclose(scores, [(1 - 0.2) / 2] * 2)
    assert len(seen) == 2
    again = evaluate.input_stability(ignore_the_image, images, np.random.default_rng(0), shift=1)
    np.testing.assert_array_equal(again, scores)
    assert len(seen) == 5  # including the maps of the images themselves
    np.testing.assert_array_equal(seen[0], np.clip(seen[3], 0, 255))  # the same noise from the same seed


def test_a_map_that_follows_the_image_is_unstable_only_under_noise():
    images = np.random.default_rng(1).uniform(0, 255, (3, 6, 6, 3)).astype(np.float32)

    def brightness(x):
        return np.stack([x.mean(-1), np.zeros(x.shape[:3])], 1)  # (n, 2 blocks, h, w), the second constant

    scores = evaluate.input_stability(brightness, images, np.random.default_rng(2), noise=0)
    np.testing.assert_allclose(scores[:, 0], 1)
    assert np.isnan(scores[:, 1]).all()
    noisy = evaluate.input_stability(brightness, images, np.random.default_rng(2), noise=40)[:, 0]
    assert (noisy > 0.3).all()
    assert (noisy < 0.99).all()


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 2), (2, 2), (1, 3), (2, 3)])
def test_random_like_keeps_the_values_but_never_the_position(size):
    original = np.arange(size[0] * size[1], dtype=float).reshape(size)
    maps = np.broadcast_to(original, (300, 2, *size))
    moved = evaluate.random_like(maps, np.random.default_rng(4))
    assert moved.shape == maps.shape
    assert (np.sort(moved.reshape(600, -1), -1) == np.arange(original.size)).all()
    assert not (moved == maps).all((-2, -1)).any()
    corners = moved[..., 0, 0]
    assert len(np.unique(corners)) == original.size or original.size == 2  # every pixel reaches every position
    np.testing.assert_array_equal(moved, evaluate.random_like(maps, np.random.default_rng(4)))


def test_random_like_keeps_neighbours_together():
    original = np.add.outer(np.arange(32.0), np.zeros(32))  # one seam: rows 31 and 0
    moved = evaluate.random_like(np.broadcast_to(original, (50, 32, 32)), np.random.default_rng(5))
    variation = np.abs(np.diff(moved, axis=1)).sum((1, 2)) + np.abs(np.diff(moved, axis=2)).sum((1, 2))
    assert variation.max() == 32 * (30 + 31)  # each of 32 lines: 30 steps of 1 and the seam of 31
    with pytest.raises(InputError, match="one pixel"):
        evaluate.random_like(np.ones((2, 1, 1)), np.random.default_rng(0))
