"""features.py: cached features equal the outputs of the frozen blocks, and are used only if they are complete and valid."""

import dataclasses
import json

import numpy as np
import pytest

from xaitune.errors import RunError
from xaitune.models.backend import keras
from xaitune.models.precision import with_precision
from xaitune.models.vgg import build_vgg16
from xaitune.training import features
from xaitune.training.cut import POOLED, cut_layer, cut_output, suffix_inputs, suffix_model
from xaitune.training.features import FeatureCache, cache_key, pass_through


@pytest.fixture(scope="module")
def model():
    return build_vgg16(11, image_size=(32, 32), weights="slim")


@pytest.fixture(scope="module")
def images(demo):
    return demo.load().astype(np.float32)


def output(model, layer, images):
    return keras.Model(model.input, model.get_layer(layer).output).predict_on_batch(images)


def test_cut_layers(model):
    assert [cut_layer(model, k) for k in range(1, 6)] == [*(f"block{k}_pool" for k in range(1, 5)), "gap"]
    fc = build_vgg16(2, image_size=(32, 32), weights="slim", head="fc")
    assert cut_layer(fc, 5) == "block5_pool"


@pytest.mark.parametrize("head", ["gap", "fc", "blocks"])
def test_prefix_and_suffix_together_are_the_model(head, images, demo, tmp_path):
    model = build_vgg16(3, image_size=(32, 32), weights="slim", head=head)
    whole = model.predict_on_batch(images[:4])
    cached = FeatureCache(tmp_path).get(model, demo, range(1, 6), "float32")
    for k in range(1, 6):
        prefix = keras.Model(model.input, cut_output(model, k))
        part = suffix_model(model, k).predict_on_batch(prefix.predict_on_batch(images[:4]))
        np.testing.assert_allclose(part, whole, atol=1e-5)
        np.testing.assert_allclose(suffix_model(model, k).predict_on_batch(cached[k][:4]), whole, atol=1e-4)
    assert suffix_model(model, 0) is model
    weights = {id(variable) for variable in model.variables}
    assert {id(v) for v in suffix_model(model, 3).variables} < weights  # shared: training changes the model


