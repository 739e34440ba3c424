"""Grad-CAM and CAM against maps worked out by hand, and what they must leave unchanged."""

import gc
import weakref
from unittest import mock

import numpy as np
import pytest
from scipy.special import softmax

from xaitune.errors import ConfigError, ImageError, ModelError
from xaitune.explain.cam import class_activation_map
from xaitune.explain.gradcam import RULES, gradcam_blocks
from xaitune.models.backend import keras
from xaitune.models.blocks import convolutions, freeze_blocks
from xaitune.models.gradients import ActivationGradients
from xaitune.models.vgg import build_vgg16

IMAGE = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)


def hand_net(trainable=True):
    """4x4x1 -> two 1x1 convolutions with ReLU -> pooling 2x2 -> a sum: every number below is worked out by hand.

    A1 = [x, 2x]; A2 = relu([A1_0 - 3, 8 - A1_1 / 2]) = relu([x - 3, 8 - x]).
    logit_0 = 2 sum(A2_0) - sum(A2_1), logit_1 = sum(A2_1).
    """
    inputs = keras.Input((4, 4, 1))
    first = keras.layers.Conv2D(2, 1, activation="relu", name="first")
    second = keras.layers.Conv2D(2, 1, activation="relu", name="second")
    x = second(first(inputs))
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    dense = keras.layers.Dense(2, name="logits")
    model = keras.Model(inputs, dense(x))
    first.set_weights([np.array([[[[1.0, 2.0]]]]), np.zeros(2)])
    second.set_weights([np.array([[[[1.0, 0.0], [0.0, -0.5]]]]), np.array([-3.0, 8.0])])
    dense.set_weights([16 * np.array([[2.0, 0.0], [-1.0, 1.0]]), np.zeros(2)])
    first.trainable = second.trainable = trainable
    return model


@pytest.mark.parametrize("trainable", [True, False])
def test_gradients_and_maps_by_hand(trainable):
    """Frozen layers give the same activation gradients and maps."""
    x = IMAGE[0, :, :, 0]
    passes = ActivationGradients(hand_net(trainable), ["first", "second"])
    ((a1, g1), (a2, g2)), logits = passes(IMAGE, np.array([0]))
    np.testing.assert_allclose(a1[0], np.stack([x, 2 * x], -1))
    np.testing.assert_allclose(a2[0], np.stack([np.maximum(x - 3, 0), np.maximum(8 - x, 0)], -1))
    # sum(x - 3 | x > 3) = 78, sum(8 - x | x < 8) = 36
    np.testing.assert_allclose(logits, [[2 * 78 - 36, 36]])
    np.testing.assert_allclose(g2[0], np.broadcast_to([2.0, -1.0], (4, 4, 2)))
    # through the ReLU: 2 where x > 3 for the first channel, and -1 * -1/2 where x < 8 for the second
    np.testing.assert_allclose(g1[0], np.stack([2.0 * (x > 3), 0.5 * (x < 8)], -1))
    # weights of `second`: 2 and -1, so 2 relu(x - 3) - relu(8 - x); of `first`: 2 * 12/16 and 0.5 * 8/16
    expected = [[-8, -7, -6, -5], [-2, 1, 4, 7], [10, 12, 14, 16], [18, 20, 22, 24]]
    np.testing.assert_allclose(RULES["gradcam"](a2, g2)[0], expected, atol=1e-5)
    np.testing.assert_allclose(RULES["gradcam"](a1, g1)[0], 1.5 * x + 0.25 * 2 * x, atol=1e-5)


def test_minus_one_means_the_top_class():
    passes = ActivationGradients(hand_net(), ["second"])
    batch = np.concatenate([IMAGE, IMAGE * 0])  # classes 0 and 1 win: logits (120, 36) and (-128, 128)
    [(_, top)], logits = passes(batch, np.array([-1, -1]))
    assert logits.argmax(axis=1).tolist() == [0, 1]
    [(_, given)], _ = passes(batch, np.array([0, 1]))
    np.testing.assert_array_equal(top, given)
    [(_, other)], _ = passes(batch, np.array([1, 1]))
    np.testing.assert_allclose(other[0], np.broadcast_to([0.0, 1.0], (4, 4, 2)))


