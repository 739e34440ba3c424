"""Which maps should not be relied on, with models and maps whose answer is known."""

import dataclasses

import numpy as np
import pytest

import xaitune as xt
from xaitune.errors import InputError, ModelError
from xaitune.evaluate.reliability import MapChecker, check_calls, marked, randomised_maps, spread
from xaitune.explain.classifier import Classifier
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.map_checks import ELSEWHERE, EMPTY, IGNORES, UNSTABLE, MapChecks, summarise_doubts

PLACE = np.s_[4:12, 6:14]


def heatmaps(images, *raw):
    """Heatmaps of class 1 of two, with these maps (n, h, w) at Block 1, 2, ..."""
    count = len(images)
    return BlockHeatmaps(
        method="gradcam",
        raw={block: np.array(maps, np.float32) for block, maps in enumerate(raw, 1)},
        images=images,
        files=tuple(f"image {i}" for i in range(count)),
        classes=np.ones(count, int),
        class_names=("none", "bright"),
        probabilities=np.full((count, 2), 0.5),
    )


def sums_the_place(weight=0.01):
    """A classifier whose logit of class 1 is `weight` times the sum of the red channel inside PLACE; that of class 0 is 0."""
    from xaitune.models.backend import keras

    inputs = keras.Input((24, 24, 3))
    red = keras.layers.Conv2D(1, 1, name="block1_conv1")(inputs)
    logits = keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(red))
    model = keras.Model(inputs, logits)
    kernel = np.zeros((24, 24, 2), np.float32)
    kernel[(*PLACE, 1)] = weight
    channels = np.array([1, 0, 0], np.float32).reshape(1, 1, 3, 1)
    model.set_weights([channels, np.zeros(1), kernel.reshape(-1, 2), np.zeros(2)])
    return Classifier(model, ("none", "bright"))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 60, (3, 24, 24, 3)).astype(np.float32)
    pixels[:, 4:12, 6:14] += 150
    return pixels


def checks(classifier, maps, explain, randomised=None):
    randomised = np.zeros(len(maps.blocks)) if randomised is None else np.array(randomised, float)
    return MapChecker(classifier, maps, randomised, 1, explain=explain)(maps)


def test_a_map_of_what_counts_beats_its_copies_elsewhere_and_another_does_not(images):
    true, false = np.zeros((3, 24, 24)), np.zeros((3, 24, 24))
    true[:, 4:12, 6:14] = 1
    false[:, 16:24, 16:24] = 1
    maps = heatmaps(images, true, false)

    def grey(model, shown, classes):
        return {1: shown.mean(-1), 2: shown.mean(-1)}

    found = checks(sums_the_place(), maps, grey)
    assert (found.elsewhere[:, 0] == 1).all()  # nowhere else does hiding cost as much
    assert (found.elsewhere[:, 1] < 0.5).all()
    assert found.found[ELSEWHERE].tolist() == [[False, True]] * 3
    assert "3 no better than elsewhere" in found.summary()


def test_a_constant_score_makes_no_map_better_than_elsewhere(images):
    true = np.zeros((3, 24, 24))
    true[:, 4:12, 6:14] = 1
    found = checks(sums_the_place(weight=0), heatmaps(images, true), lambda *_: {1: true[:1]})
    assert (found.elsewhere == 0).all()
    assert found.found[ELSEWHERE].all()


def test_of_a_segmentation_the_pixels_of_the_class_are_asked(images):
    from xaitune.models.backend import keras
    from xaitune.models.unet import region_classifier

    inputs = keras.Input((24, 24, 3))
    pixels = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="logits")(inputs))
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 1] = 0.1
    pixels.set_weights([kernel, np.array([10, 0], np.float32)])  # red above 100 is class 1
    classifier = Classifier(region_classifier(pixels), ("none", "bright"), segmenter=pixels)
    true, false = np.zeros((3, 24, 24)), np.zeros((3, 24, 24))
    true[:, 4:12, 6:14] = 1
    false[:, 16:24, 16:24] = 1
    found = checks(classifier, heatmaps(images, true, false), lambda *_: {1: true[:1], 2: false[:1]})
    assert (found.elsewhere[:, 0] == 1).all()
    assert (found.elsewhere[:, 1] < 0.5).all()


def test_a_map_that_changes_with_noise_is_unstable_and_one_that_does_not_is_not(images):
    smooth = images.mean(-1) + np.arange(24)
    maps, rng = heatmaps(images, smooth, smooth), np.random.default_rng(1)

    def explain(model, shown, classes):
        return {1: shown.mean(-1), 2: rng.uniform(size=shown.shape[:3])}

    found = checks(sums_the_place(), maps, explain)
    assert found.found[UNSTABLE].tolist() == [[False, True]] * 3
    assert (np.abs(found.stability[:, 1]) < 0.2).all()


