"""superpixels.py against scikit-learn's Ridge, the `lime` package and figures worked out by hand."""

import numpy as np
import pytest
from lime import lime_image
from sklearn.linear_model import Ridge

from xaitune.errors import ConfigError
from xaitune.subjects import open_subject
from xaitune.superpixels import (
    MIN_SUPERPIXELS,
    SEGMENTERS,
    draw_masks,
    fit_linear,
    lime_superpixels,
    predict_masked,
    probability_function,
    sample_weights,
    segment,
    weight_interval,
)
from xaitune.vgg import build_vgg16


@pytest.fixture(scope="module")
def model():
    made = build_vgg16(3, image_size=(32, 48), weights="slim", seed=2)
    kernel, bias = made.get_layer("logits").get_weights()
    made.get_layer("logits").set_weights([kernel * 30, bias])  # probabilities that differ
    return made


@pytest.fixture(scope="module")
def images():
    blocks = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3))
    grain = np.random.default_rng(1).integers(-40, 41, (2, 32, 48, 3))  # else a hidden superpixel would look as before
    return np.clip(np.kron(blocks, np.ones((1, 8, 8, 1))) + grain, 0, 255).astype(np.uint8)  # (2, 32, 48, 3)


@pytest.fixture(scope="module")
def grid():
    """24 superpixels of 8x8."""
    return np.kron(np.arange(24).reshape(4, 6), np.ones((8, 8), int))


def problem(samples=200, superpixels=12, classes=3, seed=0):
    masks = draw_masks(superpixels, samples, seed)
    rng = np.random.default_rng(seed)
    targets = masks @ rng.normal(size=(superpixels, classes)) + rng.normal(0, 0.1, (samples, classes))
    return masks, targets, sample_weights(masks)


@pytest.mark.parametrize("samples", [200, 8])  # more samples than superpixels, and fewer
def test_fit_is_scikit_learns_ridge(samples):
    masks, targets, kernel = problem(samples)
    weights, score = fit_linear(masks, targets, kernel, 1)
    for c in range(3):
        ridge = Ridge(alpha=1.0).fit(masks, targets[:, c], sample_weight=kernel)
        np.testing.assert_allclose(weights[c], ridge.coef_, atol=1e-9)
    ridge = Ridge(alpha=1.0).fit(masks, targets[:, 1], sample_weight=kernel)
    assert score == pytest.approx(ridge.score(masks, targets[:, 1], sample_weight=kernel), abs=1e-9)


def test_a_constant_answer_has_no_weights_and_no_score():
    masks, _, kernel = problem()
    weights, score = fit_linear(masks, np.full((200, 2), 0.3), kernel, 0)
    np.testing.assert_allclose(weights, 0, atol=1e-12)
    assert score == 0


@pytest.mark.parametrize(("kept", "value"), [(0.1, 0.024), (0.3, 0.195), (0.5, 0.503), (0.7, 0.808), (0.9, 0.979)])
def test_kernel_by_kept_share(kept, value):
    mask = np.zeros((1, 10))
    mask[0, : round(kept * 10)] = 1
    assert sample_weights(mask)[0] == pytest.approx(value, abs=5e-4)


def test_kernel_ends():
    assert sample_weights(np.ones((1, 7)))[0] == 1
    assert sample_weights(np.zeros((1, 7)))[0] == pytest.approx(np.sqrt(np.exp(-16)))


@pytest.mark.parametrize("exact", [True, False])
def test_masks(exact):
    masks = draw_masks(20, 4000, 3, exact)
    assert masks[0].tolist() == [1] * 20
    assert set(np.unique(masks)) == {0, 1}
    np.testing.assert_allclose(masks.mean(axis=0), 0.5, atol=0.04)
    assert np.abs(np.corrcoef(masks[1:].T) - np.eye(20)).max() < 0.08  # independent
    np.testing.assert_array_equal(masks, draw_masks(20, 4000, 3, exact))
    assert not np.array_equal(masks, draw_masks(20, 4000, 4, exact))


