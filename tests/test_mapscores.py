import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from xaitune import mapscores as ms
from xaitune.errors import InputError

# Ranking from the top: 8 in, 7 out, 6 in, 5 out, then zeros of which one is in the mask.
MAP = np.array([[8.0, 7.0, 0.0], [6.0, 5.0, 0.0]])
MASK = np.array([[1, 0, 0], [1, 0, 1]])
CONSTANT = np.full((2, 3), 0.25)
EMPTY = np.zeros((2, 3))
SCORES = [ms.best_iou, ms.mass_inside, ms.pointing_game, ms.average_precision, lambda m, k: ms.iou_at(m, k, 0.5)]


# ---- localisation


def test_iou_at_by_hand():
    assert ms.iou_at(MAP, MASK, 1.0) == pytest.approx(1 / 3)  # the 8 alone
    assert ms.iou_at(MAP, MASK, 0.75) == pytest.approx(2 / 4)  # 8, 7, 6: two of them inside
    assert ms.iou_at(MAP, MASK, 0.5) == pytest.approx(2 / 5)  # 8, 7, 6, 5
    assert ms.iou_at(np.array([[-9.0, 2.0]]), [[0, 1]], 0.5) == 1.0  # a negative value is never chosen
    with pytest.raises(InputError, match="threshold=0"):
        ms.iou_at(MAP, MASK, 0)


def test_best_iou_by_hand():
    # after 1, 2, 3, 4 and all 6 pixels: 1/3, 1/4, 2/4, 2/5, 3/6
    assert ms.best_iou(MAP, MASK) == 0.5
    assert ms.best_iou(-MAP, MASK) == 0.5  # 1/4, 1/5, 2/5... until all: 3/6
    assert ms.best_iou(MASK * 1.0, MASK) == 1.0


def test_mass_inside_by_hand():
    assert ms.mass_inside(MAP, MASK) == pytest.approx((8 + 6 + 0) / 26)
    assert ms.mass_inside(np.array([[3.0, -5.0], [1.0, 0.0]]), [[1, 1], [0, 0]]) == pytest.approx(3 / 4)


def test_pointing_game_by_hand():
    assert ms.pointing_game(MAP, MASK) == 1.0
    assert ms.pointing_game(MAP, 1 - MASK) == 0.0
    assert ms.pointing_game([[2.0, 2.0, 2.0, 1.0]], [[1, 0, 0, 1]]) == pytest.approx(1 / 3)
    assert ms.pointing_game([[-1.0, -2.0]], [[1, 0]]) == 1.0


def test_average_precision_by_hand():
    # hits at rank 1 (1/1), rank 3 (2/3), and in the tie that ends at rank 6 (3/6)
    assert ms.average_precision(MAP, MASK) == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)


