"""Segmentation: label maps with ids 0..m-1, and other settings where there would be too few or too many."""

import warnings

import numpy as np
import pytest

from xaitune.errors import ConfigError, XaituneWarning
from xaitune.explain.lime.segments import FEWEST, MOST, SEGMENTERS, segment


@pytest.fixture(scope="module")
def image():
    blocks = np.random.default_rng(0).integers(0, 256, (4, 6, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)  # (32, 48, 3)


@pytest.mark.parametrize("name", list(SEGMENTERS))
def test_ids_start_at_zero_without_gaps(name, image):
    labels = segment(image, name)
    assert labels.shape == (32, 48)
    ids = np.unique(labels)
    assert ids.tolist() == list(range(len(ids)))
    assert FEWEST <= len(ids) <= MOST
    np.testing.assert_array_equal(labels, segment(image.astype(np.float32), name))


def test_any_labels_are_renumbered(image):
    odd = np.where(np.arange(48)[None] < 20, 7, -3) * np.ones((32, 1), int)
    labels = segment(image, odd)
    np.testing.assert_array_equal(labels, (odd == 7).astype(int))
    np.testing.assert_array_equal(segment(image, lambda _: odd + 1), labels)
    with pytest.raises(ConfigError, match=r"must have the image's shape \(32, 48\)\. Received: \(3, 3\)"):
        segment(image, np.zeros((3, 3), int))
    with pytest.raises(
        ConfigError, match=r"segmenter must be one of .* Received: segmenter='slik'\. Did you mean 'slic'\?"
    ):
        segment(image, "slik")


@pytest.mark.parametrize("name", ["quickshift", "felzenszwalb"])
def test_too_few_superpixels_are_made_finer_with_a_warning(name):
    flat = np.full((48, 48, 3), 90, np.uint8)
    assert len(np.unique(segment(flat, name, bounded=False))) < FEWEST  # as the lime package would explain it
    with pytest.warns(XaituneWarning, match=rf"{name} finds fewer than {FEWEST} superpixels, .* is used there instead"):
        finer = segment(flat, name)
    assert FEWEST <= len(np.unique(finer)) <= MOST
    assert finer.min() == 0


def test_a_finer_setting_is_tried_before_another_segmenter():
    soft = np.random.default_rng(0).normal(128, 12, (40, 40, 3)).clip(0, 255).astype(np.uint8)
    assert len(np.unique(segment(soft, bounded=False))) < FEWEST
    with pytest.warns(
        XaituneWarning, match=r"fewer than 4 superpixels, .* a finer quickshift is used there .* slic gives"
    ):
        segment(soft)


def test_too_many_superpixels_are_made_coarser_with_a_warning():
    name = "felzenszwalb"
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    noise = np.kron(noise[::8, ::8], np.ones((8, 8, 1), np.uint8))  # 784 squares of different colours
    assert len(np.unique(segment(noise, name, bounded=False))) > MOST
    with pytest.warns(XaituneWarning, match=rf"{name} finds more than {MOST} superpixels, .* is used there instead"):
        coarser = segment(noise, name)
    assert FEWEST <= len(np.unique(coarser)) <= MOST


def test_given_labels_are_kept_without_a_warning(image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert segment(image, np.zeros((32, 48), int)).max() == 0
        assert segment(image, np.arange(32 * 48).reshape(32, 48)).max() == 32 * 48 - 1
        segment(image, "slic")
