"""Deletion and insertion, average drop, ROAD: by hand, for a model that sums the brightness of pixels."""

import numpy as np
import pytest

from xaitune import evaluate
from xaitune.errors import InputError
from xaitune.evaluate.road import fill_linear

# ---- deletion and insertion

WEIGHTS = np.array([[0.4, 0.3], [0.2, 0.1]])  # the 'model' adds these up over white pixels


def brightness(images):
    """Class 1: the weighted share of brightness, class 0: the rest."""
    share = (images.mean(-1) / 255 * WEIGHTS).sum((1, 2))
    return np.stack([1 - share, share], -1)


WHITE = np.full((1, 2, 2, 3), 255.0)


def test_deletion_and_insertion_by_hand():
    # Deletion to black, best order: 1, .6, .3, .1, 0 -> area (1/2 + .6 + .3 + .1 + 0) / 4. Insertion: 0, .4, .7, .9, 1.
    scores = evaluate.deletion_insertion(brightness, WHITE, WEIGHTS[None], [1], steps=4, fill=(0, 0, 0))
    assert scores.deletion.tolist() == pytest.approx([1.5 / 4])
    assert scores.insertion.tolist() == pytest.approx([2.5 / 4])
    assert scores.calls == 2 + 2 * 3
    # worst order: 1, .9, .7, .4, 0 and 0, .1, .3, .6, 1
    worst = evaluate.deletion_insertion(brightness, WHITE, -WEIGHTS[None], [1], steps=4, fill=(0, 0, 0))
    assert (worst.deletion[0], worst.insertion[0]) == (pytest.approx(2.5 / 4), pytest.approx(1.5 / 4))
    # class 0 rises as class 1 falls
    other = evaluate.deletion_insertion(brightness, WHITE, WEIGHTS[None], [0], steps=4, fill=(0, 0, 0))
    assert other.deletion[0] == pytest.approx(1 - 1.5 / 4)


def test_ties_are_in_row_major_order_and_one_step_has_only_the_two_ends():
    tied = evaluate.deletion_insertion(brightness, WHITE, np.zeros((1, 2, 2)), [1], steps=4, fill=0)
    assert tied.deletion[0] == pytest.approx(1.5 / 4)  # .4, .3, .2, .1: left to right, top to bottom
    ends = evaluate.deletion_insertion(brightness, WHITE, WEIGHTS[None], [1], steps=1, fill=0)
    assert (ends.deletion[0], ends.insertion[0], ends.calls) == (pytest.approx(0.5), pytest.approx(0.5), 2)


def test_steps_that_do_not_divide_the_pixels_have_their_true_width():
    # 3 steps of 4 pixels: after 0, 1, 3, 4 pixels the probability is 1, .6, .1, 0
    scores = evaluate.deletion_insertion(brightness, WHITE, WEIGHTS[None], [1], steps=3, fill=0)
    assert scores.deletion[0] == pytest.approx(0.25 * 1.6 / 2 + 0.5 * 0.7 / 2 + 0.25 * 0.1 / 2)


def test_a_constant_probability_is_the_area():
    def constant(images):
        return np.tile([0.3, 0.7], (len(images), 1))

    scores = evaluate.deletion_insertion(constant, WHITE, WEIGHTS[None], [1], fill="blur", steps=2)
    assert (scores.deletion[0], scores.insertion[0]) == (pytest.approx(0.7), pytest.approx(0.7))


@pytest.mark.parametrize("fill", ["mean", "blur", (10, 20, 30)])
def test_batches_blocks_and_images_give_the_scores_of_single_maps(fill):
    rng = np.random.default_rng(6)
    images = rng.integers(0, 256, (3, 2, 2, 3), dtype=np.uint8)
    before = images.copy()
    maps, classes = rng.integers(0, 3, (3, 4, 2, 2)), np.array([1, 0, 1])
    sizes = []

    def predict(batch):
        sizes.append(len(batch))
        return brightness(batch)

    scores = evaluate.deletion_insertion(predict, images, maps, classes, steps=3, fill=fill, batch_size=5)
    assert scores.deletion.shape == scores.insertion.shape == (3, 4)
    assert sum(sizes) == scores.calls == 2 * 3 + 2 * 12 * 2
    assert max(sizes) <= 5
    assert (images == before).all()
    for i in range(3):
        for b in range(4):
            one = evaluate.deletion_insertion(brightness, images[[i]], maps[[i], b], classes[[i]], steps=3, fill=fill)
            assert scores.deletion[i, b] == pytest.approx(one.deletion[0], abs=1e-6)
            assert scores.insertion[i, b] == pytest.approx(one.insertion[0], abs=1e-6)


