"""augment.py: changed training images that follow from their key alone, and trainings with them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from xaitune.config.choices import AUGMENTATIONS
from xaitune.config.schema import TrainConfig
from xaitune.errors import ConfigError
from xaitune.training.augment import Augmenter, View
from xaitune.training.train import train_model

BASE = TrainConfig(weights="slim", head_epochs=1, epochs=2, precision="float32", freeze_through=4)
ROWS = np.arange(12)


def changed(demo, rows=ROWS, key=(0, 1), **options):
    config = dataclasses.replace(BASE, **{"augmentation": ",".join(AUGMENTATIONS)} | options)
    return Augmenter(demo, config)(demo.load(rows), rows, list(key))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_changes_images_within_their_range(demo, name):
    images = demo.load(ROWS).astype(np.float32)
    made = changed(demo, augmentation=name)
    assert made.shape == images.shape
    assert made.dtype == np.float32
    assert 0 <= made.min() <= made.max() <= 255
    assert np.mean([not np.array_equal(a, b) for a, b in zip(made, images, strict=True)]) > 0.4  # a flip may be none


def test_a_flip_is_one_of_four(demo):
    for made, image in zip(changed(demo, augmentation="flip"), demo.load(ROWS), strict=True):
        assert any(np.array_equal(made, flip) for flip in (image, image[::-1], image[:, ::-1], image[::-1, ::-1]))


def test_a_key_says_it_all(demo):
    first = changed(demo)
    changed(demo, key=(5, 5))
    np.testing.assert_array_equal(changed(demo), first)
    assert not np.array_equal(changed(demo, key=(0, 2)), first)
    images = demo.load(ROWS)
    np.testing.assert_array_equal(images, demo.load(ROWS))  # left as they were


def test_named_classes_only(demo):
    wanted = [demo.class_names[i] for i in np.unique(demo.labels)[:2]]
    rows = np.arange(len(demo))
    made, images = changed(demo, rows, augmentation="contrast", augment_classes=wanted), demo.load(rows)
    moved = np.array([not np.array_equal(a, b) for a, b in zip(made, images, strict=True)])
    named = np.isin(np.array(demo.class_names)[demo.labels], wanted)
    assert not moved[~named].any()
    assert moved[named].mean() > 0.9
    with pytest.raises(ConfigError, match=r"augment_classes must be classes of the data \(.*\)\. Received: krack"):
        changed(demo, augment_classes="krack")


def test_a_view_is_the_same_however_it_is_read(demo):
    config = dataclasses.replace(BASE, augmentation="rotation,brightness", augmented_views=2)
    view = View(demo, config, 0)
    assert len(view) == len(demo.indices("train"))
    whole = view.load(np.arange(8))
    np.testing.assert_array_equal(view.load(np.array([5, 2])), whole[[5, 2]])
    assert not np.array_equal(View(demo, config, 1).load(np.arange(8)), whole)
    assert not np.array_equal(View(demo, dataclasses.replace(config, seed=1), 0).load(np.arange(8)), whole)
    assert View(demo, config, 1).digests != view.digests


def probabilities(run):
    return run.predictions[[f"p({name})" for name in run.class_names]].to_numpy()


@pytest.mark.parametrize("views", [0, 2])
def test_kept_features_change_nothing_beyond_rounding_and_a_dead_run_goes_on(demo, tmp_path, views):
    options = {"augmentation": "flip,rotation,contrast", "augmented_views": views, "epochs": 3}

    def die(done, total, what):
        if "fine-tune 2" in what:
            raise KeyboardInterrupt

    whole = train_model(demo, BASE, runs_dir=tmp_path / "kept", **options)
    assert len(list((tmp_path / "kept").rglob("block4_pool.bin"))) == 1 + views
    with pytest.raises(KeyboardInterrupt):
        train_model(demo, BASE, runs_dir=tmp_path / "dies", progress=die, **options)
    resumed = train_model(demo, BASE, runs_dir=tmp_path / "dies", **options)
    pd.testing.assert_frame_equal(whole.predictions, resumed.predictions, check_exact=True)
    drop = "seconds"
    pd.testing.assert_frame_equal(
        whole.history.drop(columns=drop), resumed.history.drop(columns=drop), check_exact=True
    )
    computed = train_model(demo, BASE, runs_dir=tmp_path / "computed", cache_gb=0.0, **options)
    np.testing.assert_allclose(probabilities(whole), probabilities(computed), atol=2e-4)
    plain = train_model(demo, BASE, runs_dir=tmp_path / "kept", epochs=3)
    assert plain.name == "freeze4-nag-seed0-2"
    fine = [run.history.loc[run.history["stage"] == "fine-tune", "train_loss"].iloc[0] for run in (whole, plain)]
    assert abs(fine[0] - fine[1]) > 1e-3
    heads = [run.history.query("stage == 'head'").drop(columns=drop) for run in (whole, plain)]
    pd.testing.assert_frame_equal(*heads)


def test_views_make_no_room_for_each_other(demo, tmp_path):
    """What does not fit beside the entries in use is not begun, and nothing in use is removed."""
    options = {"augmentation": "flip", "augmented_views": 3, "freeze_through": 3}
    base = train_model(demo, BASE, runs_dir=tmp_path, freeze_through=3)
    kept = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("block3_pool.bin")}
    size = sum(f.stat().st_size for f in tmp_path.rglob("*.bin"))
    run = train_model(demo, BASE, runs_dir=tmp_path, cache_gb=1.5 * size / 1e9, **options)
    assert (base.state, run.state) == ("finished", "finished")
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("block3_pool.bin")} == kept


def test_no_room_at_all_removes_nothing(demo, tmp_path):
    train_model(demo, BASE, runs_dir=tmp_path)
    kept = sorted(tmp_path.rglob("*.bin"))
    train_model(demo, BASE, runs_dir=tmp_path, cache_gb=0.0, weights="random")
    assert sorted(tmp_path.rglob("*.bin")) == kept


def test_a_class_that_is_not_there_is_refused_before_any_work(demo, tmp_path):
    with pytest.raises(ConfigError, match="augment_classes must be classes of the data"):
        train_model(demo, BASE, runs_dir=tmp_path, augmentation="flip", augment_classes="krack")
    assert not list(tmp_path.iterdir())
