"""LIME against the `lime` package: hidden superpixels, stopping, and the result."""

import numpy as np
import pytest
from lime import lime_image

from xaitune.errors import ConfigError, ModelError
from xaitune.explain.classifier import open_classifier
from xaitune.explain.lime.explain import lime_superpixels
from xaitune.explain.lime.fit import STABLE, jaccard, spearman
from xaitune.explain.lime.predict import predict_masked
from xaitune.explain.probabilities import Probabilities
from xaitune.models.vgg import build_vgg16


@pytest.fixture(scope="module")
def model():
    network = build_vgg16(3, image_size=(32, 48), weights="slim", seed=2)
    kernel, bias = network.get_layer("logits").get_weights()
    network.get_layer("logits").set_weights([kernel * 30, bias])  # so that probabilities differ clearly
    return network


@pytest.fixture(scope="module")
def images():
    blocks = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3))
    # Without it a hidden superpixel would not change.
    grain = np.random.default_rng(1).integers(-40, 41, (2, 32, 48, 3))
    return np.clip(np.kron(blocks, np.ones((1, 8, 8, 1))) + grain, 0, 255).astype(np.uint8)  # (2, 32, 48, 3)


@pytest.fixture(scope="module")
def grid():
    """24 superpixels of 8x8."""
    return np.kron(np.arange(24).reshape(4, 6), np.ones((8, 8), int))


def package_weights(model, image, seed, fill="mean", segmenter=None, num_samples=60):
    """(classes, superpixels) weights of the lime package, and its score of the last class."""
    predict = Probabilities(open_classifier(model), "float32", exact=True)
    theirs = lime_image.LimeImageExplainer(random_state=seed).explain_instance(
        image,
        predict,
        labels=(0, 1, 2),
        top_labels=None,
        hide_color=None if fill == "mean" else fill,
        num_samples=num_samples,
        batch_size=64,
        segmentation_fn=segmenter,
    )
    weights = np.zeros((3, theirs.segments.max() + 1))
    for c in range(3):
        for superpixel, weight in theirs.local_exp[c]:
            weights[c, superpixel] = weight
    # The package keeps only that of the last class.
    score = theirs.score[2] if isinstance(theirs.score, dict) else theirs.score
    return weights, score


@pytest.mark.parametrize("fill", ["mean", 0])
def test_weights_are_the_lime_packages(model, images, grid, fill):
    """The same masks, fills, kernel and Ridge, sample for sample."""
    options = {"num_samples": 60, "exact": True, "seed": 7, "fill": fill, "segmenter": grid}
    superpixels = lime_superpixels(model, images[:1], class_name="class 2", **options)
    expected, score = package_weights(model, images[0], 7, fill, lambda image: grid)
    assert (np.abs(expected).max(axis=1) > 1e-4).all()
    np.testing.assert_allclose(superpixels.class_weights[0], expected, atol=1e-6)
    assert superpixels.score[0] == pytest.approx(score, abs=1e-5)
    assert superpixels.samples.tolist() == [60]


def test_weights_are_the_lime_packages_with_its_default_segmentation():
    """Including its segmentation, on an image that quickshift splits into several superpixels."""
    model = build_vgg16(3, image_size=(96, 96), weights="slim", seed=2)
    image = np.random.default_rng(3).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    superpixels = lime_superpixels(model, image, exact=True, seed=5, num_samples=50)
    expected, _ = package_weights(model, image, 5, num_samples=50)
    assert expected.shape[1] > 4
    np.testing.assert_allclose(superpixels.class_weights[0], expected, atol=1e-6)


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


def test_hidden_superpixels_can_be_blurred(grid):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.float32)
    seen = []
    masks = np.ones((2, 24), int)
    masks[1, 5] = 0
    predict_masked(lambda batch: seen.append(batch) or np.zeros((len(batch), 2)), image, grid, masks, "blur")
    hidden, rest = seen[0][1][grid == 5], seen[0][1][grid != 5]
    np.testing.assert_array_equal(rest, image[grid != 5])
    assert 0 < hidden.std() < 0.4 * image[grid == 5].std()  # sigma 3: neither the image nor one colour
    np.testing.assert_allclose(hidden.mean(), image.mean(), atol=25)


@pytest.mark.parametrize("fill", ["blurr", (1, 2), -1, 300])
def test_a_wrong_fill_is_refused(model, images, fill):
    with pytest.raises(
        ConfigError, match=r"fill must be mean, blur, or a colour such as 0,0,0 \(0\.\.255\)\. Received"
    ):
        lime_superpixels(model, images[:1], fill=fill)


def test_drawing_stops_when_another_draw_would_agree(model, images, grid):
    """With fewer samples than the maximum, independent draws agree as expected."""
    runs = [lime_superpixels(model, images[:1], segmenter=grid, num_samples=4000, seed=s) for s in range(4)]
    for superpixels in runs:
        assert superpixels.samples[0] < 4000
        assert (superpixels.stability[0] >= STABLE).all()
    weights = np.array([superpixels.weights[0] for superpixels in runs])
    pairs = np.triu_indices(4, 1)
    assert spearman(weights[pairs[0]], weights[pairs[1]]) > STABLE[0] - 0.05
    assert jaccard(weights[pairs[0]], weights[pairs[1]]) > STABLE[1] - 0.15
    short = lime_superpixels(model, images[:1], segmenter=grid, num_samples=40)
    assert short.samples.tolist() == [40]


