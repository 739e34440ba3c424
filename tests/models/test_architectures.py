"""The networks beside VGG16: their layers and sizes, frozen batch normalisation, prefixes, explanations and weights."""

import h5py
import numpy as np
import pytest

from xaitune.advise.recommend import advise_freeze
from xaitune.config.choices import ARCHITECTURES, BACKBONES, SCRATCH
from xaitune.config.settings import TrainConfig
from xaitune.errors import ConfigError, ModelError, WeightsError
from xaitune.explain.gradcam import gradcam_blocks
from xaitune.models.backend import keras
from xaitune.models.blocks import (
    architecture_of,
    base_layers,
    block_channels,
    convolutions,
    freeze_blocks,
    multiply_adds,
)
from xaitune.models.scratch import build_scratch
from xaitune.models.vgg import build_vgg16
from xaitune.models.weights import load_backbone
from xaitune.training.train import train_model

TINY = (4, 4, 6, 6, 8)
# Head and rate at which this small base learns, so that the kept epoch is one of fine-tuning.
QUICK = {"head_epochs": 1, "epochs": 3, "precision": "float32", "optimizer": "adam", "learning_rate": 3e-3}


def write_weights(path, architecture, seed=0):
    """Small pretrained weights of a VGG in Keras's no-top layout."""
    rng, channels_in = np.random.default_rng(seed), 3
    with h5py.File(path, "w") as file:
        for block, names in convolutions(architecture).items():
            for name in names:
                width = TINY[block - 1]
                kernel = rng.normal(0, (2 / (9 * channels_in)) ** 0.5, (3, 3, channels_in, width))
                arrays = {"kernel:0": kernel, "bias:0": rng.normal(0, 0.1, width)}
                for key, value in arrays.items():
                    file[f"{name}/{name}/{key}"] = value.astype(np.float32)
                if architecture == "vgg16-bn":
                    bn, own = name.replace("conv", "bn"), rng.uniform(0.5, 1.5, (4, width)).astype(np.float32)
                    for key, value in zip(("gamma", "beta", "moving_mean", "moving_variance"), own, strict=True):
                        file[f"{bn}/{bn}/{key}:0"] = value
                channels_in = width
    return str(path)


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request, tmp_path_factory):
    """(architecture, the path of its weights)."""
    return request.param, write_weights(tmp_path_factory.mktemp("weights") / f"{request.param}.h5", request.param)


def shapes(model):
    return [layer.output.shape[1:] for layer in model.layers if layer.weights or "pool" in layer.name]


def test_lenet5_is_that_of_the_freezing_study():
    """Its table 4: every shape, and 200,432,331 parameters at 224 x 403 with 11 classes."""
    model = build_scratch("lenet5-tanh", 11, image_size=(224, 403))
    assert model.count_params() == 200_432_331
    assert [layer.count_params() for layer in model.layers if layer.weights] == [456, 2416, 48_120, 200_380_404, 935]
    assert shapes(model)[:5] == [(220, 399, 6), (219, 398, 6), (215, 394, 16), (107, 197, 16), (103, 193, 120)]
    activations = [model.get_layer(name).activation for name in ("block1_conv1", "block3_conv1", "f6")]
    assert activations == [keras.activations.tanh] * 3
    relu = build_scratch("lenet5-relu", 2, image_size=(32, 32)).get_layer("block2_conv1")
    assert relu.activation is keras.activations.relu


def test_the_small_cnn_sees_one_channel_and_has_five_stages():
    model = build_scratch("xray-cnn", 3, image_size=(300, 300))
    assert model.get_layer("block1_conv1").kernel.shape == (3, 3, 1, 32)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert (kinds.count("Conv2D"), kinds.count("BatchNormalization"), kinds.count("MaxPooling2D")) == (5, 5, 5)
    assert (kinds.count("Dense"), kinds.count("Dropout")) == (3, 2)
    image = np.random.default_rng(0).uniform(0, 255, (1, 300, 300, 3)).astype(np.float32)
    grey = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
    np.testing.assert_allclose(model.predict_on_batch(image), model.predict_on_batch(grey), atol=1e-5)


