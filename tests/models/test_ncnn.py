"""winograd.py: Keras's answers to rounding, by ncnn; which models it leaves to Keras; threads; LIME on top of it."""

import os
import threading

import numpy as np
import pytest
from scipy.special import softmax

from xaitune.errors import ConfigError, ModelError, XaituneError
from xaitune.explain.classifier import open_classifier
from xaitune.explain.lime import explain as superpixels
from xaitune.explain.lime.explain import lime_superpixels
from xaitune.explain.probabilities import Probabilities
from xaitune.models import backend as device
from xaitune.models import ncnn as winograd
from xaitune.models import precision
from xaitune.models.backend import keras
from xaitune.models.predict import Predictor
from xaitune.models.vgg import build_vgg16

ncnn = pytest.importorskip("ncnn", reason="ncnn is not installed: pip install 'xaitune[fast]'")
pytestmark = pytest.mark.skipif(winograd.library() is None, reason="a GPU, an old ncnn, or XAITUNE_FAST=0")
layers = keras.layers
SIZE = (96, 96)


def noise(count, size=SIZE, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, *size, 3)).astype(np.float32)


def vgg(head="gap", size=SIZE, classes=3):
    """A small VGG16 whose every weight counts: biases that are not zero, classes that differ."""
    made = build_vgg16(classes, image_size=size, head=head, weights="slim", seed=2)
    rng = np.random.default_rng(1)
    for layer in made.layers:
        if isinstance(layer, layers.Dense):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * 3, rng.normal(size=bias.shape)])
    return made


def chain(*steps, size=SIZE):
    inputs = tensor = keras.Input((*size, 3))
    for step in steps:
        tensor = step(tensor)
    return keras.Model(inputs, tensor)


def agree(model, images):
    wanted = Predictor(model)(images)
    made = winograd.forward(model)(images)
    assert made.dtype == np.float32
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(initial=0))


@pytest.fixture(scope="module")
def model():
    return vgg()


@pytest.mark.parametrize("head", ["gap", "fc"])
@pytest.mark.parametrize("size", [(96, 96), (97, 139), (163, 75)])
def test_it_gives_what_keras_gives(head, size):
    agree(vgg(head, size), noise(2, size))


def test_a_convolution_by_hand():
    """Each logit is the number of a pixel's neighbours within the image, itself included, for 36 of the pixels."""
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
    np.testing.assert_allclose(winograd.forward(ones)(grey)[0].reshape(6, 6), inside, rtol=1e-5)


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
def test_every_layer_that_it_knows(steps, flat):
    steps = [type(step).from_config(step.get_config()) for step in steps]
    dense = layers.Dense(5, activation="relu"), layers.Dense(3, use_bias=False)
    head = [layers.Flatten()] if flat else [layers.GlobalAveragePooling2D(), layers.Flatten()]
    agree(chain(*steps, *head, *dense, size=(97, 99)), noise(2, (97, 99)))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_images(model, count):
    agree(model, noise(count))


def test_an_image_alone_or_among_others_is_the_same(model, monkeypatch):
    images = noise(5)
    together = winograd.forward(model)(images)
    monkeypatch.setenv(device.THREADS, "1")
    alone = winograd.forward(model)
    np.testing.assert_array_equal(together, np.concatenate([alone(images[i : i + 1]) for i in range(5)]))


def test_images_of_any_layout_and_type(model):
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)
    call = winograd.forward(model)
    wanted = call(images.astype(np.float32))
    np.testing.assert_array_equal(call(images), wanted)
    np.testing.assert_array_equal(call(np.asfortranarray(images)), wanted)
    np.testing.assert_array_equal(call(np.concatenate([images] * 2)[::2][[0, 0]]), wanted[[0, 0]])


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ModelError, match=r"shape \(96, 96, 3\)\. Received: \(97, 96, 3\)"):
        winograd.forward(model)(noise(1, (97, 96)))


def test_the_model_is_left_as_it_was_and_not_followed():
    model = vgg()
    state = [(w.copy(), layer.trainable) for layer in model.layers for w in layer.get_weights()]
    nodes = [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers]
    call, images = winograd.forward(model), noise(1)
    before = call(images)
    assert all(
        np.array_equal(old, new) and flag == layer.trainable
        for (old, flag), (new, layer) in zip(
            state, ((w, layer) for layer in model.layers for w in layer.get_weights()), strict=True
        )
    )
    assert [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in model.layers] == nodes
    model.set_weights([w * 0 for w in model.get_weights()])
    np.testing.assert_array_equal(call(images), before)


# ---- what it leaves to Keras


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
def test_a_layer_that_it_does_not_know(step):
    assert winograd.forward(chain(step, layers.GlobalAveragePooling2D(), layers.Dense(3))) is None


