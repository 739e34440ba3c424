"""superpixels.py against the `lime` package, what it hides, when it stops, and its result."""

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


def packages(model, image, seed, fill="mean", segmenter=None, num_samples=60):
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
    score = theirs.score[2] if isinstance(theirs.score, dict) else theirs.score  # the package keeps the last one's
    return weights, score


@pytest.mark.parametrize("fill", ["mean", 0])
def test_weights_are_the_lime_packages(model, images, grid, fill):
    """Sample for sample: the same masks, fills, kernel and Ridge."""
    options = {"num_samples": 60, "exact": True, "seed": 7, "fill": fill, "segmenter": grid}
    made = lime_superpixels(model, images[:1], class_name="class 2", **options)
    wanted, score = packages(model, images[0], 7, fill, lambda image: grid)
    assert (np.abs(wanted).max(axis=1) > 1e-4).all()
    np.testing.assert_allclose(made.class_weights[0], wanted, atol=1e-6)
    assert made.score[0] == pytest.approx(score, abs=1e-5)
    assert made.samples.tolist() == [60]


def test_weights_are_the_lime_packages_with_all_its_defaults():
    """Its own segmentation too, on an image that quickshift divides."""
    model = build_vgg16(3, image_size=(96, 96), weights="slim", seed=2)
    image = np.random.default_rng(3).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    made = lime_superpixels(model, image, exact=True, seed=5, num_samples=50)
    wanted, _ = packages(model, image, 5, num_samples=50)
    assert wanted.shape[1] > 4
    np.testing.assert_allclose(made.class_weights[0], wanted, atol=1e-6)


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
def test_bad_fill(model, images, fill):
    with pytest.raises(
        ConfigError, match=r"fill must be mean, blur, or a colour such as 0,0,0 \(0\.\.255\)\. Received"
    ):
        lime_superpixels(model, images[:1], fill=fill)


def test_it_stops_when_another_draw_would_agree(model, images, grid):
    """Fewer samples than the ceiling, and then independent draws do agree; each sample is predicted once."""
    runs = [lime_superpixels(model, images[:1], segmenter=grid, num_samples=4000, seed=s) for s in range(4)]
    for made in runs:
        assert made.samples[0] < 4000
        assert (made.stability[0] >= STABLE).all()
    weights = np.array([made.weights[0] for made in runs])
    pairs = np.triu_indices(4, 1)
    assert spearman(weights[pairs[0]], weights[pairs[1]]) > STABLE[0] - 0.05
    assert jaccard(weights[pairs[0]], weights[pairs[1]]) > STABLE[1] - 0.15
    short = lime_superpixels(model, images[:1], segmenter=grid, num_samples=40)
    assert short.samples.tolist() == [40]


def test_progress_hears_of_each_batch_and_of_the_end(model, images, grid):
    heard = []
    made = lime_superpixels(
        model, images, segmenter=grid, num_samples=300, progress=lambda *told: heard.append(told), precision="float32"
    )
    for number in range(2):
        done = [d for n, d, total in heard if n == number and total == 300]
        assert done == sorted(done)
        assert done[-1] == 300  # also where it stopped earlier
        assert made.samples[number] in done
        assert len(done) > 2


def test_few_superpixels_are_enumerated(model, images):
    """2^5 masks are all there are: every seed gives the same, with nothing left to chance."""
    five = np.minimum(np.arange(48)[None] // 10, 4) * np.ones((32, 1), int)
    made = [lime_superpixels(model, images[:1], segmenter=five, precision="float32", seed=s) for s in (0, 1)]
    assert made[0].samples.tolist() == [32]
    np.testing.assert_allclose(made[0].weights[0], made[1].weights[0], atol=1e-6)
    np.testing.assert_array_equal(made[0].stability, 1)
    np.testing.assert_allclose(made[0].interval[0][:, 0], made[0].weights[0], atol=1e-9)


def test_several_classes_from_one_run(model, images, grid):
    made = lime_superpixels(model, images[:1], segmenter=grid, num_samples=100)
    for i, name in enumerate(made.class_names):
        one = made.of_class(name)
        assert one.explained(0) == name
        np.testing.assert_array_equal(one.weights[0], made.class_weights[0][i])
        np.testing.assert_array_equal(one.interval[0], made.class_interval[0][i])
        assert one.score[0] == made.class_score[0, i]
        assert one.to_dataframe()["class"].unique().tolist() == [name]
    with pytest.raises(ModelError, match=r"Unknown class 'class 9'\. Did you mean"):
        made.of_class("class 9")


def test_positive_and_negative_superpixels(model, images, grid):
    made = lime_superpixels(model, images[:1], segmenter=grid, num_samples=100)
    titles = [title for title, _ in made.panels()]
    assert titles == ["superpixels", "positive", "negative", "all weights"]
    bars = made.plot_shares().patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(1)


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
    assert {"r2", "samples", "spearman", "top5_jaccard", "low", "high"} <= set(table)
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
    with pytest.raises(
        ConfigError, match=rf"num_samples must be a whole number of at least 2\. Received: num_samples={count}\."
    ):
        lime_superpixels(model, images[:1], num_samples=count)


def test_the_model_is_left_as_it_was(model, images, grid):
    weights, flags = [w.copy() for w in model.get_weights()], [layer.trainable for layer in model.layers]
    lime_superpixels(model, images[:1], segmenter=grid, num_samples=20)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert [layer.trainable for layer in model.layers] == flags