@pytest.mark.parametrize("architecture", SCRATCH)
def test_random_weights_follow_the_seed(architecture):
    first, same, other = (build_scratch(architecture, 2, image_size=(32, 32), seed=seed) for seed in (1, 1, 2))
    kernels = [model.get_layer("block2_conv1").get_weights()[0] for model in (first, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01
    with pytest.raises(ConfigError, match="needs images of at least"):
        build_scratch(architecture, 2, image_size=(18, 40))


def test_multiply_adds_of_the_other_networks():
    vgg16, vgg19 = multiply_adds((224, 224)), multiply_adds((224, 224), architecture="vgg19")
    assert vgg19[1] == vgg16[1]
    assert vgg19[3] == vgg16[3] + 56 * 56 * 9 * 256 * 256  # one convolution more
    # Its dense layer has 200,380,404 weights, so about as many multiply-adds; C5 has 2,400 per place and filter.
    dense, c5 = 84 * 103 * 193 * 120, 103 * 193 * 25 * 16 * 120
    lenet = multiply_adds((224, 403), architecture="lenet5-tanh")[1]
    assert lenet == 220 * 399 * 25 * 3 * 6 + 215 * 394 * 25 * 6 * 16 + c5 + dense


def test_a_backbone_has_its_blocks_and_weights(backbone):
    architecture, path = backbone
    base = load_backbone(path, architecture)
    model = build_vgg16(3, image_size=(32, 48), weights=base)
    assert architecture_of(model) == architecture
    assert block_channels(model) == base.channels == TINY
    assert [layer.name for layer in base_layers(model)] == list(base.arrays)
    freeze_blocks(model, 3, also=(5,))
    trainable = {int(layer.name[5]) for layer in base_layers(model) if layer.trainable}
    assert trainable == {4}
    kernel = base.arrays["block1_conv1"][0]
    np.testing.assert_array_equal(model.get_layer("block1_conv1").get_weights()[0], kernel)


def test_vgg19_equals_kerass(tmp_path):
    reference = keras.applications.VGG19(weights=None, include_top=False, input_shape=(32, 48, 3))
    path = tmp_path / "vgg19.h5"
    with h5py.File(path, "w") as file:
        for layer in base_layers(reference):
            kernel, bias = layer.get_weights()
            kernel *= np.float32(1.6)
            layer.set_weights([kernel, bias])
            file[f"{layer.name}/kernel:0"], file[f"{layer.name}/bias:0"] = kernel, bias
    model = build_vgg16(2, image_size=(32, 48), weights=load_backbone(path, "vgg19"))
    rgb = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.float32)
    ours = keras.Model(model.input, model.get_layer("block5_conv4").output).predict_on_batch(rgb)
    theirs = keras.Model(reference.input, reference.get_layer("block5_conv4").output).predict_on_batch(
        keras.applications.vgg19.preprocess_input(rgb.copy())
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.max())


def test_frozen_features_give_what_the_whole_network_gives(backbone, demo, tmp_path):
    """The same history with and without the cache: the frozen blocks are in inference mode both ways."""
    architecture, path = backbone
    options = {"architecture": architecture, "weights": path, "freeze_through": 3, **QUICK}
    cached = train_model(demo, runs_dir=tmp_path / "cached", **options)
    whole = train_model(demo, runs_dir=tmp_path / "whole", cache_gb=0, **options)
    columns = ["train_loss", "val_loss"]
    np.testing.assert_allclose(cached.history[columns], whole.history[columns], rtol=1e-3)
    before = load_backbone(path, architecture).arrays
    changed = {
        int(layer.name[5])
        for layer in base_layers(cached.model)
        if any(np.abs(a - b).max() > 1e-6 for a, b in zip(layer.get_weights(), before[layer.name], strict=True))
    }
    assert changed == {4, 5}
    # The model that was saved, its moving statistics included, is the one whose predictions were written.
    logits = cached.model.predict_on_batch(demo.load(np.arange(4)).astype(np.float32))
    expected = cached.predictions.filter(like="p(").to_numpy()[:4]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.softmax(logits)), expected, atol=1e-4)


def test_every_block_is_explained(backbone, demo, tmp_path):
    architecture, path = backbone
    options = {"architecture": architecture, "weights": path, "freeze_through": 5, "head_epochs": 1, "epochs": 0}
    run = train_model(demo, runs_dir=tmp_path, precision="float32", **options)
    maps = gradcam_blocks(run, demo.load(np.arange(2)))
    assert {block: m.shape[1:] for block, m in maps.raw.items()} == {b: (64 >> b, 64 >> b) for b in (1, 2, 3, 4, 5)}
    assert run.path.name.startswith("freeze5" if architecture == "vgg16" else f"{architecture}-freeze5")
    with pytest.raises(WeightsError, match=f"holds {architecture}, not"):
        load_backbone(run.path, "vgg19" if architecture != "vgg19" else "vgg16")


