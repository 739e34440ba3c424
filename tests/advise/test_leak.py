"""The leak premium: what folds that divide groups seem to gain, against images whose answer is known."""

import json

import numpy as np
import pytest

from xaitune.advise.held_out import HeldOut
from xaitune.advise.leak import leak_premium, load_leak, save_leak


def heads(own, groups=40, size=4, seed=0):
    """Two classes of groups of near-copies; `own`: how far a group's own features lie from those of its class."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    labels = group % 2
    features = 0.3 * np.eye(2)[labels] @ rng.normal(0, 1, (2, 60)) + own * rng.normal(0, 1, (groups, 60))[group]
    features = (features + 0.1 * rng.normal(0, 1, features.shape)).astype(np.float32)
    return HeldOut(features, labels, group, 2, "accuracy")


def test_near_copies_in_both_parts_look_like_knowledge():
    held_out = heads(own=2.0)
    leak = leak_premium(held_out, held_out.probabilities(), "abc")
    assert leak.divided > 0.95  # the class of a thing that was seen is remembered
    assert leak.kept < 0.8
    assert leak.premium.difference == pytest.approx(leak.divided - leak.kept)
    assert leak.premium.low > 0
    assert (leak.premium.images, leak.premium.groups) == (160, 40)
    assert "accuracy" in leak.sentence
    assert "160 images in 40 groups" in leak.sentence


def test_where_groups_have_nothing_of_their_own_there_is_nothing_to_gain():
    held_out = heads(own=0.0)
    leak = leak_premium(held_out, held_out.probabilities(), "abc")
    assert abs(leak.premium.difference) < 0.02
    assert leak.premium.low <= 0 <= leak.premium.high


def test_without_groups_there_is_no_premium():
    held_out = heads(own=1.0, groups=60, size=1)
    assert leak_premium(held_out, held_out.probabilities(), "abc") is None


def test_it_is_read_back_for_its_own_data_alone(tmp_path):
    held_out = heads(own=2.0)
    leak = leak_premium(held_out, held_out.probabilities(), "abc")
    save_leak(leak, tmp_path)
    assert load_leak(tmp_path, "abc") == leak
    assert load_leak(tmp_path, "other") is None
    assert json.loads((tmp_path / "leak.json").read_text())["sentence"] == leak.sentence
    (tmp_path / "leak.json").write_text("{}")
    assert load_leak(tmp_path, "abc") is None
    assert load_leak(tmp_path / "nowhere", "abc") is None
