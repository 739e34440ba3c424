"""vgg.py, blocks.py and weights.py: freezing by block, the graph, preprocessing, and every source of weights."""

import dataclasses

import h5py
import numpy as np
import pytest

from xaitune.errors import ConfigError, ModelError, WeightsError
from xaitune.models import vgg, weights
from xaitune.models.backend import keras
from xaitune.models.blocks import (
    CHANNELS,
    architecture_of,
    convolution_shapes,
    convolutions,
    freeze_blocks,
    multiply_adds,
)
from xaitune.models.vgg import build_vgg16
from xaitune.models.weights import load_backbone
from xaitune.training.train import train_model

SLIM = (16, 32, 64, 128, 128)
SIZE = (32, 48)


@pytest.fixture(scope="module")
def slim():
    return build_vgg16(3, image_size=SIZE, weights="slim")


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.float32)


def write_h5(path, arrays, **attributes):
    """Keras's legacy no-top layout: <layer>/<layer>/kernel:0 and bias:0."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = list(arrays)
        for name, (kernel, bias) in arrays.items():
            group = file.create_group(f"{name}/{name}")
            group["kernel:0"], group["bias:0"] = kernel, bias
        file.attrs.update(attributes)
    return path


def tiny_arrays(channels=(4, 4, 6, 6, 8), seed=0):
    rng, arrays, channels_in = np.random.default_rng(seed), {}, 3
    for block, names in convolutions().items():
        for name in names:
            width = channels[block - 1]
            kernel = rng.normal(0, (2 / (9 * channels_in)) ** 0.5, (3, 3, channels_in, width)).astype(np.float32)
            arrays[name], channels_in = (kernel, rng.normal(0, 0.1, width).astype(np.float32)), width
    return arrays


def base_output(model, images):
    return keras.Model(model.input, model.get_layer("block5_conv3").output).predict_on_batch(images)


def test_blocks_are_vgg16s():
    assert [len(names) for names in convolutions().values()] == [2, 2, 3, 3, 3]
    shapes = convolution_shapes()
    assert sum(9 * i * o + o for i, o in shapes) == 14_714_688  # VGG16 without its top, Simonyan and Zisserman 2015
    assert shapes[0] == (3, 64)


def test_multiply_adds_by_formula():
    costs = multiply_adds((224, 224))
    assert costs[1] == 224 * 224 * 9 * (3 * 64 + 64 * 64)
    assert costs[5] == 14 * 14 * 9 * 3 * 512 * 512
    assert sum(costs.values()) == pytest.approx(15.35e9, rel=0.002)  # usually given as 15.3 billion


@pytest.mark.parametrize("through", range(6))
def test_freezing(slim, through):
    assert freeze_blocks(slim, through) is slim
    for block, names in convolutions().items():
        assert [slim.get_layer(name).trainable for name in names] == [block > through] * len(names)
    assert slim.get_layer("logits").trainable
    shapes, blocks = convolution_shapes(SLIM), [b for b, names in convolutions().items() for _ in names]
    free = sum(9 * i * o + o for (i, o), block in zip(shapes, blocks, strict=True) if block > through)
    assert sum(int(np.prod(v.shape)) for v in slim.trainable_variables) == free + 128 * 3 + 3
    frozen = sum(9 * i * o + o for i, o in shapes) - free
    assert sum(int(np.prod(v.shape)) for v in slim.non_trainable_variables) == frozen


def test_freezing_fewer_blocks_unfreezes_the_rest(slim):
    freeze_blocks(freeze_blocks(slim, 5), 2)
    assert slim.get_layer("block3_conv1").trainable
    assert not slim.get_layer("block2_conv2").trainable


@pytest.mark.parametrize("through", [-1, 6, 2.0, "3", True, None])
def test_other_depths_are_refused(slim, through):
    with pytest.raises(ConfigError, match=r"freeze_through must be 0\.\.5 .* Received: ") as excinfo:
        freeze_blocks(slim, through)
    assert str(excinfo.value).endswith(f"Received: {through!r}.")


@pytest.mark.parametrize("head", ["gap", "fc"])
def test_graph_is_flat_and_gives_logits(head):
    model = build_vgg16(3, image_size=SIZE, weights="slim", head=head)
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)]
    assert model.input_shape == (None, *SIZE, 3)
    assert model.layers[-1].activation.__name__ == "linear"
    names = [layer.name for layer in model.layers]
    assert ("block5_pool" in names) is (head == "fc")
    rows = model.predict_on_batch(np.full((2, *SIZE, 3), 90, np.float32))
    assert not np.allclose(rows.sum(axis=1), 1)
    # the last Dense by hand
    kernel, bias = model.get_layer("logits").get_weights()
    features = keras.Model(model.input, model.get_layer("logits").input).predict_on_batch(np.full((2, *SIZE, 3), 90.0))
    np.testing.assert_allclose(rows, features @ kernel + bias, atol=1e-5)


def test_gap_head_is_the_mean_after_the_relu(slim, images):
    kernel, bias = slim.get_layer("logits").get_weights()
    activations = base_output(slim, images)
    assert activations.min() == 0
    assert activations.shape == (2, 2, 3, 128)
    np.testing.assert_allclose(slim.predict_on_batch(images), activations.mean(axis=(1, 2)) @ kernel + bias, atol=1e-5)


def test_seed_determines_the_head_and_random_weights():
    def kernels(weights, seed):
        model = build_vgg16(2, image_size=(32, 32), weights=weights, seed=seed)
        return {layer.name: layer.get_weights()[0] for layer in model.layers if layer.get_weights()}

    one, same, other = kernels("slim", 1), kernels("slim", 1), kernels("slim", 2)
    assert np.array_equal(one["logits"], same["logits"])
    assert not np.array_equal(one["logits"], other["logits"])
    assert np.array_equal(one["block1_conv1"], other["block1_conv1"])
    one, same, other = kernels("random", 1), kernels("random", 1), kernels("random", 2)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not any(np.array_equal(one[name], other[name]) for name in one)
    assert len({one[f"block5_conv{i}"].tobytes() for i in (1, 2, 3)}) == 3  # no two layers are equal
    spread = float(one["block5_conv1"].std())
    assert spread == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.15)  # He et al. 2015


@pytest.mark.parametrize("options", [{"num_classes": 1}, {"head": "fcn"}, {"image_size": (16, 16)}])
def test_invalid_arguments_are_refused(options):
    with pytest.raises(ConfigError, match="Received"):
        build_vgg16(**{"num_classes": 3, "weights": "slim", **options})


def test_preprocessing_in_the_model_is_float32(slim, images):
    layer = slim.get_layer("preprocess")
    assert layer.compute_dtype == "float32"
    preprocessed = keras.Model(slim.input, layer.output).predict_on_batch(images)
    np.testing.assert_allclose(preprocessed, images / 127.5 - 1, atol=1e-6)
    random = build_vgg16(2, image_size=SIZE, weights="random")
    preprocessed = keras.Model(random.input, random.get_layer("preprocess").output).predict_on_batch(images)
    np.testing.assert_allclose(preprocessed, images / 255, atol=1e-6)


def test_rgb_model_equals_keras_vgg16_on_bgr(tmp_path):
    """An .h5 in Keras's layout, for mean-free BGR images, against our model on raw RGB."""
    reference = keras.applications.VGG16(weights=None, include_top=False, input_shape=(*SIZE, 3))
    rng = np.random.default_rng(0)
    arrays = {}
    for names in convolutions().values():
        for name in names:
            kernel, bias = reference.get_layer(name).get_weights()
            arrays[name] = (kernel * np.float32(1.6), rng.normal(0, 0.5, bias.shape).astype(np.float32))
            reference.get_layer(name).set_weights(arrays[name])
    model = build_vgg16(2, image_size=SIZE, weights=str(write_h5(tmp_path / "base.h5", arrays)))
    assert_equals_reference(model, reference)