@pytest.mark.parametrize("architecture", SCRATCH)
def test_training_from_random_weights(architecture, demo, tmp_path):
    """No stage of the head alone and nothing frozen; the trained model is explained like any other."""
    run = train_model(demo, architecture=architecture, epochs=2, precision="float32", runs_dir=tmp_path)
    assert run.history["stage"].tolist() == ["fine-tune"] * 2
    assert (run.config.weights, run.config.freeze_through, run.config.head_epochs) == ("random", 0, 0)
    assert gradcam_blocks(run, demo.load(np.arange(2))).blocks == (
        (1, 2, 3) if "lenet" in architecture else (1, 2, 3, 4, 5)
    )
    with pytest.raises(ModelError, match="Not a VGG16 with named blocks"):
        freeze_blocks(run.model, 3)


def test_an_interrupted_run_with_batch_normalisation_resumes_to_the_same_end(demo, tmp_path, monkeypatch):
    """Its moving statistics are part of the checkpoint."""
    from xaitune.training import stages

    monkeypatch.setattr(stages, "SAVE_SECONDS", 0)
    options = {"architecture": "xray-cnn", "epochs": 4, "patience": 4, "precision": "float32"}
    whole = train_model(demo, runs_dir=tmp_path / "whole", **options)

    def stop(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model(demo, runs_dir=tmp_path / "cut", progress=stop, **options)
    resumed = train_model(demo, runs_dir=tmp_path / "cut", **options)
    columns = ["train_loss", "val_loss"]
    np.testing.assert_allclose(resumed.history[columns], whole.history[columns], rtol=1e-5)
    for a, b in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_advice_for_another_backbone_and_none_without_blocks(demo, tmp_path):
    """The evidence of a VGG16 with batch normalisation has every depth; LeNet has nothing to freeze."""
    path = write_weights(tmp_path / "bn.h5", "vgg16-bn")
    advice = advise_freeze(demo, method="features", architecture="vgg16-bn", weights=path, runs_dir=tmp_path)
    assert set(advice.evidence.index.astype(str)) >= {"0", "1", "2", "3", "4", "5"}
    assert np.isfinite(advice.evidence["linear"].astype(float)).all()
    with pytest.raises(ConfigError, match="lenet5-tanh has no blocks to freeze"):
        advise_freeze(demo, architecture="lenet5-tanh", runs_dir=tmp_path)


def test_settings_that_contradict_the_network_are_refused():
    for option in ({"freeze_through": 2}, {"weights": "slim"}, {"head": "fc"}, {"trained_blocks": "1"}):
        with pytest.raises(ConfigError, match=r"or left out, with architecture lenet5-relu"):
            TrainConfig(architecture="lenet5-relu", **option)
    with pytest.raises(ConfigError, match="Did you mean 'vgg16'"):
        TrainConfig(architecture="vg16")
    assert {TrainConfig(architecture=name).from_scratch for name in SCRATCH} == {True}
    assert set(BACKBONES) | set(SCRATCH) == set(ARCHITECTURES)


def test_weights_of_another_network_are_refused(tmp_path):
    plain = write_weights(tmp_path / "vgg16.h5", "vgg16")
    with pytest.raises(WeightsError, match="holds VGG16 with batch normalisation: add --architecture vgg16-bn"):
        load_backbone(write_weights(tmp_path / "bn.h5", "vgg16-bn"))
    with pytest.raises(WeightsError, match="no layer 'block3_conv4'"):
        load_backbone(plain, "vgg19")
    with pytest.raises(WeightsError, match="'block1_bn1' has no gamma"):
        load_backbone(plain, "vgg16-bn")
    with pytest.raises(WeightsError, match="holds VGG19, not vgg16: add --architecture vgg19"):
        load_backbone(write_weights(tmp_path / "vgg19.h5", "vgg19"))
    with pytest.raises(WeightsError, match="slim are a VGG16's"):
        load_backbone("slim", "vgg19")
    with pytest.raises(WeightsError, match="Keras has no ImageNet weights for a VGG16 with batch normalisation"):
        load_backbone("imagenet", "vgg16-bn")