def test_models_that_are_no_chain():
    inputs = keras.Input((*SIZE, 3))
    x = layers.Conv2D(3, 3, padding="same")(inputs)
    pooled = layers.GlobalAveragePooling2D()
    assert winograd.forward(keras.Model(inputs, layers.Dense(2)(pooled(x + inputs)))) is None  # a skip
    assert winograd.forward(keras.Model(inputs, layers.Dense(2)(pooled(keras.ops.relu(x))))) is None  # no layer
    assert winograd.forward(keras.Model(inputs, layers.Dense(2)(pooled(x)) / 2)) is None  # after the last layer
    assert winograd.forward(chain(pooled, Doubled(2))) is None
    assert winograd.forward(chain(pooled)) is None  # `pooled` is called more than once
    assert winograd.forward(keras.Model(inputs, x)) is None  # no logits
    assert winograd.forward(keras.Model(inputs, [layers.Flatten()(inputs), layers.Flatten()(x)])) is None
    assert winograd.forward(keras.Sequential([keras.Input((*SIZE, 3)), layers.Flatten(), layers.Dense(2)])) is None


def test_other_models_and_small_images():
    assert winograd.forward(precision.with_precision(vgg(), "bfloat16")) is None
    assert winograd.forward(vgg(size=(96, 95))) is None


def test_a_model_whose_answers_differ(monkeypatch):
    """Weights that are no numbers, which ReLUs would hide; and whatever a translation might miss."""
    model = vgg()
    kernel, bias = model.get_layer("block3_conv1").get_weights()
    model.get_layer("block3_conv1").set_weights([kernel * np.nan, bias])
    assert winograd.forward(model) is None
    monkeypatch.setattr(winograd, "_relu", lambda layer: 0)
    assert winograd.forward(vgg()) is None


def test_it_can_be_switched_off(model, monkeypatch):
    assert winograd.library() == f"ncnn {ncnn.__version__}"
    monkeypatch.setenv("XAITUNE_FAST", "0")
    assert winograd.library() is None
    assert winograd.forward(model) is None
    monkeypatch.setenv("XAITUNE_FAST", "no")
    with pytest.raises(ConfigError, match=r"XAITUNE_FAST must be 0 .* or 1 .*\. Received: 'no'\."):
        winograd.forward(model)


def test_where_it_is_not_to_be_had(model, monkeypatch):
    for version in ("1.0.20260526", "1.0", "unknown"):
        monkeypatch.setattr(ncnn, "__version__", version)
        assert winograd.library() is None
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "ncnn", None)  # its import fails
        assert winograd.forward(model) is None
    monkeypatch.setattr(device, "gpus", lambda: 1)
    assert winograd.forward(model) is None


# ---- threads


def test_it_works_on_as_many_images_at_a_time_as_threads_are_allowed(model, monkeypatch):
    monkeypatch.setenv(device.THREADS, "3")
    call, images = winograd.forward(model), noise(6)
    together = threading.Barrier(3, timeout=60)  # passed only by three at a time
    real = winograd._logits
    monkeypatch.setattr(winograd, "_logits", lambda *args: (together.wait(), real(*args))[1])
    before = set(threading.enumerate())
    assert len(call(images)) == 6
    assert set(threading.enumerate()) == before


def test_what_a_thread_raises_is_raised(model, monkeypatch):
    call = winograd.forward(model)
    before = set(threading.enumerate())

    class Broken:
        def create_extractor(self):
            return self

        def input(self, name, value):
            pass

        def extract(self, name):
            return -100, None

    with pytest.raises(XaituneError, match=r"status -100.*XAITUNE_FAST=0"):
        winograd._function(Broken(), "s1", (*SIZE, 3), 3)(noise(4))
    monkeypatch.setattr(winograd, "_logits", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(noise(4))
    assert set(threading.enumerate()) == before


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc to read the memory from")
def test_memory_does_not_grow_with_the_images(model):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    call, images = winograd.forward(model), noise(16)
    for _ in range(4):
        call(images)
    start = resident()
    for _ in range(20):  # 320 images; the activations of one are 5 MB, a copy of its pixels 0.1 MB
        call(images)
    assert resident() - start < 20e6


# ---- what uses it


def test_probabilities_are_keras_softmax(model, monkeypatch):
    images = noise(3)
    wanted = softmax(model.predict_on_batch(images).astype(np.float64), axis=1)
    used = []
    real = winograd.forward
    monkeypatch.setattr(superpixels.winograd, "forward", lambda m: used.append(real(m)) or used[-1])
    classifier = open_classifier(model)
    np.testing.assert_allclose(Probabilities(classifier, "float32")(images), wanted, rtol=1e-5)
    assert used[0] is not None
    np.testing.assert_allclose(Probabilities(classifier, "bfloat16")(images), wanted, atol=0.05)
    assert used[1:] == [None]
    np.testing.assert_allclose(Probabilities(classifier, "float32", exact=True)(images), wanted, rtol=1e-5)
    assert len(used) == 2


def test_lime_gives_the_same_superpixels_with_and_without_it(model, monkeypatch):
    image = np.kron(noise(1, (8, 8), seed=3)[0], np.ones((12, 12, 1))).astype(np.uint8)
    grid = np.kron(np.arange(36).reshape(6, 6), np.ones((16, 16), int))
    options = {"segmenter": grid, "num_samples": 200, "precision": "float32"}
    fast = lime_superpixels(model, image, **options)
    monkeypatch.setenv("XAITUNE_FAST", "0")
    plain = lime_superpixels(model, image, **options)
    assert fast.samples.tolist() == plain.samples.tolist()
    scale = np.abs(plain.class_weights[0]).max()
    np.testing.assert_allclose(fast.class_weights[0], plain.class_weights[0], rtol=0, atol=1e-4 * scale)
