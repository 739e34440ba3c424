"""ncnn.py: the same outputs as Keras to rounding, the models that it leaves to Keras, threads, and its use in LIME."""

import os
import threading

import numpy as np
import pytest
from scipy.special import softmax

from xaitune.errors import ConfigError, ModelError, XaituneError
from xaitune.explain import probabilities
from xaitune.explain.classifier import open_classifier
from xaitune.explain.lime.explain import lime_superpixels
from xaitune.explain.probabilities import Probabilities
from xaitune.models import backend, precision
from xaitune.models import ncnn as fast
from xaitune.models.backend import keras
from xaitune.models.ncnn import NcnnForward
from xaitune.models.predict import Predictor
from xaitune.models.vgg import build_vgg16

ncnn = pytest.importorskip("ncnn", reason="ncnn is not installed: pip install 'xaitune[fast]'")
pytestmark = pytest.mark.skipif(fast.library() is None, reason="a GPU, an old ncnn, or XAITUNE_FAST=0")
layers = keras.layers
SIZE = (96, 96)


def noise(count, size=SIZE, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, *size, 3)).astype(np.float32)


def vgg(head="gap", size=SIZE, classes=3):
    """A small VGG16 in which every weight matters: no bias is zero, and the classes differ."""
    model = build_vgg16(classes, image_size=size, head=head, weights="slim", seed=2)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * 3, rng.normal(size=bias.shape)])
    return model


def chain(*steps, size=SIZE):
    inputs = tensor = keras.Input((*size, 3))
    for step in steps:
        tensor = step(tensor)
    return keras.Model(inputs, tensor)


def assert_agrees(model, images):
    expected = Predictor(model)(images)
    logits = fast.forward(model)(images)
    assert logits.dtype == np.float32
    assert logits.shape == expected.shape
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=0))


@pytest.fixture(scope="module")
def model():
    return vgg()


@pytest.mark.parametrize("head", ["gap", "fc"])
@pytest.mark.parametrize("size", [(96, 96), (97, 139), (163, 75)])
def test_outputs_are_those_of_keras(head, size):
    assert_agrees(vgg(head, size), noise(2, size))


def test_a_convolution_by_hand():
    """Each logit counts the pixels of a 3x3 window that are within the image, for 36 windows."""
    ones = chain(
        layers.Conv2D(1, 3, padding="same", kernel_initializer="ones"),
        layers.MaxPooling2D(1, strides=19),  # rows and columns 0, 19, ..., 95
        layers.Flatten(),
        layers.Dense(36, kernel_initializer="identity"),
    )
    inside = np.full((6, 6), 9.0)
    inside[[0, -1]] = inside[:, [0, -1]] = 6
    inside[[0, 0, -1, -1], [0, -1, 0, -1]] = 4
    grey = np.ones((1, *SIZE, 3), np.float32) / 3
    np.testing.assert_allclose(fast.forward(ones)(grey)[0].reshape(6, 6), inside, rtol=1e-5)


@pytest.mark.parametrize(
    "steps",
    [
        [
            layers.Conv2D(4, (3, 5), padding="same"),
            layers.Conv2D(5, (2, 4)),
            layers.MaxPooling2D((3, 2), strides=(2, 3)),
        ],
        [layers.Conv2D(4, 1, use_bias=False, activation="relu"), layers.Conv2D(6, 7), layers.MaxPooling2D(2)],
        [layers.Rescaling(1 / 50, offset=[-1.0, 0.5, 2.0]), layers.Conv2D(4, 3), layers.Dropout(0.5)],
        [layers.MaxPooling2D(2), layers.Conv2D(4, 3, strides=(1, 1), padding="same", activation="relu")],
    ],
)
@pytest.mark.parametrize("flat", [True, False])
def test_every_supported_layer(steps, flat):
    steps = [type(step).from_config(step.get_config()) for step in steps]
    dense = layers.Dense(5, activation="relu"), layers.Dense(3, use_bias=False)
    head = [layers.Flatten()] if flat else [layers.GlobalAveragePooling2D(), layers.Flatten()]
    assert_agrees(chain(*steps, *head, *dense, size=(97, 99)), noise(2, (97, 99)))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_images(model, count):
    assert_agrees(model, noise(count))