def test_imagenet_weights_equal_keras(shared):
    file = shared / "weights" / "vgg16_imagenet_notop.h5"
    if not file.is_file():
        pytest.skip("no ImageNet weights here")
    reference = keras.applications.VGG16(weights=str(file), include_top=False, input_shape=(*SIZE, 3))
    model = build_vgg16(2, image_size=SIZE, weights=str(file))
    assert_equals_reference(model, reference)


def assert_equals_reference(model, reference):
    rgb = np.random.default_rng(1).integers(0, 256, (2, *SIZE, 3)).astype(np.float32)
    expected = keras.Model(reference.input, reference.get_layer("block5_conv3").output).predict_on_batch(
        keras.applications.vgg16.preprocess_input(rgb.copy())
    )
    output = base_output(model, rgb)
    assert expected.max() > 0
    np.testing.assert_allclose(output, expected, atol=1e-4 * expected.max())
    assert (
        np.abs(base_output(model, rgb[..., ::-1]) - expected).max() > 1e-2 * expected.max()
    )  # BGR gives another output


def test_h5_without_an_attribute_is_keras_own_and_slim_keeps_its_order(tmp_path):
    arrays = tiny_arrays()
    plain = load_backbone(write_h5(tmp_path / "plain.h5", arrays))
    assert plain.preprocessing == weights.PREPROCESSING["imagenet"]
    assert plain.channels == (4, 4, 6, 6, 8)
    np.testing.assert_array_equal(plain.arrays["block1_conv1"][0], arrays["block1_conv1"][0][:, :, ::-1])
    named = load_backbone(write_h5(tmp_path / "named.h5", arrays, preprocessing="slim"))
    np.testing.assert_array_equal(named.arrays["block1_conv1"][0], arrays["block1_conv1"][0])
    assert named.preprocessing == weights.PREPROCESSING["slim"]
    assert named.digest != plain.digest
    assert load_backbone(tmp_path / "plain.h5").digest == plain.digest
    with pytest.raises(WeightsError, match=r"names an unknown preprocessing 'own'\. Known: imagenet, slim, random\."):
        load_backbone(write_h5(tmp_path / "odd.h5", arrays, preprocessing="own"))