def test_the_mean_fill_is_each_images_own_colour():
    seen = []

    def predict(batch):
        seen.append(np.array(batch))
        return brightness(batch)

    images = np.zeros((1, 2, 2, 3))
    images[0, 0, 0] = (40, 80, 120)
    evaluate.deletion_insertion(predict, images, np.ones((1, 2, 2)), [1], steps=1)
    assert (seen[1] == np.array([10, 20, 30])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.ones((1, 3, 2))}, "images' resolution"),
        ({"classes": [0, 1]}, "one class number per image"),
        ({"classes": [0.5]}, "one class number per image"),
        ({"steps": 5}, "steps=5"),
        ({"steps": 0}, "steps=0"),
        ({"fill": "black"}, "fill='black'"),
        ({"fill": (1, 2)}, "fill="),
        ({"images": np.ones((1, 2, 2))}, "images must be"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_arguments_of_deletion_are_named(change, message):
    arguments = {"images": WHITE, "maps": WEIGHTS[None], "classes": [1], "steps": 2} | change
    images, maps, classes = (arguments.pop(name) for name in ("images", "maps", "classes"))
    with pytest.raises(InputError, match=message):
        evaluate.deletion_insertion(brightness, images, maps, classes, **arguments)


# ---- average drop and increase


def test_average_drop_by_hand():
    # Unit map 1, .75, .5, .25: of the probability 1 there remains .4 * 1 + .3 * .75 + .2 * .5 + .1 * .25 = .75
    scores = evaluate.average_drop_increase(brightness, WHITE, WEIGHTS[None], [1])
    assert scores == (pytest.approx(0.25), 0, 2)
    # Two bright pixels: class 1 has .7, class 0 .3. The first alone leaves .4 and .6.
    image = WHITE * np.array([[1, 1], [0, 0]])[None, ..., None]
    first = np.array([[[2.0, 0.0], [-1.0, 0.0]]])
    assert evaluate.average_drop_increase(brightness, image, first, [1])[:2] == (pytest.approx(3 / 7), 0)
    assert evaluate.average_drop_increase(brightness, image, first, [0])[:2] == (0, 1)


def test_average_drop_of_constant_maps_and_of_probability_0():
    constant, zero = np.full((1, 2, 2), 0.2), -WEIGHTS[None]
    shows_everything = evaluate.average_drop_increase(brightness, WHITE, constant, [1])
    assert shows_everything[:2] == (pytest.approx(0), 0)
    assert evaluate.average_drop_increase(brightness, WHITE, zero, [1])[:2] == (1, 0)  # a black image
    assert evaluate.average_drop_increase(brightness, WHITE, zero, [0])[:2] == (0, 1)  # Y = 0 cannot drop
    one = evaluate.average_drop_increase(lambda x: x.reshape(-1, 3)[:, :2] / 255, WHITE[:, :1, :1], [[[3.0]]], [1])
    assert one == (0, 0, 2)


def test_average_drop_in_batches_equals_single_maps():
    rng = np.random.default_rng(9)
    images, maps = rng.integers(0, 256, (3, 2, 2, 3)), rng.normal(size=(3, 4, 2, 2))
    classes, sizes = np.array([1, 0, 1]), []

    def predict(batch):
        sizes.append(len(batch))
        return brightness(batch)

    scores = evaluate.average_drop_increase(predict, images, maps, classes, batch_size=5)
    assert scores.drop.shape == scores.increase.shape == (3, 4)
    assert (sum(sizes), max(sizes)) == (scores.calls, 5) == (15, 5)
    for i in range(3):
        for b in range(4):
            one = evaluate.average_drop_increase(brightness, images[[i]], maps[[i], b], classes[[i]])
            assert (scores.drop[i, b], scores.increase[i, b]) == (pytest.approx(one.drop[0], abs=1e-6), one.increase[0])


# ---- ROAD

GREY = np.array([[200.0, 100.0], [60.0, 20.0]])


def test_filling_by_hand():
    image = np.repeat(GREY[None, ..., None], 2, -1)
    one, two, three = np.ones((3, 2, 2), bool)
    one[0, 0] = two[0] = three[0] = three[1, 0] = False
    images = np.concatenate([image] * 3)
    filled = fill_linear(images, np.stack([one, two, three]))[..., 1]
    assert filled[0, 0, 0] == pytest.approx((2 * 100 + 2 * 60 + 20) / 5)  # weights 2, 2, 1
    # 5 a = 2 b + 2 * 60 + 20 and 5 b = 2 a + 2 * 20 + 60
    assert filled[1, 0].tolist() == pytest.approx([900 / 21, 780 / 21])
    assert (filled[1, 1] == GREY[1]).all()
    assert filled[2].ravel().tolist() == pytest.approx([20] * 4)  # where only one pixel is known
    np.testing.assert_array_equal(fill_linear(image, np.ones((1, 2, 2), bool)), image)


def test_filling_equals_the_dense_system_and_continues_a_slope(monkeypatch):
    rng = np.random.default_rng(10)
    known = rng.random((5, 4, 6)) < 0.4
    images = rng.uniform(0, 255, (5, 4, 6, 3))
    filled = fill_linear(images, known)
    monkeypatch.setattr("xaitune.evaluate.road._UNKNOWNS", 48)  # two images at a time
    np.testing.assert_allclose(fill_linear(images, known), filled)
    for i in range(5):
        system, right = np.eye(24), images[i].reshape(24, 3) * known[i].reshape(24, 1)
        for y, x in np.argwhere(~known[i]):
            near = [(y + v, x + u, 6 * 2 ** abs(u * v)) for v in (-1, 0, 1) for u in (-1, 0, 1) if u or v]
            near = [(v * 6 + u, 1 / w) for v, u, w in near if 0 <= v < 4 and 0 <= u < 6]
            for place, weight in near:
                system[y * 6 + x, place] = -weight / sum(w for _, w in near)
        np.testing.assert_allclose(filled[i].reshape(24, 3), np.linalg.solve(system, right))
    slope = np.add.outer(3 * np.arange(9.0), 2 * np.arange(9.0))[None, ..., None]
    hole = np.ones((1, 9, 9), bool)
    hole[0, 2:7, 2:7] = False
    np.testing.assert_allclose(fill_linear(slope, hole), slope)


def test_road_by_hand():
    image = np.repeat(GREY[None, ..., None], 3, -1)
    scores = evaluate.road_scores(brightness, image, WEIGHTS[None], [1], percentages=(25,), noise=0)
    most = (0.4 * 68 + 0.3 * 100 + 0.2 * 60 + 0.1 * 20) / 255  # the 200 becomes 340 / 5
    least = (0.4 * 200 + 0.3 * 100 + 0.2 * 60 + 0.1 * 104) / 255  # the 20 becomes (2 * 100 + 2 * 60 + 200) / 5
    assert scores.most.tolist() == [pytest.approx([most])]
    assert scores.least.tolist() == [pytest.approx([least])]
    assert scores.score.tolist() == pytest.approx([(least - most) / 2])
    assert scores.calls == 2
    worst = evaluate.road_scores(brightness, image, -WEIGHTS[None], [1], percentages=(25,), noise=0)
    assert worst.score.tolist() == pytest.approx([(most - least) / 2])
    curve = evaluate.road_scores(brightness, image, WEIGHTS[None], [1], percentages=(25, 50, 75), noise=0)
    assert curve.most[0, 2] == pytest.approx(20 / 255)  # three pixels get the value of the fourth
    assert curve.score[0] == pytest.approx((curve.least - curve.most).mean() / 2)


def test_road_ties_go_from_the_top_left_in_both_orders_and_a_constant_map_scores_0():
    image = np.repeat(GREY[None, ..., None], 3, -1)
    flat = evaluate.road_scores(brightness, image, np.zeros((1, 2, 2)), [1], percentages=(25,), noise=0)
    assert flat.most == flat.least == pytest.approx((0.4 * 68 + 0.3 * 100 + 0.2 * 60 + 0.1 * 20) / 255)
    assert flat.score.tolist() == [0]
    one = evaluate.road_scores(lambda x: x.reshape(-1, 3)[:, :2] / 255, image[:, :1, :1], [[[1.0]]], [0], noise=0)
    assert one.most[0].tolist() == pytest.approx([200 / 255] * 5)  # the last pixel is kept


def test_roads_noise_is_seeded_and_only_on_filled_pixels():
    seen = []

    def predict(batch):
        seen.append(np.array(batch))
        return np.tile([0.5, 0.5], (len(batch), 1))

    image, ramp = np.full((1, 64, 64, 3), 100.0), np.arange(4096.0).reshape(1, 64, 64)
    for seed in (0, 0, 1):
        evaluate.road_scores(predict, image, ramp, [0], percentages=(50,), seed=seed)
    most, least = seen[0]
    assert (most[:32] == 100).all()
    assert (least[32:] == 100).all()
    for filled in (most[32:], least[:32]):
        assert filled.mean() == pytest.approx(100, abs=0.1)
        assert filled.std() == pytest.approx(2.55, rel=0.05)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()


def test_road_in_batches_equals_single_maps():
    rng = np.random.default_rng(11)
    images, maps = rng.uniform(0, 255, (3, 4, 4, 3)), rng.integers(0, 5, (3, 2, 4, 4)).astype(float)
    classes, weights = np.array([1, 0, 1]), rng.random((4, 4)) / 8

    def predict(batch):
        share = (batch.mean(-1) / 255 * weights).sum((1, 2))
        return np.stack([1 - share, share], -1)

    scores = evaluate.road_scores(predict, images, maps, classes, batch_size=7)
    assert (scores.score.shape, scores.most.shape, scores.calls) == ((3, 2), (3, 2, 5), 3 * 2 * 2 * 5)
    for i in range(3):
        for b in range(2):
            one = evaluate.road_scores(predict, images[[i]], maps[[i], b], classes[[i]])
            np.testing.assert_allclose(scores.most[i, b], one.most[0], atol=1e-6)
            np.testing.assert_allclose(scores.score[i, b], one.score[0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"percentages": (0, 50)}, "percentages="),
        ({"percentages": (100,)}, "percentages="),
        ({"percentages": ()}, "percentages="),
        ({"noise": -1}, "noise=-1"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_arguments_of_road_are_named(change, message):
    with pytest.raises(InputError, match=message):
        evaluate.road_scores(brightness, WHITE, WEIGHTS[None], [1], **change)