def test_progress_is_called_after_each_batch_and_at_the_end(model, images, grid):
    calls = []
    superpixels = lime_superpixels(
        model, images, segmenter=grid, num_samples=300, progress=lambda *call: calls.append(call), precision="float32"
    )
    for number in range(2):
        done = [d for n, d, total in calls if n == number and total == 300]
        assert done == sorted(done)
        assert done[-1] == 300  # even if drawing stopped earlier
        assert superpixels.samples[number] in done
        assert len(done) > 2


def test_few_superpixels_are_enumerated(model, images):
    """Five superpixels have only 2^5 masks: every seed gives the same weights, without any randomness."""
    five = np.minimum(np.arange(48)[None] // 10, 4) * np.ones((32, 1), int)
    a, b = (lime_superpixels(model, images[:1], segmenter=five, precision="float32", seed=s) for s in (0, 1))
    assert a.samples.tolist() == [32]
    np.testing.assert_allclose(a.weights[0], b.weights[0], atol=1e-6)
    np.testing.assert_array_equal(a.stability, 1)
    np.testing.assert_allclose(a.interval[0][:, 0], a.weights[0], atol=1e-9)


def test_several_classes_from_one_run(model, images, grid):
    superpixels = lime_superpixels(model, images[:1], segmenter=grid, num_samples=100)
    for i, name in enumerate(superpixels.class_names):
        one = superpixels.of_class(name)
        assert one.explained(0) == name
        np.testing.assert_array_equal(one.weights[0], superpixels.class_weights[0][i])
        np.testing.assert_array_equal(one.interval[0], superpixels.class_interval[0][i])
        assert one.score[0] == superpixels.class_score[0, i]
        assert one.to_dataframe()["class"].unique().tolist() == [name]
    with pytest.raises(ModelError, match=r"Unknown class 'class 9'\. Did you mean"):
        superpixels.of_class("class 9")


def test_positive_and_negative_superpixels(model, images, grid):
    superpixels = lime_superpixels(model, images[:1], segmenter=grid, num_samples=100)
    titles = [title for title, _ in superpixels.panels()]
    assert titles == ["superpixels", "positive", "negative", "all weights"]
    bars = superpixels.plot_shares().patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(1)


def test_the_result_object(model, images, grid):
    superpixels = lime_superpixels(model, images, segmenter=grid, num_samples=50, class_name="class 2")
    assert superpixels.classes.tolist() == [2, 2]
    for i in range(2):
        share = superpixels.share(i)
        assert share.sum() == pytest.approx(1)
        assert (share >= 0).all()
        positive = np.maximum(superpixels.class_weights[i], 0).sum(axis=1)
        np.testing.assert_allclose(share, positive / positive.sum())
        np.testing.assert_array_equal(superpixels.weights[i], superpixels.class_weights[i][2])
        assert superpixels.signed_map(i)[9, 17] == superpixels.weights[i][grid[9, 17]]
        assert (superpixels.interval[i][:, 0] <= superpixels.weights[i] + 1e-6).mean() > 0.8
        top = superpixels.top_mask(i, True, 3)
        chosen = np.argsort(-superpixels.weights[i])[:3]
        np.testing.assert_array_equal(top, np.isin(grid, chosen[superpixels.weights[i][chosen] > 0]))
        assert not (top & superpixels.top_mask(i, False, 3)).any()
    table = superpixels.to_dataframe()
    assert len(table) == 48
    assert {"r2", "samples", "spearman", "top5_jaccard", "low", "high"} <= set(table)
    assert table.groupby("file")["area"].sum().tolist() == pytest.approx([1, 1])
    np.testing.assert_allclose(table["area"], 1 / 24)


def test_an_image_has_the_same_weights_alone_and_in_a_batch(model, images, grid):
    both = lime_superpixels(model, images, segmenter=grid, num_samples=40, precision="float32")
    alone = lime_superpixels(model, images[1], segmenter=grid, num_samples=40, precision="float32")
    np.testing.assert_allclose(both.class_weights[1], alone.class_weights[0], atol=1e-6)
    again = lime_superpixels(model, images[1], segmenter=grid, num_samples=40, precision="float32")
    np.testing.assert_array_equal(alone.class_weights[0], again.class_weights[0])
    other = lime_superpixels(model, images[1], segmenter=grid, num_samples=40, precision="float32", seed=1)
    assert not np.allclose(alone.class_weights[0], other.class_weights[0])


def test_a_single_superpixel(model, images):
    superpixels = lime_superpixels(model, images[:1], segmenter=np.zeros((32, 48), int), num_samples=10)
    assert superpixels.weights[0].shape == (1,)
    assert np.isfinite(superpixels.weights[0]).all()
    assert np.isfinite(superpixels.interval[0]).all()


@pytest.mark.parametrize("count", [0, 1, -5])
def test_too_few_samples_are_refused(model, images, count):
    with pytest.raises(
        ConfigError, match=rf"num_samples must be a whole number of at least 2\. Received: num_samples={count}\."
    ):
        lime_superpixels(model, images[:1], num_samples=count)


def test_the_model_is_left_as_it_was(model, images, grid):
    weights, flags = [w.copy() for w in model.get_weights()], [layer.trainable for layer in model.layers]
    lime_superpixels(model, images[:1], segmenter=grid, num_samples=20)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert [layer.trainable for layer in model.layers] == flags