def test_average_precision_equals_scikit_learn_with_and_without_ties():
    rng = np.random.default_rng(0)
    maps = np.concatenate([rng.normal(size=(8, 6, 7)), rng.integers(0, 4, (8, 6, 7))])
    masks = rng.random((16, 6, 7)) < 0.3
    expected = [average_precision_score(k.ravel(), m.ravel()) for m, k in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(ms.average_precision(maps, masks), expected)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("flat", [CONSTANT, EMPTY, -CONSTANT])
def test_a_map_that_says_nothing_scores_the_masks_area(score, flat):
    assert score(flat, MASK) == pytest.approx(3 / 6)


@pytest.mark.parametrize("score", SCORES)
def test_an_empty_mask_scores_nan_and_a_full_one_does_not(score):
    assert np.isnan(score(MAP, EMPTY))
    assert score(MAP, np.ones((2, 3))) > 0


@pytest.mark.parametrize("score", SCORES)
def test_axes_in_front_are_kept_and_give_the_same_scores(score, monkeypatch):
    rng = np.random.default_rng(1)
    maps, masks = rng.integers(-2, 5, (3, 4, 5, 6)), rng.random((3, 1, 5, 6)) < 0.4
    masks[1] = False
    one_by_one = [[score(maps[i, b], masks[i, 0]) for b in range(4)] for i in range(3)]
    found = score(maps, masks)
    np.testing.assert_allclose(found, one_by_one)
    assert np.isnan(found).sum() == 4
    monkeypatch.setattr(ms, "_CHUNK", 60)  # two maps at a time
    np.testing.assert_allclose(score(maps, masks), found)


@pytest.mark.parametrize("score", SCORES)
def test_maps_that_are_not_finite_or_do_not_fit_are_refused(score):
    with pytest.raises(InputError, match="finite"):
        score(MAP * np.nan, MASK)
    with pytest.raises(InputError, match=r"Received: \(3, 3\)"):
        score(MAP, np.ones((3, 3)))
    with pytest.raises(InputError, match="height, width"):
        score(np.ones(4), np.ones(4))


def test_f1_at_iou_by_hand():
    true = [0, 0, 0, 1, 1, 2]
    predicted = [0, 0, 1, 1, 1, 2]
    iou = [0.6, 0.4, 0.9, 0.5, 0.1, np.nan]
    # class 0: one found of 3 true and 2 predicted; class 1: one of 2 true and 3 predicted; class 2 has no mask
    found = ms.f1_at_iou(true, predicted, iou, threshold=0.5)
    assert found == (pytest.approx((2 / 5 + 2 / 5) / 2), 5, 1)
    assert ms.f1_at_iou([0, 1], [0, 1], [1, 1]).f1 == 1.0
    assert np.isnan(ms.f1_at_iou([0], [0], [np.nan]).f1)


# ---- concentration, agreement, stability


def test_concentration_by_hand():
    single, uniform = np.array([[0.0, 0.0, 5.0, 0.0]]), np.ones((1, 4))
    assert ms.concentration(single) == (pytest.approx(1), pytest.approx(0))
    assert ms.concentration(uniform) == (pytest.approx(0), pytest.approx(1))
    assert ms.concentration(np.zeros((1, 4))) == (pytest.approx(0), pytest.approx(1))
    # 1, 1, 2, 4 of 8: Gini = (-3*1 - 1*1 + 1*2 + 3*4) / (3*8); entropy (1/8*3*2 + 1/4*2 + 1/2*1) bits of 2 bits
    found = ms.concentration(np.array([[1.0, 4.0], [2.0, 1.0]]))
    assert found.gini == pytest.approx(10 / 24)
    assert found.entropy == pytest.approx(1.75 / 2)
    # two of four pixels: a negative value counts as 0, so half the entropy of four
    assert ms.concentration([[3.0, 3.0, 0.0, -7.0]]) == (pytest.approx(2 / 3), pytest.approx(0.5))
    assert np.isnan(ms.concentration([[1.0]]).gini)
    assert ms.concentration(np.ones((3, 5, 2, 2))).gini.shape == (3, 5)


def test_agreement_by_hand():
    a = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    b = np.array([[1.0, 2.0, 3.0, 5.0, 4.0]])
    found = ms.agreement(a, b, top=0.4)
    assert found.spearman == pytest.approx(1 - 6 * 2 / (5 * 24))  # two ranks differ by 1
    assert found.top_iou == 1.0  # both hold the last two pixels
    assert ms.agreement(a, b, top=0.2).top_iou == 0.0
    assert ms.agreement(a, np.exp(a)) == (pytest.approx(1), 1.0)
    assert ms.agreement(a, -a).spearman == pytest.approx(-1)
    # top 2 of [3, 1, 1, 0]: 1, 1/2, 1/2, 0 against 1, 1, 0, 0: minima 1.5, maxima 2.5
    assert ms.agreement([[3.0, 1.0, 1.0, 0.0]], [[9.0, 8.0, 0.0, 0.0]], top=0.5).top_iou == pytest.approx(1.5 / 2.5)


def test_agreement_equals_scipy_with_ties_and_is_nan_for_a_constant_map():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 5, (2, 6, 4, 5)).astype(float)
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ms.agreement(a, b).spearman, expected)
    assert np.isnan(ms.agreement(a[0], np.ones((4, 5)))).all()
    with pytest.raises(InputError, match="same shape"):
        ms.agreement(a, b[0])