def test_an_empty_map_is_only_empty(images):
    empty = heatmaps(images, np.zeros((3, 24, 24)), -np.ones((3, 24, 24)))
    found = checks(sums_the_place(), empty, lambda *_: {1: np.zeros((1, 24, 24)), 2: np.zeros((1, 24, 24))}, [1, 1])
    assert found.of_map(0, 1) == found.of_map(2, 2) == (EMPTY,)
    assert np.isnan(found.elsewhere).all()
    assert np.isnan(found.stability).all()


def test_edges_ignore_the_model_and_grad_cam_does_not(run, demo):
    maps = xt.gradcam_blocks(run, demo.paths(demo.indices("test")[:4]), blocks="3,5")

    def edges(model, shown, classes):
        down, right = np.gradient(shown.mean(-1), axis=(1, 2))
        return dict.fromkeys((3, 5), np.hypot(down, right))

    before = [w.copy() for w in run.model.get_weights()]
    found = xt.check_maps(maps, run, explain=edges)
    assert found.found[IGNORES].all()
    np.testing.assert_allclose(found.randomised, 1)
    assert found.images_randomised == 4
    found = xt.check_maps(maps, run)
    assert not found.found[IGNORES].any()
    assert found.calls == check_calls(4, 2)
    assert np.isfinite(found.to_dataframe()[["check_elsewhere", "check_stability"]]).all(axis=None)
    assert all(np.array_equal(a, b) for a, b in zip(before, run.model.get_weights(), strict=True))
    # The checks of an image do not depend on the others beside it.
    alone = xt.check_maps(dataclasses.replace(maps, **_only(maps, 2)), run)
    np.testing.assert_allclose(alone.elsewhere[0], found.elsewhere[2])
    np.testing.assert_allclose(alone.stability[0], found.stability[2], atol=1e-4)


def _only(maps, image):
    chosen = slice(image, image + 1)
    raw = {block: values[chosen].copy() for block, values in maps.raw.items()}
    arrays = {name: getattr(maps, name)[chosen].copy() for name in ("images", "classes", "probabilities")}
    return {"raw": raw, "files": maps.files[chosen], **arrays}


def test_layers_by_name_and_class_activation_maps_are_checked_too(run, demo):
    paths = demo.paths(demo.indices("test")[:2])
    named = xt.gradcam_blocks(run, paths, layers=["block4_conv1", "block2_conv2"])
    found = xt.check_maps(named, run)
    assert found.to_dataframe()["layer"].tolist() == ["block4_conv1"] * 2 + ["block2_conv2"] * 2
    assert np.isfinite(found.randomised).all()
    whole = xt.gradcam_blocks(run, paths, blocks="2", class_name="crack")
    second = xt.check_maps(dataclasses.replace(named, classes=whole.classes).block(2), run)
    assert second.blocks == (2,)
    cam = xt.class_activation_map(run, paths)
    assert xt.check_maps(cam, run).blocks == (5,)
    assert randomised_maps(xt.open_classifier(run), cam, cam.images, "crack").shape == (1,)


def test_heatmaps_carry_their_checks_into_pictures_and_tables(run, demo):
    maps = xt.gradcam_blocks(run, demo.paths(demo.indices("test")[:2]), blocks="4-5")
    nan = np.full((2, 2), np.nan)
    found = MapChecks(maps.files, (4, 5), maps.is_zero, np.array([[0.5, 1], [1, 1]]), nan, np.zeros(2))
    checked = maps.with_checks(found)
    titles, pictures = zip(*checked.panels(0), strict=True)
    assert titles == ("image", "Block 4 (no better than elsewhere)", "Block 5")
    plain = [picture for _, picture in maps.panels(0)]
    assert (pictures[1][:60, :60] == [240, 228, 66]).all(-1).any()  # the sign
    np.testing.assert_array_equal(pictures[2], plain[2])
    assert checked.to_dataframe()["doubts"].tolist() == ["no better than elsewhere", "", "", ""]
    assert checked.block(5).doubts(0, 5) == ()
    assert "1 of 4 maps should not be relied on" in checked._repr_html_()
    assert "no better than elsewhere" in found._repr_html_()
    with pytest.raises(ModelError, match="other maps"):
        maps.block(5).with_checks(dataclasses.replace(found, files=("a", "b")))


def test_what_is_hidden_and_what_is_chosen():
    view = np.zeros((10, 10))
    view[0, :3] = 1, 3, 2
    assert np.argwhere(marked(view, 0.02)).tolist() == [[0, 1], [0, 2]]
    assert marked(view).sum() == 3  # what is 0 is never marked
    assert spread(100, 3).tolist() == [0, 50, 99]
    assert spread(2, 8).tolist() == [0, 1]
    assert check_calls(10, 5, 8) == 10 * (5 * 9 + 6) + 7 * 8 * 3
    assert summarise_doubts([[]], checked=False) == "None of the 1 map is empty."


def test_what_cannot_be_checked_is_refused(run, images):
    with pytest.raises(InputError, match="input size"):
        xt.check_maps(heatmaps(images, images.mean(-1)), run)
    with pytest.raises(InputError, match="images=0"):
        xt.check_maps(heatmaps(images, images.mean(-1)), run, images=0)