def test_an_image_has_the_same_logits_alone_and_among_others(model, monkeypatch):
    images = noise(5)
    together = fast.forward(model)(images)
    monkeypatch.setenv(backend.THREADS, "1")
    alone = fast.forward(model)
    np.testing.assert_array_equal(together, np.concatenate([alone(images[i : i + 1]) for i in range(5)]))


def test_images_of_any_layout_and_type(model):
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)
    predict = fast.forward(model)
    expected = predict(images.astype(np.float32))
    np.testing.assert_array_equal(predict(images), expected)
    np.testing.assert_array_equal(predict(np.asfortranarray(images)), expected)
    np.testing.assert_array_equal(predict(np.concatenate([images] * 2)[::2][[0, 0]]), expected[[0, 0]])


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ModelError, match=r"shape \(96, 96, 3\)\. Received: \(97, 96, 3\)"):
        fast.forward(model)(noise(1, (97, 96)))


def test_the_model_is_not_changed_and_later_changes_have_no_effect():
    model = vgg()
    state = [(w.copy(), layer.trainable) for layer in model.layers for w in layer.get_weights()]
    nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]
    predict, images = fast.forward(model), noise(1)
    before = predict(images)
    after = [(w, layer.trainable) for layer in model.layers for w in layer.get_weights()]
    for (old, was_trainable), (new, trainable) in zip(state, after, strict=True):
        assert np.array_equal(old, new)
        assert was_trainable == trainable
    assert [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers] == nodes
    model.set_weights([w * 0 for w in model.get_weights()])
    np.testing.assert_array_equal(predict(images), before)


# ---- models that it leaves to Keras


class Doubled(layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


@pytest.mark.parametrize(
    "step",
    [
        layers.BatchNormalization(),
        layers.Conv2D(4, 3, strides=2),
        layers.Conv2D(4, 3, dilation_rate=2),
        layers.Conv2D(3, 3, groups=3),
        layers.Conv2D(4, 2, padding="same"),
        layers.Conv2D(4, 3, activation="gelu"),
        layers.Conv2D(4, 3, dtype="mixed_bfloat16"),
        layers.MaxPooling2D(2, padding="same"),
        layers.AveragePooling2D(2),
        layers.Dense(4),
    ],
    ids=lambda step: type(step).__name__,
)
def test_an_unsupported_layer(step):
    assert fast.forward(chain(step, layers.GlobalAveragePooling2D(), layers.Dense(3))) is None


def test_models_that_are_not_a_chain():
    inputs = keras.Input((*SIZE, 3))
    x = layers.Conv2D(3, 3, padding="same")(inputs)
    pooled = layers.GlobalAveragePooling2D()
    assert fast.forward(keras.Model(inputs, layers.Dense(2)(pooled(x + inputs)))) is None  # a skip connection
    assert fast.forward(keras.Model(inputs, layers.Dense(2)(pooled(keras.ops.relu(x))))) is None  # not a layer
    assert fast.forward(keras.Model(inputs, layers.Dense(2)(pooled(x)) / 2)) is None  # follows the last layer
    assert fast.forward(chain(pooled, Doubled(2))) is None
    assert fast.forward(chain(pooled)) is None  # `pooled` is called more than once
    assert fast.forward(keras.Model(inputs, x)) is None  # no logits
    assert fast.forward(keras.Model(inputs, [layers.Flatten()(inputs), layers.Flatten()(x)])) is None
    assert fast.forward(keras.Sequential([keras.Input((*SIZE, 3)), layers.Flatten(), layers.Dense(2)])) is None


def test_other_models_and_small_images():
    assert fast.forward(precision.with_precision(vgg(), "bfloat16")) is None
    assert fast.forward(vgg(size=(96, 95))) is None


def test_a_model_with_other_outputs(monkeypatch):
    """NaN weights, which ncnn's ReLU hides, and an error in the translation."""
    model = vgg()
    kernel, bias = model.get_layer("block3_conv1").get_weights()
    model.get_layer("block3_conv1").set_weights([kernel * np.nan, bias])
    assert fast.forward(model) is None
    monkeypatch.setattr(fast, "_relu", lambda layer: 0)
    assert fast.forward(vgg()) is None


def test_it_can_be_switched_off(model, monkeypatch):
    assert fast.library() == f"ncnn {ncnn.__version__}"
    monkeypatch.setenv("XAITUNE_FAST", "0")
    assert fast.library() is None
    assert fast.forward(model) is None
    monkeypatch.setenv("XAITUNE_FAST", "no")
    with pytest.raises(ConfigError, match=r"XAITUNE_FAST must be 0 .* or 1 .*\. Received: 'no'\."):
        fast.forward(model)


def test_where_ncnn_cannot_be_used(model, monkeypatch):
    for version in ("1.0.20260526", "1.0", "unknown"):
        monkeypatch.setattr(ncnn, "__version__", version)
        assert fast.library() is None
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "ncnn", None)  # its import fails
        assert fast.forward(model) is None
    monkeypatch.setattr(backend, "gpus", lambda: 1)
    assert fast.forward(model) is None