def test_stability_by_hand():
    a = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert ms.stability(a, np.stack([a, 2 * a, -a])) == pytest.approx((1 + 1 - 1) / 3)
    assert ms.stability(a, np.stack([a, np.zeros_like(a)])) == pytest.approx(1 / 2)  # a map that vanished kept nothing
    assert np.isnan(ms.stability(np.ones((1, 4)), a[None]))
    maps = np.random.default_rng(3).normal(size=(2, 5, 4, 4))
    np.testing.assert_allclose(ms.stability(maps, np.stack([maps, maps])), np.ones((2, 5)))
    with pytest.raises(InputError, match="changed must be"):
        ms.stability(maps, maps)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 2), (2, 2), (1, 3), (2, 3)])
def test_random_like_keeps_the_values_and_never_the_place(size):
    original = np.arange(size[0] * size[1], dtype=float).reshape(size)
    maps = np.broadcast_to(original, (300, 2, *size))
    found = ms.random_like(maps, np.random.default_rng(4))
    assert found.shape == maps.shape
    assert (np.sort(found.reshape(600, -1), -1) == np.arange(original.size)).all()
    assert not (found == maps).all((-2, -1)).any()
    corners = found[..., 0, 0]
    assert len(np.unique(corners)) == original.size or original.size == 2  # every pixel comes to every place
    np.testing.assert_array_equal(found, ms.random_like(maps, np.random.default_rng(4)))


def test_random_like_keeps_neighbours_together():
    original = np.add.outer(np.arange(32.0), np.zeros(32))  # one seam: rows 31 and 0
    found = ms.random_like(np.broadcast_to(original, (50, 32, 32)), np.random.default_rng(5))
    variation = np.abs(np.diff(found, axis=1)).sum((1, 2)) + np.abs(np.diff(found, axis=2)).sum((1, 2))
    assert variation.max() == 32 * (30 + 31)  # each of 32 lines: 30 steps of 1 and the seam of 31
    with pytest.raises(InputError, match="one pixel"):
        ms.random_like(np.ones((2, 1, 1)), np.random.default_rng(0))


# ---- deletion and insertion

WEIGHTS = np.array([[0.4, 0.3], [0.2, 0.1]])  # the 'model' adds these for every white pixel


def brightness(images):
    """Class 1: weighted share of brightness, class 0: the rest."""
    share = (images.mean(-1) / 255 * WEIGHTS).sum((1, 2))
    return np.stack([1 - share, share], -1)


WHITE = np.full((1, 2, 2, 3), 255.0)


def test_deletion_and_insertion_by_hand():
    # Deletion to black, best order: 1, .6, .3, .1, 0 -> area (1/2 + .6 + .3 + .1 + 0) / 4. Insertion: 0, .4, .7, .9, 1.
    found = ms.deletion_insertion(brightness, WHITE, WEIGHTS[None], [1], steps=4, fill=(0, 0, 0))
    assert found.deletion.tolist() == pytest.approx([1.5 / 4])
    assert found.insertion.tolist() == pytest.approx([2.5 / 4])
    assert found.calls == 2 + 2 * 3
    # worst order: 1, .9, .7, .4, 0 and 0, .1, .3, .6, 1
    worst = ms.deletion_insertion(brightness, WHITE, -WEIGHTS[None], [1], steps=4, fill=(0, 0, 0))
    assert (worst.deletion[0], worst.insertion[0]) == (pytest.approx(2.5 / 4), pytest.approx(1.5 / 4))
    # class 0 rises as class 1 falls
    other = ms.deletion_insertion(brightness, WHITE, WEIGHTS[None], [0], steps=4, fill=(0, 0, 0))
    assert other.deletion[0] == pytest.approx(1 - 1.5 / 4)


