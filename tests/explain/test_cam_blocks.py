"""Class activation maps of the head 'blocks': they add up to the logit, and each block's share of it is arithmetic."""

import numpy as np
import pytest

from xaitune.explain.api import explain_images
from xaitune.explain.cam import class_activation_map
from xaitune.explain.heatmaps import LEANING, Contributions
from xaitune.explain.store import ExplanationWriter, load_heatmaps
from xaitune.models.vgg import build_vgg16


@pytest.fixture(scope="module", params=[(1, 2, 3, 4, 5), (2,)], ids=["all blocks", "Block 2 alone"])
def model(request):
    """A model with a head of random weights, as on features that have been standardised."""
    model = build_vgg16(3, image_size=(32, 48), weights="slim", head="blocks", head_blocks=request.param)
    rng = np.random.default_rng(0)
    width = model.get_layer("pooled").output.shape[-1]
    model.get_layer("standardise").set_weights([rng.normal(1, 1, width), rng.uniform(0.5, 2, width), np.zeros(())])
    model.get_layer("standardise").finalize_state()
    model.get_layer("logits").set_weights([rng.normal(0, 0.1, (width, 3)), rng.normal(0, 1, 3)])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0, 255, (5, 32, 48, 3)).astype(np.float32)


@pytest.mark.parametrize("name", [None, "class 2"])
def test_the_maps_of_all_blocks_add_up_to_the_logit(model, images, name):
    maps = class_activation_map(model, images, class_name=name, precision="float32")
    logits = model.predict(images, verbose=0)
    chosen = logits.argmax(axis=1) if name is None else np.full(5, 2)
    np.testing.assert_array_equal(maps.classes, chosen)
    logit = logits[np.arange(5), chosen]
    total = sum(maps.raw[b].sum(axis=(1, 2), dtype=np.float64) for b in maps.blocks) + maps.contributions.constant
    np.testing.assert_allclose(total, logit, atol=1e-4)
    bias = model.get_layer("logits").get_weights()[1][chosen]
    np.testing.assert_allclose(maps.contributions.total.sum(axis=1) + bias, logit, atol=1e-4)
    assert np.abs(logit).mean() > 0.1


def test_a_maximum_lies_where_it_is(model, images):
    """With weights on one block's maxima alone, the map is 0 except at the pixels where a channel has its maximum."""
    block = 2
    model = build_vgg16(2, image_size=(32, 48), weights="slim", head="blocks", head_blocks=(block,))
    width = model.get_layer("pooled").output.shape[-1]
    kernel = np.zeros((width, 2))
    kernel[width // 2 + 3, 1] = 1.0  # the maximum of channel 3
    model.get_layer("logits").set_weights([kernel, np.zeros(2)])
    maps = class_activation_map(model, images, class_name="class 1", precision="float32")
    from xaitune.models.backend import keras

    activations = keras.Model(model.input, model.get_layer("block2_conv2").output).predict(images, verbose=0)[..., 3]
    for raw, channel in zip(maps.raw[block], activations, strict=True):
        assert np.count_nonzero(raw) == 1
        assert raw.argmax() == channel.argmax()
        assert raw.max() == pytest.approx(channel.max(), rel=1e-4)


def test_shares_and_brightness():
    means, maxima = np.array([[3.0, -1.0], [0.1, 2.0]]), np.array([[1.0, -1.0], [0.4, 1.5]])
    added = Contributions(means, maxima, np.zeros(2), (1, 4))
    np.testing.assert_allclose(added.share, [[4 / 6, -2 / 6], [0.5 / 4, 3.5 / 4]])
    np.testing.assert_array_equal(added.leans_on_brightness, [LEANING * 4 <= 3, False])
    assert not Contributions(means, maxima, np.zeros(2), (3, 4)).leans_on_brightness.any()


def test_pictures_files_and_a_head_without_maps(model, images, tmp_path):
    maps = explain_images(model, images, method="cam", precision="float32")
    titles = [title for title, _ in maps.panels(0)]
    assert titles[1].startswith(f"Block {maps.blocks[0]} (")
    assert titles[1].endswith("%)") or "%, " in titles[1]
    table = maps.to_dataframe()
    assert table.groupby("file")["share"].apply(lambda share: share.abs().sum()).round(6).eq(1).all()
    with ExplanationWriter(
        tmp_path, {"method": "cam", "rule": "gradcam", "class_names": list(maps.class_names)}
    ) as writer:
        writer.add(maps)
        writer.close()
    loaded = load_heatmaps(tmp_path).contributions
    np.testing.assert_array_equal(loaded.total, maps.contributions.total)
    assert loaded.blocks == maps.blocks
    assert (
        class_activation_map(build_vgg16(2, image_size=(32, 32), weights="slim"), images[:, :32, :32]).contributions
        is None
    )