@pytest.mark.parametrize("hide_color", [None, 0])
def test_weights_are_the_lime_packages(model, images, grid, hide_color):
    """Sample for sample: the same masks, fills, kernel and Ridge."""
    made = lime_superpixels(
        model, images[:1], segmenter=grid, num_samples=60, exact=True, seed=7, hide_color=hide_color
    )
    predict = probability_function(open_subject(model), "float32")
    package = lime_image.LimeImageExplainer(random_state=7)
    theirs = package.explain_instance(
        images[0].astype(np.float64),
        predict,
        labels=(0, 1, 2),
        top_labels=None,
        hide_color=hide_color,
        num_samples=60,
        batch_size=64,
        segmentation_fn=lambda image: grid,
    )
    for c in range(3):
        wanted = np.zeros(24)
        for superpixel, weight in theirs.local_exp[c]:
            wanted[superpixel] = weight
        assert np.abs(wanted).max() > 1e-4
        np.testing.assert_allclose(made.class_weights[0][c], wanted, atol=1e-6)
    last = theirs.score[2] if isinstance(theirs.score, dict) else theirs.score  # the package keeps one class's
    masks = draw_masks(24, 60, 7, exact=True)
    targets = predict_masked(predict, images[0], grid, masks, hide_color)
    assert fit_linear(masks, targets, sample_weights(masks), 2)[1] == pytest.approx(last, abs=1e-5)


def test_hidden_superpixels_take_their_mean_colour(grid):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.float32)
    seen = []

    def predict(batch):
        seen.append(batch)
        return np.zeros((len(batch), 2))

    masks = np.ones((3, 24), int)
    masks[1, 5] = 0
    masks[2] = 0
    predict_masked(predict, image, grid, masks)
    batch = seen[0]
    np.testing.assert_array_equal(batch[0], image)
    inside = grid == 5
    np.testing.assert_allclose(batch[1][inside], np.broadcast_to(image[inside].mean(axis=0), (64, 3)), atol=1e-3)
    np.testing.assert_array_equal(batch[1][~inside], image[~inside])
    for s in range(24):  # every superpixel, the last one too, can be hidden
        np.testing.assert_allclose(batch[2][grid == s].std(axis=0), 0, atol=1e-3)
    seen.clear()
    predict_masked(predict, image, grid, masks, (1, 2, 3))
    np.testing.assert_array_equal(seen[0][2], np.broadcast_to([1, 2, 3], (32, 48, 3)).astype(np.float32))


@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_segment_ids_start_at_zero_without_gaps(name, images):
    labels = segment(images[0], name)
    assert labels.shape == (32, 48)
    ids = np.unique(labels)
    assert ids.tolist() == list(range(len(ids)))
    assert len(ids) > 1
    np.testing.assert_array_equal(labels, segment(images[0].astype(np.float32), name))


def test_any_labels_are_renumbered(images):
    odd = np.where(np.arange(48)[None] < 20, 7, -3) * np.ones((32, 1), int)
    labels = segment(images[0], odd)
    np.testing.assert_array_equal(labels, (odd == 7).astype(int))
    np.testing.assert_array_equal(segment(images[0], lambda image: odd + 1), labels)
    with pytest.raises(ConfigError, match=r"must have the image's shape \(32, 48\)\. Received: \(3, 3\)"):
        segment(images[0], np.zeros((3, 3), int))
    with pytest.raises(ConfigError, match=r"segmenter must be one of .* Received: 'slik'\. Did you mean 'slic'\?"):
        segment(images[0], "slik")


def test_a_linear_answer_is_found_superpixel_by_superpixel(grid, images):
    """A 'model' whose probability rises by a known amount for each superpixel shown."""
    effect = np.linspace(-0.02, 0.02, 24)
    image = images[0].astype(np.float32)
    corners = [np.argwhere(grid == s)[0] for s in range(24)]

    def predict(batch):
        p = np.full(len(batch), 0.5)
        for e, (y, x) in zip(effect, corners, strict=True):
            p += e * (batch[:, y, x] == image[y, x]).all(axis=1)
        return np.stack([p, 1 - p], axis=1)

    masks = draw_masks(24, 3000, 0)
    targets = predict_masked(predict, image, grid, masks)
    weights, score = fit_linear(masks, targets, sample_weights(masks), 0)
    np.testing.assert_allclose(weights[0], effect, atol=2e-4)
    np.testing.assert_allclose(weights[1], -weights[0], atol=1e-12)
    assert score > 0.999