def test_ties_go_in_row_major_order_and_one_step_is_the_two_ends():
    tied = ms.deletion_insertion(brightness, WHITE, np.zeros((1, 2, 2)), [1], steps=4, fill=0)
    assert tied.deletion[0] == pytest.approx(1.5 / 4)  # .4, .3, .2, .1: left to right, top to bottom
    ends = ms.deletion_insertion(brightness, WHITE, WEIGHTS[None], [1], steps=1, fill=0)
    assert (ends.deletion[0], ends.insertion[0], ends.calls) == (pytest.approx(0.5), pytest.approx(0.5), 2)


def test_steps_that_do_not_divide_the_pixels_keep_their_true_width():
    # 3 steps of 4 pixels: after 0, 1, 3, 4 pixels the probability is 1, .6, .1, 0
    found = ms.deletion_insertion(brightness, WHITE, WEIGHTS[None], [1], steps=3, fill=0)
    assert found.deletion[0] == pytest.approx(0.25 * 1.6 / 2 + 0.5 * 0.7 / 2 + 0.25 * 0.1 / 2)


def test_a_probability_that_never_changes_gives_its_own_area():
    def constant(images):
        return np.tile([0.3, 0.7], (len(images), 1))

    found = ms.deletion_insertion(constant, WHITE, WEIGHTS[None], [1], fill="blur", steps=2)
    assert (found.deletion[0], found.insertion[0]) == (pytest.approx(0.7), pytest.approx(0.7))


@pytest.mark.parametrize("fill", ["mean", "blur", (10, 20, 30)])
def test_batches_blocks_and_images_give_what_single_maps_give(fill):
    rng = np.random.default_rng(6)
    images = rng.integers(0, 256, (3, 2, 2, 3), dtype=np.uint8)
    before = images.copy()
    maps, classes = rng.integers(0, 3, (3, 4, 2, 2)), np.array([1, 0, 1])
    sizes = []

    def predict(batch):
        sizes.append(len(batch))
        return brightness(batch)

    found = ms.deletion_insertion(predict, images, maps, classes, steps=3, fill=fill, batch_size=5)
    assert found.deletion.shape == found.insertion.shape == (3, 4)
    assert sum(sizes) == found.calls == 2 * 3 + 2 * 12 * 2
    assert max(sizes) <= 5
    assert (images == before).all()
    for i in range(3):
        for b in range(4):
            one = ms.deletion_insertion(brightness, images[[i]], maps[[i], b], classes[[i]], steps=3, fill=fill)
            assert found.deletion[i, b] == pytest.approx(one.deletion[0], abs=1e-6)
            assert found.insertion[i, b] == pytest.approx(one.insertion[0], abs=1e-6)


def test_the_mean_fill_is_each_images_own_colour():
    seen = []

    def predict(batch):
        seen.append(np.array(batch))
        return brightness(batch)

    images = np.zeros((1, 2, 2, 3))
    images[0, 0, 0] = (40, 80, 120)
    ms.deletion_insertion(predict, images, np.ones((1, 2, 2)), [1], steps=1)
    assert (seen[1] == np.array([10, 20, 30])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.ones((1, 3, 2))}, "images' resolution"),
        ({"classes": [0, 1]}, "one class number an image"),
        ({"classes": [0.5]}, "one class number an image"),
        ({"steps": 5}, "steps=5"),
        ({"steps": 0}, "steps=0"),
        ({"fill": "black"}, "fill='black'"),
        ({"fill": (1, 2)}, "fill="),
        ({"images": np.ones((1, 2, 2))}, "images must be"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    call = {"images": WHITE, "maps": WEIGHTS[None], "classes": [1], "steps": 2} | change
    images, maps, classes = (call.pop(name) for name in ("images", "maps", "classes"))
    with pytest.raises(InputError, match=message):
        ms.deletion_insertion(brightness, images, maps, classes, **call)