def test_the_features_of_all_blocks_are_means_and_maxima(model, demo, images, tmp_path):
    """They are the same for every head, so each head's cache entry serves the linear heads of a sweep too."""
    pooled = pass_through(model, demo, [POOLED], "float32")[0]
    assert pooled.shape == (len(demo), 2 * (16 + 32 + 64 + 128 + 128))
    block2 = output(model, "block2_conv2", images)
    np.testing.assert_allclose(pooled[:, 32:64], block2.mean(axis=(1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pooled[:, 64:96], block2.max(axis=(1, 2)), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(suffix_inputs(model, 5, [pooled]), pooled[:, -256:-128])
    blocks = build_vgg16(3, image_size=(32, 32), weights="slim", head="blocks")
    np.testing.assert_allclose(pass_through(blocks, demo, [POOLED], "float32")[0], pooled, atol=1e-5)
    assert cut_layer(blocks, 5) == POOLED


def test_cached_features_equal_the_outputs_of_the_prefix(model, demo, images, tmp_path):
    cached = FeatureCache(tmp_path).get(model, demo, [0, 2, 4, 5], "float32")
    assert sorted(cached) == [2, 4, 5]
    for k, values in cached.items():
        np.testing.assert_allclose(values, output(model, cut_layer(model, k), images), atol=1e-4)
        assert values.dtype == np.float32
        assert not values.flags.writeable
    assert cached[2].shape == (len(demo), 8, 8, 32)
    assert cached[5].shape == (len(demo), 128)


def test_bfloat16_is_cached_as_bfloat16_and_gap_as_float32(model, demo, images, tmp_path):
    cached = FeatureCache(tmp_path).get(model, demo, [3, 5], "bfloat16")
    assert cached[3].dtype.name == "bfloat16"
    assert cached[3].nbytes == cached[3].size * 2
    assert cached[5].dtype == np.float32
    exact = output(model, "block3_pool", images)
    error = np.abs(cached[3].astype(np.float32) - exact).mean() / exact.mean()
    assert 1e-5 < error < 0.02  # seven bits of mantissa, seven convolutions
    half = output(with_precision(model, "bfloat16"), "block3_pool", images[:8])
    assert half.dtype.name == "bfloat16"


def test_cached_features_are_not_computed_again(model, demo, tmp_path, monkeypatch):
    first = FeatureCache(tmp_path).get(model, demo, [3], "float32")[3]
    monkeypatch.setattr(features, "pass_through", None)  # would fail if called
    np.testing.assert_array_equal(FeatureCache(tmp_path).get(model, demo, [3], "float32")[3], first)


def test_one_pass_for_all_depths(model, demo, tmp_path, monkeypatch):
    passes = []
    real = features.pass_through
    monkeypatch.setattr(features, "pass_through", lambda *a, **k: (passes.append(sorted(a[2])), real(*a, **k))[1])
    cache = FeatureCache(tmp_path)
    cache.get(model, demo, [1, 3, 5], "float32")
    cache.get(model, demo, [3, 4], "float32")
    assert passes == [["block1_pool", "block3_pool", "pooled"], ["block4_pool"]]


def test_an_interrupted_entry_is_not_used(model, demo, tmp_path):
    cache = FeatureCache(tmp_path)
    whole = np.array(cache.get(model, demo, [4], "float32")[4])
    entry = tmp_path / cache_key(model, demo, "float32")
    (entry / "block4_pool.json").unlink()
    (entry / "block4_pool.bin").write_bytes(b"half")
    np.testing.assert_array_equal(cache.get(model, demo, [4], "float32")[4], whole)
    assert json.loads((entry / "block4_pool.json").read_text()) == {
        "shape": [len(demo), 2, 2, 128],
        "dtype": "float32",
    }


def test_a_process_killed_in_the_pass_leaves_no_entry(model, demo, tmp_path):
    def die(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path).get(model, demo, [5], "float32", die)
    assert not list(tmp_path.rglob("*.json"))
    assert FeatureCache(tmp_path).get(model, demo, [5], "float32")[5].shape == (len(demo), 128)


def test_a_missing_or_damaged_file_is_computed_again(model, demo, tmp_path):
    cache = FeatureCache(tmp_path)
    whole = np.array(cache.get(model, demo, [5], "float32")[5])
    entry = tmp_path / cache_key(model, demo, "float32")
    for content in (None, b"", b"cut"):
        (entry / "pooled.bin").unlink()
        if content is not None:
            (entry / "pooled.bin").write_bytes(content)
        np.testing.assert_array_equal(cache.get(model, demo, [5], "float32")[5], whole)


def test_the_key_depends_on_everything_that_matters(model, demo):
    key = cache_key(model, demo, "float32")
    assert cache_key(build_vgg16(3, image_size=(32, 32), weights="slim", seed=7), demo, "float32") == key  # any head
    assert cache_key(model, demo, "bfloat16") != key
    digests = ("0" * 64, *demo.digests[1:])
    assert cache_key(model, dataclasses.replace(demo, digests=digests), "float32") != key
    for name, value in (("image_size", (32, 64)), ("resize", "pad")):
        other = dataclasses.replace(demo, config=dataclasses.replace(demo.config, **{name: value}))
        assert cache_key(model, other, "float32") != key
    changed = build_vgg16(3, image_size=(32, 32), weights="slim")
    kernel, bias = changed.get_layer("block1_conv1").get_weights()
    changed.get_layer("block1_conv1").set_weights([kernel, bias + 1e-3])
    assert cache_key(changed, demo, "float32") != key


def test_features_that_do_not_fit_are_not_cached(model, demo, tmp_path):
    assert FeatureCache(tmp_path / "none", 0.0).get(model, demo, [3, 5], "float32") == {3: None, 5: None}
    # room for the deep ones only: n * 736 and n * 2 * 2 * 128 floats, but not n * 4 * 4 * 64
    room = len(demo) * 4 * (736 + 4 * 128) / 1e9
    cached = FeatureCache(tmp_path / "some", room).get(model, demo, [3, 4, 5], "float32")
    assert [cached[k] is not None for k in (3, 4, 5)] == [False, True, True]


def test_pass_through_without_a_file(model, demo, images):
    reports = []
    names = ["block2_pool", POOLED]
    two, five = pass_through(model, demo, names, "float32", progress=lambda *a: reports.append(a))
    np.testing.assert_allclose(two, output(model, "block2_pool", images), atol=1e-4)
    np.testing.assert_allclose(five[:, -256:-128], output(model, "gap", images), atol=1e-5)
    assert reports == [(64, len(demo), "frozen features"), (len(demo), len(demo), "frozen features")]


def test_a_folder_that_cannot_be_made_is_one_clear_error(model, demo, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RunError, match=r"cache.* could not be written"):
        FeatureCache(tmp_path / "cache").get(model, demo, [5], "float32")