# ---- threads


def test_as_many_images_at_a_time_as_threads_are_allowed(model, monkeypatch):
    monkeypatch.setenv(backend.THREADS, "3")
    predict, images = fast.forward(model), noise(6)
    three_together = threading.Barrier(3, timeout=60)  # only three threads at a time can pass it
    real = NcnnForward._logits
    monkeypatch.setattr(NcnnForward, "_logits", lambda *args: (three_together.wait(), real(*args))[1])
    before = set(threading.enumerate())
    assert len(predict(images)) == 6
    assert set(threading.enumerate()) == before


def test_an_error_in_a_thread_is_raised(model, monkeypatch):
    predict = fast.forward(model)
    before = set(threading.enumerate())

    class Broken:
        def create_extractor(self):
            return self

        def input(self, name, value):
            pass

        def extract(self, name):
            return -100, None

    with pytest.raises(XaituneError, match=r"status -100.*XAITUNE_FAST=0"):
        NcnnForward(Broken(), "s1", (*SIZE, 3), 3)(noise(4))
    monkeypatch.setattr(NcnnForward, "_logits", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(noise(4))
    assert set(threading.enumerate()) == before


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc to read the memory from")
def test_memory_does_not_grow_with_the_images(model):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    predict, images = fast.forward(model), noise(16)
    for _ in range(4):
        predict(images)
    start = resident()
    for _ in range(20):  # 320 images; the activations of one are 5 MB, a copy of its pixels 0.1 MB
        predict(images)
    assert resident() - start < 20e6


# ---- its users


def test_probabilities_are_the_softmax_of_keras(model, monkeypatch):
    images = noise(3)
    expected = softmax(model.predict_on_batch(images).astype(np.float64), axis=1)
    returned = []
    real = fast.forward
    monkeypatch.setattr(probabilities.ncnn, "forward", lambda m: returned.append(real(m)) or returned[-1])
    classifier = open_classifier(model)
    np.testing.assert_allclose(Probabilities(classifier, "float32")(images), expected, rtol=1e-5)
    assert returned[0] is not None
    np.testing.assert_allclose(Probabilities(classifier, "bfloat16")(images), expected, atol=0.05)
    assert returned[1:] == [None]
    np.testing.assert_allclose(Probabilities(classifier, "float32", exact=True)(images), expected, rtol=1e-5)
    assert len(returned) == 2


def test_lime_gives_the_same_superpixels_with_and_without_it(model, monkeypatch):
    image = np.kron(noise(1, (8, 8), seed=3)[0], np.ones((12, 12, 1))).astype(np.uint8)
    grid = np.kron(np.arange(36).reshape(6, 6), np.ones((16, 16), int))
    options = {"segmenter": grid, "num_samples": 200, "precision": "float32"}
    with_ncnn = lime_superpixels(model, image, **options)
    monkeypatch.setenv("XAITUNE_FAST", "0")
    without = lime_superpixels(model, image, **options)
    assert with_ncnn.samples.tolist() == without.samples.tolist()
    scale = np.abs(without.class_weights[0]).max()
    np.testing.assert_allclose(with_ncnn.class_weights[0], without.class_weights[0], rtol=0, atol=1e-4 * scale)