def test_digest_depends_on_every_array():
    base = load_backbone("slim")
    arrays = dict(base.arrays)
    kernel, bias = arrays["block5_conv3"]
    arrays["block5_conv3"] = (kernel, bias + np.eye(1, len(bias), dtype=np.float32)[0] * 1e-3)
    assert dataclasses.replace(base, arrays=arrays).digest != base.digest


def test_a_run_folder_or_its_model_file_as_weights(demo, tmp_path):
    # At a rate that improves the score: otherwise the run keeps the weights that it began with.
    options = {"weights": "slim", "head_epochs": 1, "epochs": 3, "optimizer": "adam", "learning_rate": 1e-3}
    run = train_model(demo, precision="float32", runs_dir=tmp_path, **options)
    base = load_backbone(run.path)
    trained = run.model
    assert base.preprocessing == {"scale": 1 / 127.5, "offset": -1.0}
    for names in convolutions().values():
        for name in names:
            for a, b in zip(base.arrays[name], trained.get_layer(name).get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
    assert load_backbone(run.path / "model.keras").digest == base.digest
    assert load_backbone("slim").digest != base.digest  # Blocks 4 and 5 were trained
    again = build_vgg16(4, image_size=(32, 32), weights=str(run.path))
    image = np.full((1, 32, 32, 3), 120, np.float32)
    np.testing.assert_allclose(base_output(again, image), base_output(trained, image), atol=1e-6)


def refused(weights, error=WeightsError):
    with pytest.raises(error) as excinfo:
        load_backbone(weights)
    message = str(excinfo.value)
    assert len(message.splitlines()) <= 2
    return message


def test_missing_and_foreign_files(tmp_path, run):
    assert refused(tmp_path / "no.h5").startswith(f"No weights at '{tmp_path / 'no.h5'}'. Use --weights PATH")
    assert "'slim' or 'random', or 'imagenet'." in refused("imagnet")
    (tmp_path / "text.h5").write_text("no weights")
    assert "text.h5 is not a readable .h5 file of weights" in refused(tmp_path / "text.h5")
    (tmp_path / "empty.h5").write_bytes(b"")
    assert "empty.h5 is not a readable .h5" in refused(tmp_path / "empty.h5")
    (tmp_path / "folder").mkdir()
    assert "folder without model.keras: not a finished run" in refused(tmp_path / "folder")
    (tmp_path / "text.keras").write_text("no model")
    assert "text.keras" in refused(tmp_path / "text.keras")
    data = (run.path / "model.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(data[: len(data) // 2])
    assert "cut.keras" in refused(tmp_path / "cut.keras")


def test_other_networks_are_refused(tmp_path):
    with h5py.File(tmp_path / "resnet.h5", "w") as file:
        file.create_group("conv1_conv/conv1_conv")["kernel:0"] = np.zeros((7, 7, 3, 64))
    message = refused(tmp_path / "resnet.h5")
    assert "is not VGG16 in Keras's no-top layout: no layer 'block1_conv1' (it has conv1_conv)." in message
    arrays = tiny_arrays()
    arrays["block3_conv2"] = (np.zeros((5, 5, 6, 6), np.float32), np.zeros(6, np.float32))
    message = refused(write_h5(tmp_path / "five.h5", arrays))
    assert "block3_conv2 should be a 3x3 kernel over 6 channels. Received: (5, 5, 6, 6)." in message
    write_h5(tmp_path / "half.h5", tiny_arrays())
    with h5py.File(tmp_path / "half.h5", "a") as file:
        del file["block2_conv1/block2_conv1/bias:0"]
    assert "layer 'block2_conv1' should hold a kernel and a bias. Received: 1 arrays." in refused(tmp_path / "half.h5")
    write_h5(tmp_path / "data.h5", {})
    with h5py.File(tmp_path / "data.h5", "a") as file:
        file["block1_conv1"] = np.zeros(3)  # an array where a layer should be
    assert "data.h5" in refused(tmp_path / "data.h5")


def test_a_keras_model_that_is_not_ours(tmp_path):
    inputs = keras.Input((8, 8, 3))
    other = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    other.save(tmp_path / "other.keras")
    message = refused(tmp_path / "other.keras")
    assert "is not a model of xaitune's (no VGG16 blocks with their preprocessing)." in message
    with pytest.raises(ModelError, match=r"Not a VGG16 with named blocks: layer 'block1_conv1' is missing"):
        freeze_blocks(other, 3)
    with pytest.raises(ModelError, match=r"No model at .*Give a finished run's folder, or a \.keras or \.h5 file"):
        weights.load_model(tmp_path / "none")


def test_nested_backbone_is_named():
    backbone = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    inputs = keras.Input((32, 32, 3))
    nested = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(backbone(inputs))))
    with pytest.raises(ModelError, match=r"Its layers are inside 'vgg16': build it flat, from the backbone's output\."):
        architecture_of(nested)


def test_imagenet_without_a_network_names_the_other_choices(monkeypatch):
    def fail(**_):
        raise Exception("URL fetch failure on https://storage.googleapis.com/x: None -- unreachable")

    monkeypatch.setattr(keras.applications, "VGG16", fail)
    message = refused("imagenet")
    assert message.startswith("ImageNet's VGG16 could not be downloaded (")
    assert "unreachable" in message.splitlines()[0]
    for choice in ("--weights PATH", ".h5", "run's folder", "'slim'", "'random'"):
        assert choice in message
    with pytest.raises(WeightsError, match=r"with its classes could not be downloaded"):
        vgg.imagenet_classifier()


def test_imagenet_download_equals_the_file(monkeypatch, tmp_path):
    """Weights from Keras's own loader are converted to RGB in the same way as a file's."""
    source = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    monkeypatch.setattr(keras.applications, "VGG16", lambda **_: source)
    base = load_backbone("imagenet")
    kernel = source.get_layer("block1_conv1").get_weights()[0]
    np.testing.assert_array_equal(base.arrays["block1_conv1"][0], kernel[:, :, ::-1])
    assert base.preprocessing == weights.PREPROCESSING["imagenet"]
    assert base.channels == CHANNELS