def test_rules_on_hand_arrays():
    a = np.array([[[1.0, 0.0], [3.0, 2.0]], [[0.0, 4.0], [0.0, 2.0]]])[None]  # (1, 2, 2, 2)
    g = np.array([[[2.0, -1.0], [0.0, 1.0]], [[2.0, 1.0], [0.0, 3.0]]])[None]
    # channel means of g: 1 and 1
    np.testing.assert_allclose(RULES["gradcam"](a, g)[0], [[1, 5], [4, 2]])
    np.testing.assert_allclose(RULES["hirescam"](a, g)[0], [[2, 2], [4, 6]])
    np.testing.assert_allclose(RULES["layercam"](a, g)[0], [[2, 2], [4, 6]])
    # xgradcam: sum(a g) / sum(a) = 2 / 4 and (0 + 2 + 4 + 6) / 8
    np.testing.assert_allclose(RULES["xgradcam"](a, g)[0], [[0.5, 4.5], [6, 3]])
    # gradcam++: alpha = g^2 / (2 g^2 + sum(a) g^3) = 1 / (2 + S g), weight = sum alpha relu(g); S = 4 and 8
    w = [2 * (1 / 10) * 2, 2 * (1 / 10) * 1 + 1 / 26 * 3]
    np.testing.assert_allclose(RULES["gradcam++"](a, g)[0], a[0] @ np.array(w), atol=1e-12)
    negative = -np.abs(g)
    assert np.max(RULES["layercam"](a, negative)) == 0
    assert np.min(RULES["hirescam"](a, negative)) == -6
    for rule in RULES.values():
        assert np.isfinite(rule(np.zeros_like(a), np.zeros_like(g))).all()


@pytest.fixture(scope="module")
def model():
    return build_vgg16(3, image_size=(32, 48), weights="slim", seed=1)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3)).astype(np.uint8)


def test_one_block_alone_equals_all_at_once(model, images):
    """Each block alone gives the same map as all five at once, at the block's own size before pooling."""
    maps = gradcam_blocks(model, images, precision="float32")
    assert maps.blocks == (1, 2, 3, 4, 5)
    for b in maps.blocks:
        assert maps.raw[b].shape == (3, 32 >> (b - 1), 48 >> (b - 1))
        alone = gradcam_blocks(model, images, blocks=b, precision="float32").raw[b]
        np.testing.assert_allclose(alone, maps.raw[b], atol=1e-6)
    np.testing.assert_allclose(maps.probabilities.sum(axis=1), 1, atol=1e-6)
    logits = model.predict_on_batch(images.astype(np.float32))
    np.testing.assert_allclose(maps.probabilities, softmax(logits, axis=1), atol=1e-5)
    assert maps.classes.tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("block", [3, 4])
def test_the_gradient_is_that_of_the_logit(model, images, block):
    """The gradient at a block, against a finite difference of the logit through the rest of the network."""
    name = convolutions()[block][-1]
    [(a, g)], logits = ActivationGradients(model, [name])(images[:1], np.array([2]))
    rest = keras.Model(model.get_layer(name).output, model.output)
    np.testing.assert_allclose(rest.predict_on_batch(a), logits, atol=1e-5)
    direction = g * (a > 0)  # where two zeros tie in a pooling window there is no derivative
    step = 3e-4 / np.abs(direction).max()
    ahead, behind = (float(rest.predict_on_batch(a + sign * step * direction)[0, 2]) for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float((direction**2).sum()), rel=0.01)