def test_intervals_cover():
    """In about 95 % of repetitions the interval holds what an endless number of samples would give."""
    truth = np.linspace(-1, 1, 8)
    hits = []
    for seed in range(40):
        masks = draw_masks(8, 300, seed)
        noise = np.random.default_rng([seed, 9]).normal(0, 0.5, 300)
        interval = weight_interval(masks, masks @ truth + noise, sample_weights(masks), seed)
        assert (interval[:, 0] <= interval[:, 1]).all()
        hits.append((interval[:, 0] <= truth) & (truth <= interval[:, 1]))
    assert 0.88 < np.mean(hits) <= 0.99


def test_intervals_shrink_with_samples():
    def width(samples):
        masks = draw_masks(6, samples, 0)
        answer = masks @ np.ones(6) + np.random.default_rng(1).normal(size=samples)
        return np.diff(weight_interval(masks, answer, sample_weights(masks), 0)).mean()

    assert width(100) / width(10_000) == pytest.approx(10, rel=0.3)  # the root of a hundred


def test_the_result_object(model, images, grid):
    made = lime_superpixels(model, images, segmenter=grid, num_samples=50, class_name="class 2")
    assert made.classes.tolist() == [2, 2]
    for i in range(2):
        share = made.share(i)
        assert share.sum() == pytest.approx(1)
        assert (share >= 0).all()
        positive = np.maximum(made.class_weights[i], 0).sum(axis=1)
        np.testing.assert_allclose(share, positive / positive.sum())
        np.testing.assert_array_equal(made.weights[i], made.class_weights[i][2])
        assert made.signed_map(i)[9, 17] == made.weights[i][grid[9, 17]]
        assert (made.interval[i][:, 0] <= made.weights[i] + 1e-6).mean() > 0.8
        top = made.top_mask(i, True, 3)
        chosen = np.argsort(-made.weights[i])[:3]
        np.testing.assert_array_equal(top, np.isin(grid, chosen[made.weights[i][chosen] > 0]))
        assert not (top & made.top_mask(i, False, 3)).any()
    table = made.to_dataframe()
    assert len(table) == 48
    assert table.groupby("file")["area"].sum().tolist() == pytest.approx([1, 1])
    np.testing.assert_allclose(table["area"], 1 / 24)


def test_an_image_alone_or_among_others_is_the_same(model, images, grid):
    both = lime_superpixels(model, images, segmenter=grid, num_samples=40, precision="float32")
    alone = lime_superpixels(model, images[1], segmenter=grid, num_samples=40, precision="float32")
    np.testing.assert_allclose(both.class_weights[1], alone.class_weights[0], atol=1e-6)
    again = lime_superpixels(model, images[1], segmenter=grid, num_samples=40, precision="float32")
    np.testing.assert_array_equal(alone.class_weights[0], again.class_weights[0])
    other = lime_superpixels(model, images[1], segmenter=grid, num_samples=40, precision="float32", seed=1)
    assert not np.allclose(alone.class_weights[0], other.class_weights[0])


def test_one_superpixel_only(model, images):
    made = lime_superpixels(model, images[:1], segmenter=np.zeros((32, 48), int), num_samples=10)
    assert made.weights[0].shape == (1,)
    assert np.isfinite(made.weights[0]).all()
    assert np.isfinite(made.interval[0]).all()


@pytest.mark.parametrize("count", [0, 1, -5])
def test_too_few_samples(model, images, count):
    with pytest.raises(ConfigError, match=rf"num_samples must be at least 2\. Received: {count}\."):
        lime_superpixels(model, images[:1], num_samples=count)


def test_the_model_is_left_as_it_was(model, images, grid):
    weights, flags = [w.copy() for w in model.get_weights()], [layer.trainable for layer in model.layers]
    lime_superpixels(model, images[:1], segmenter=grid, num_samples=20)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert [layer.trainable for layer in model.layers] == flags


def test_too_few_superpixels_are_made_finer():
    flat = np.full((48, 48, 3), 90, np.uint8)
    assert len(np.unique(segment(flat))) < MIN_SUPERPIXELS  # what the lime package would explain
    finer = segment(flat, finer=True)
    assert len(np.unique(finer)) >= MIN_SUPERPIXELS
    assert finer.min() == 0
    own = np.zeros((48, 48), int)
    np.testing.assert_array_equal(segment(flat, own, finer=True), own)  # a given one stays
