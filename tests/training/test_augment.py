"""augment.py: augmented training images, which depend on their key alone, and training with them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from xaitune.config.choices import AUGMENTATIONS
from xaitune.config.settings import TrainConfig
from xaitune.errors import ConfigError
from xaitune.training.augment import Augmenter, View, epoch_rows
from xaitune.training.train import train_model

BASE = TrainConfig(weights="slim", head_epochs=1, epochs=2, precision="float32", freeze_through=4)
ROWS = np.arange(12)


def augmented(demo, rows=ROWS, key=(0, 1), **options):
    config = dataclasses.replace(BASE, **{"augmentation": ",".join(AUGMENTATIONS)} | options)
    return Augmenter(demo, config)(demo.load(rows), rows, list(key))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_augmentation_changes_images_within_their_range(demo, name):
    images = demo.load(ROWS).astype(np.float32)
    changed = augmented(demo, augmentation=name)
    assert changed.shape == images.shape
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 255
    differs = [not np.array_equal(a, b) for a, b in zip(changed, images, strict=True)]
    assert np.mean(differs) > 0.4  # a random flip may leave an image as it is


def test_a_flip_is_one_of_four(demo):
    for changed, image in zip(augmented(demo, augmentation="flip"), demo.load(ROWS), strict=True):
        assert any(np.array_equal(changed, flip) for flip in (image, image[::-1], image[:, ::-1], image[::-1, ::-1]))


def test_the_key_alone_determines_the_result(demo):
    first = augmented(demo)
    augmented(demo, key=(5, 5))
    np.testing.assert_array_equal(augmented(demo), first)
    assert not np.array_equal(augmented(demo, key=(0, 2)), first)
    images = demo.load(ROWS)
    np.testing.assert_array_equal(images, demo.load(ROWS))  # unchanged


def test_only_images_of_named_classes_are_changed(demo):
    names = [demo.class_names[i] for i in np.unique(demo.labels)[:2]]
    rows = np.arange(len(demo))
    after, images = augmented(demo, rows, augmentation="contrast", augment_classes=names), demo.load(rows)
    changed = np.array([not np.array_equal(a, b) for a, b in zip(after, images, strict=True)])
    named = np.isin(np.array(demo.class_names)[demo.labels], names)
    assert not changed[~named].any()
    assert changed[named].mean() > 0.9
    with pytest.raises(ConfigError, match=r"augment_classes must be classes of the data \(.*\)\. Received: krack"):
        augmented(demo, augment_classes="krack")


def test_a_view_does_not_depend_on_the_order_of_reading(demo):
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
def test_cached_features_change_nothing_beyond_rounding_and_a_killed_run_resumes(demo, tmp_path, views):
    options = {"augmentation": "flip,rotation,contrast", "augmented_views": views, "epochs": 3}

    def die(done, total, what):
        if "fine-tune 2" in what:
            raise KeyboardInterrupt

    whole = train_model(demo, BASE, runs_dir=tmp_path / "cached", **options)
    assert len(list((tmp_path / "cached").rglob("block4_pool.bin"))) == 1 + views
    with pytest.raises(KeyboardInterrupt):
        train_model(demo, BASE, runs_dir=tmp_path / "dies", progress=die, **options)
    resumed = train_model(demo, BASE, runs_dir=tmp_path / "dies", **options)
    pd.testing.assert_frame_equal(whole.predictions, resumed.predictions, check_exact=True)
    histories = [run.history.drop(columns="seconds") for run in (whole, resumed)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    computed = train_model(demo, BASE, runs_dir=tmp_path / "computed", cache_gb=0.0, **options)
    np.testing.assert_allclose(probabilities(whole), probabilities(computed), atol=2e-4)
    plain = train_model(demo, BASE, runs_dir=tmp_path / "cached", epochs=3)
    assert plain.name == "freeze4-nag-seed0-2"
    losses = [run.history.loc[run.history["stage"] == "fine-tune", "train_loss"].iloc[0] for run in (whole, plain)]
    assert abs(losses[0] - losses[1]) > 1e-3
    heads = [run.history.query("stage == 'head'").drop(columns="seconds") for run in (whole, plain)]
    pd.testing.assert_frame_equal(*heads)


def test_views_do_not_remove_each_others_features(demo, tmp_path):
    """Features that do not fit next to the entries in use are not computed, and no entry in use is removed."""
    options = {"augmentation": "flip", "augmented_views": 3, "freeze_through": 3}
    base = train_model(demo, BASE, runs_dir=tmp_path, freeze_through=3)
    times = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("block3_pool.bin")}
    size = sum(f.stat().st_size for f in tmp_path.rglob("*.bin"))
    run = train_model(demo, BASE, runs_dir=tmp_path, cache_gb=1.5 * size / 1e9, **options)
    assert (base.state, run.state) == ("finished", "finished")
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("block3_pool.bin")} == times


def test_a_cache_without_any_room_removes_nothing(demo, tmp_path):
    train_model(demo, BASE, runs_dir=tmp_path)
    files = sorted(tmp_path.rglob("*.bin"))
    train_model(demo, BASE, runs_dir=tmp_path, cache_gb=0.0, freeze_through=3)
    assert sorted(tmp_path.rglob("*.bin")) == files


def test_an_unknown_class_is_refused_before_any_work(demo, tmp_path):
    with pytest.raises(ConfigError, match="augment_classes must be classes of the data"):
        train_model(demo, BASE, runs_dir=tmp_path, augmentation="flip", augment_classes="krack")
    assert not list(tmp_path.iterdir())


def uneven(demo):
    """The demo with most training images of two classes left out: one keeps a single image."""
    rows = demo.indices("train")
    split = demo.split.copy()
    for number, kept in ((0, 1), (1, 2)):
        split[rows[demo.labels[rows] == number][kept:]] = "test"
    return dataclasses.replace(demo, split=split, fingerprint="uneven")


def test_balancing_draws_each_class_as_often_and_each_image_evenly(demo):
    data = uneven(demo)
    config = dataclasses.replace(BASE, augmentation="flip", balance_by_augmentation=True)
    train = data.indices("train")
    most = np.bincount(data.labels[train]).max()
    rows = epoch_rows(data, config, np.random.default_rng(0))
    np.testing.assert_array_equal(np.bincount(data.labels[rows]), most)
    for number in range(len(data.class_names)):
        times = np.unique(rows[data.labels[rows] == number], return_counts=True)[1]
        assert len(times) == (data.labels[train] == number).sum()
        assert np.ptp(times) <= 1
    assert not np.array_equal(rows, epoch_rows(data, config, np.random.default_rng(1)))
    np.testing.assert_array_equal(np.sort(epoch_rows(data, BASE, np.random.default_rng(0))), train)
    changed = Augmenter(data, config).is_augmented
    assert changed[:2].all()
    assert not changed[np.bincount(data.labels[train]).argmax()]


def test_training_with_balanced_classes(demo, tmp_path):
    data = uneven(demo)
    options = {"augmentation": "brightness,contrast", "balance_by_augmentation": True, "epochs": 1}
    run = train_model(data, BASE, runs_dir=tmp_path, **options)
    assert np.isfinite(run.history["train_loss"]).all()
    for options, message in (
        ({"balance_by_augmentation": True}, "left out without augmentation"),
        ({"augmentation": "flip", "balance_by_augmentation": True, "augmented_views": 2}, "left out with balance"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(BASE, **options)