def test_cam_is_the_gradcam_of_block_five_times_its_size(model, images):
    for name in ("class 0", "class 2", None):
        cam = class_activation_map(model, images, class_name=name, precision="float32")
        grad = gradcam_blocks(model, images, blocks=5, class_name=name, precision="float32")
        height, width = cam.raw[5].shape[1:]
        np.testing.assert_allclose(height * width * grad.raw[5], cam.raw[5], atol=1e-5)
        assert cam.classes.tolist() == grad.classes.tolist()
        assert cam.raw[5].min() < 0  # before any ReLU


def test_cam_sums_to_the_logit(model, images):
    """The mean of the CAM plus the bias is the logit."""
    cam = class_activation_map(model, images, class_name="class 1", precision="float32")
    bias = model.get_layer("logits").get_weights()[1][1]
    logits = model.predict_on_batch(images.astype(np.float32))[:, 1]
    np.testing.assert_allclose(cam.raw[5].mean(axis=(1, 2)) + bias, logits, atol=1e-5)


def test_cam_needs_a_gap_head(images):
    fc = build_vgg16(3, image_size=(32, 48), weights="slim", head="fc")
    with pytest.raises(
        ModelError, match=r"has no GAP head .* Train with --head gap or --head blocks, or use --method gradcam\."
    ):
        class_activation_map(fc, images)
    assert gradcam_blocks(fc, images[:1], blocks="1-2").blocks == (1, 2)  # Grad-CAM works on both


@pytest.mark.parametrize("explain", [gradcam_blocks, class_activation_map])
def test_the_model_is_left_as_it_was(explain, images):
    model = freeze_blocks(build_vgg16(3, image_size=(32, 48), weights="slim"), 3)
    model.compile("sgd", "mse")
    optimizer, weights = model.optimizer, [w.copy() for w in model.get_weights()]
    flags = [layer.trainable for layer in model.layers]
    calls = [layer.call for layer in model.layers]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    explain(model, images)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert [layer.trainable for layer in model.layers] == flags
    assert [layer.call for layer in model.layers] == calls
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert model.optimizer is optimizer


def test_frozen_blocks_give_the_same_maps(model, images):
    free = gradcam_blocks(freeze_blocks(model, 0), images).raw
    frozen = gradcam_blocks(freeze_blocks(model, 5), images).raw
    for b in free:
        np.testing.assert_allclose(free[b], frozen[b], atol=1e-6)
    freeze_blocks(model, 0)


def test_a_batch_equals_single_images(model, images, monkeypatch):
    monkeypatch.setattr("xaitune.explain.gradcam.images_at_once", lambda *size: 16)
    many = np.concatenate([images] * 7)[:19]  # two batches, the second one incomplete
    maps = gradcam_blocks(model, many, blocks="3,5")
    for i in (0, 1, 2, 17, 18):
        one = gradcam_blocks(model, many[i], blocks="3,5")
        for b in (3, 5):
            np.testing.assert_allclose(maps.raw[b][i], one.raw[b][0], atol=1e-5)
        assert maps.classes[i] == one.classes[0]


def test_class_name_chooses_the_class(run, demo):
    names = run.class_names
    maps = gradcam_blocks(run, demo.paths([0, 30]), blocks=5, class_name=names[3])
    assert maps.classes.tolist() == [3, 3]
    assert maps.explained(1) == names[3]
    assert maps.files == tuple(map(str, demo.paths([0, 30])))
    other = gradcam_blocks(run, demo.paths([0, 30]), blocks=5, class_name=names[4])
    assert not np.allclose(maps.raw[5], other.raw[5])
    with pytest.raises(ModelError) as excinfo:
        gradcam_blocks(run, demo.paths([0]), class_name="crak")
    assert str(excinfo.value).startswith("Unknown class 'crak'. Did you mean 'crack'? The model's classes: blowhole, ")


