"""The U-Net on VGG's blocks, its losses against NumPy, and the scores of regions that its heatmaps explain."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from xaitune.models.backend import BACKEND, keras
from xaitune.models.blocks import freeze_blocks
from xaitune.models.pixel_losses import SMOOTH, pixel_loss
from xaitune.models.unet import (
    RegionScores,
    build_unet,
    decoder_layers,
    decoder_multiply_adds,
    is_unet,
    region_classifier,
    set_region,
)
from xaitune.models.weights import load_backbone
from xaitune.training.cut import cut_output, suffix_model


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("slim")


@pytest.mark.parametrize("size", [(32, 32), (50, 75), (33, 47)])
def test_every_size_comes_back(backbone, size):
    model = build_unet(3, image_size=size, weights=backbone)
    assert model.output_shape == (None, *size, 3)
    assert is_unet(model)
    assert np.isfinite(np.asarray(model(np.zeros((1, *size, 3), np.float32)))).all()


def test_the_encoder_has_the_weights_and_freezes_as_a_vgg(backbone):
    model = freeze_blocks(build_unet(2, image_size=(32, 32), weights=backbone), 3)
    np.testing.assert_array_equal(model.get_layer("block2_conv1").get_weights()[0], backbone.arrays["block2_conv1"][0])
    assert not model.get_layer("block3_conv1").trainable
    assert model.get_layer("block4_conv1").trainable
    assert all(layer.trainable for layer in decoder_layers(model))


@pytest.mark.parametrize("through", [1, 3, 5])
def test_the_cut_model_gives_the_same_logits(backbone, through):
    model = build_unet(2, image_size=(36, 44), weights=backbone, seed=3)
    images = np.random.default_rng(0).uniform(0, 255, (2, 36, 44, 3)).astype(np.float32)
    cut = keras.Model(model.input, cut_output(model, through))(images)
    np.testing.assert_allclose(suffix_model(model, through)(cut), model(images), rtol=1e-4, atol=1e-4)


def test_multiply_adds_are_those_of_the_layers(backbone):
    model = build_unet(2, image_size=(64, 96), weights=backbone)
    total = 0
    for layer in decoder_layers(model):
        if isinstance(layer, keras.layers.Conv2D):
            total += np.prod(layer.output.shape[1:3]) * np.prod(layer.kernel.shape)
    assert decoder_multiply_adds((64, 96), backbone.channels) == total


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    targets = rng.choice([0, 1, 2, 255], (2, 4, 5))
    weights = np.where(targets == 255, 0, rng.uniform(0.5, 2, targets.shape)).astype(np.float32)
    return targets, rng.normal(size=(2, 4, 5, 3)).astype(np.float32), weights


def value(loss, batch):
    return float(keras.ops.convert_to_numpy(loss(*(keras.ops.convert_to_tensor(a) for a in batch))))


@pytest.mark.parametrize("name", ["categorical_crossentropy", "sparse_categorical_crossentropy", "focal"])
def test_cross_entropies_by_numpy(name, batch):
    targets, logits, weights = batch
    known = targets != 255
    log_p = np.take_along_axis(log_softmax(logits, -1), np.where(known, targets, 0)[..., None], -1)[..., 0]
    each = -log_p * ((1 - np.exp(log_p)) ** 2 if name == "focal" else 1)
    expected = (each * weights)[known].sum() / targets.size
    assert value(pixel_loss(name, 3), batch) == pytest.approx(expected, rel=1e-4)


def test_dice_by_numpy_and_its_ends(batch):
    targets, logits, weights = batch
    known = weights > 0
    p, dice, share = softmax(logits, -1), [], []
    for c in range(3):
        y = (targets == c) & known
        dice.append((2 * p[..., c][y].sum() + SMOOTH) / (p[..., c][known].sum() + y.sum() + SMOOTH))
        share.append(weights[y].mean())
    assert value(pixel_loss("dice", 3), batch) == pytest.approx(1 - np.average(dice, weights=share), rel=1e-4)
    perfect = 50 * (np.where(known, targets, 0)[..., None] == np.arange(3)).astype(np.float32)
    assert value(pixel_loss("dice", 3), (targets, perfect, weights)) == pytest.approx(0, abs=1e-4)


def region_scores(logits, region=None):
    layer = RegionScores()
    layer.build(logits.shape)
    if region is not None:
        layer.region.assign(region)
    return layer


def test_the_top_class_is_that_of_the_largest_region():
    logits = np.zeros((3, 4, 4, 3), np.float32)
    logits[..., 0] = 1  # the third image is all background
    logits[0, :2, :, 1], logits[0, 3, :2, 2] = 5, 5
    logits[1, 0, :, 1], logits[1, 1:3, :, 2] = 5, 5
    scores = np.asarray(region_scores(logits)(logits))
    assert scores.argmax(1).tolist() == [1, 2, 0]
    np.testing.assert_allclose(softmax(scores, 1)[0], [0, 0.8, 0.2], atol=1e-4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="differentiates with TensorFlow's tape")
def test_the_gradient_is_the_mean_over_the_predicted_or_the_given_region():
    import tensorflow as tf

    logits = tf.constant(np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32))
    predicted = (np.asarray(logits).argmax(-1) == 1)[0]
    region = np.zeros((4, 4), np.float32)
    region[:2, :2] = 1
    for marked, layer in ((predicted, region_scores(logits)), (region > 0, region_scores(logits, region))):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            score = layer(logits)[0, 1]
        gradient = tape.gradient(score, logits).numpy()[0]
        np.testing.assert_allclose(gradient[..., 1], marked / marked.sum(), atol=1e-6)
        assert not gradient[..., 0].any()


def test_a_region_can_be_set_and_taken_back(backbone):
    model = region_classifier(build_unet(2, image_size=(32, 32), weights=backbone))
    set_region(model, np.ones((32, 32), bool))
    assert np.asarray(model.get_layer("region_scores").region).sum() == 1024
    set_region(model, None)
    assert np.asarray(model.get_layer("region_scores").region).sum() == 0


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "focal", "dice"])
def test_losses_in_bfloat16(backbone, loss):
    from xaitune.models.precision import with_precision

    copy = with_precision(build_unet(2, image_size=(32, 32), weights=backbone), "bfloat16")
    logits = copy(np.zeros((1, 32, 32, 3), np.float32))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    targets, weights = np.zeros((1, 32, 32), np.int64), np.ones((1, 32, 32), np.float32)
    assert np.isfinite(value(pixel_loss(loss, 2), (targets, logits, weights)))


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "focal", "dice"])
def test_a_batch_in_which_nothing_counts_has_no_loss(loss, batch):
    targets, logits, weights = batch
    assert value(pixel_loss(loss, 3), (np.full_like(targets, 255), logits, np.zeros_like(weights))) == 0