def test_a_run_its_path_and_its_model_file_give_the_same_maps(run, demo):
    paths = demo.paths([5])
    expected = gradcam_blocks(run, paths, blocks=4)
    for model in (run.path, str(run.path), run.path / "model.keras"):
        maps = gradcam_blocks(model, paths, blocks=4)
        np.testing.assert_array_equal(maps.raw[4], expected.raw[4])
        assert maps.class_names == run.class_names
    array = demo.load([5])
    np.testing.assert_array_equal(gradcam_blocks(run, array, blocks=4).raw[4], expected.raw[4])


def test_is_zero_marks_maps_that_show_nothing(model, images):
    kernel, bias = model.get_layer("logits").get_weights()
    try:
        model.get_layer("logits").set_weights([np.stack([np.ones(128), -np.ones(128), np.zeros(128)], 1), bias])
        shown = gradcam_blocks(model, images, blocks=5, class_name="class 0")
        against = gradcam_blocks(model, images, blocks=5, class_name="class 1")
        nothing = gradcam_blocks(model, images, blocks="all", class_name="class 2")
    finally:
        model.get_layer("logits").set_weights([kernel, bias])
    assert not shown.is_zero.any()
    assert shown.view[5].max(axis=(1, 2)).tolist() == [1.0, 1.0, 1.0]
    assert against.is_zero.all()
    assert against.raw[5].min() < 0  # the raw map keeps what the view sets to 0
    assert against.view[5].max() == 0
    assert nothing.is_zero.all()
    assert nothing.is_zero.shape == (3, 5)


def refusal(model, images, **options):
    with pytest.raises((ModelError, ConfigError, ImageError)) as excinfo:
        gradcam_blocks(model, images, **options)
    return str(excinfo.value)


def test_models_that_cannot_be_explained_are_refused(model, images, tmp_path):
    """Nested models and final activations are tested in test_flatten.py."""
    x = model.get_layer("gap").output
    assert "is not an image classifier" in refusal(keras.Model(model.input, x[:, None]), images)
    several = keras.Model(model.input, [model.output, x])
    assert "has several outputs. Name one of logits, gap: --output NAME" in refusal(several, images)
    assert refusal(3, images) == "A model must be a Run, a path or a keras.Model. Received: int."
    assert "No model at" in refusal(tmp_path / "none.keras", images)


def test_wrong_images_blocks_and_rules_are_refused(model, images):
    assert "raw values 0..255, not preprocessed ones. Received: -1..1." in refusal(
        model, np.linspace(-1, 1, 32 * 48 * 3).reshape(1, 32, 48, 3)
    )
    assert "must be (n, height, width, 3) RGB in 0..255. Received: shape (3, 32, 48)" in refusal(model, images[..., 0])
    assert "not preprocessed ones" in refusal(model, np.full((1, 32, 48, 3), np.nan))
    assert "Received: shape (0, 32, 48, 3)" in refusal(model, images[:0])
    assert "block must be 1..5" in refusal(model, images, blocks=7)
    message = refusal(model, images, rule="layer-cam")
    assert message.startswith(
        "rule must be one of gradcam, gradcam++, hirescam, xgradcam, layercam. Received: rule='layer-"
    )
    assert message.endswith("Did you mean 'layercam'?")


def test_a_second_call_builds_nothing_and_uses_the_new_weights(images):
    """The compiled pass and the bfloat16 copy are kept as long as the model, not longer."""
    model = build_vgg16(3, image_size=(32, 48), weights="slim", seed=1)
    for precision in ("float32", "bfloat16"):
        before = gradcam_blocks(model, images, class_name="class 1", precision=precision)
        kernel, bias = model.get_layer("logits").get_weights()
        with mock.patch("xaitune.explain.gradcam.ActivationGradients", side_effect=AssertionError("built again")):
            model.get_layer("logits").set_weights([2 * kernel, bias])
            after = gradcam_blocks(model, images, class_name="class 1", precision=precision)
        model.get_layer("logits").set_weights([kernel, bias])
        scale = np.abs(before.raw[5]).max()
        np.testing.assert_allclose(after.raw[5] / scale, 2 * before.raw[5] / scale, atol=2e-2)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
