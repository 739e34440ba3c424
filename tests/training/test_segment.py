"""Training of a segmentation: it learns, resumes, streams and augments as a classification does, and compares."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

import xaitune as xt
from xaitune.config.settings import TrainConfig
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.errors import ConfigError, InputError, ModelError
from xaitune.explain.pixels import segment_images
from xaitune.training import stages
from xaitune.training.augment import Augmenter, View
from xaitune.training.run import pixel_counts_of
from xaitune.training.targets import PixelTargets
from xaitune.training.train import train_model

BASE = TrainConfig(
    task="segment", weights="slim", head_epochs=1, epochs=2, precision="float32", freeze_through=4, batch_size=8
)


@pytest.fixture(autouse=True)
def checkpoint_after_each_epoch(monkeypatch):
    monkeypatch.setattr(stages, "SAVE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def base(marked, tmp_path_factory):
    return train_model(marked, BASE, runs_dir=tmp_path_factory.mktemp("base"))


def assert_same(a, b):
    columns = [c for c in a.history if c != "seconds"]
    pd.testing.assert_frame_equal(a.history[columns], b.history[columns], rtol=1e-4)
    assert (a.predictions["predicted"] == b.predictions["predicted"]).all()


def test_it_finds_what_is_marked(segmented):
    test = segmented.metrics["test"]
    assert segmented.class_names == ("background", "bar", "square")
    assert test["per_class"]["square"]["iou"] > 0.5
    assert test["f1_at_iou_0.25"] > 0.5
    assert test["iou_mean"] > 0.5  # background everywhere has 0.3
    assert segmented.config.metric == "iou_mean"
    assert segmented.score() == test["iou_mean"]


def test_the_predictions_count_every_pixel(segmented, marked):
    counts = pixel_counts_of(segmented.predictions, segmented.class_names)
    assert (counts.sum((1, 2)) == 32 * 32).all()
    truth = labels_of_pixels(marked).load(range(len(marked)))
    assert (counts.sum(2)[:, 0] == (truth == 0).sum((1, 2))).all()
    made = segment_images(segmented, marked.paths()[:3])
    assert [labels.shape for labels in made.labels] == [(40, 48)] * 3
    row = segmented.predictions.iloc[0]
    assert made.to_dataframe().loc[0, "predicted"] == row["predicted"]


def test_a_killed_training_goes_on_to_the_same_result(marked, tmp_path, base):
    def die(done, total, what):
        if what.startswith("fine-tune 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model(marked, BASE, runs_dir=tmp_path, progress=die)
    again = train_model(marked, BASE, runs_dir=tmp_path)
    assert_same(base, again)
    pd.testing.assert_frame_equal(base.predictions, again.predictions)


def test_without_room_for_features_the_result_is_the_same(marked, tmp_path, base):
    streamed = train_model(marked, BASE, runs_dir=tmp_path, cache_gb=0)
    assert not list(tmp_path.rglob("*.bin"))
    np.testing.assert_allclose(base.history["val_loss"], streamed.history["val_loss"], rtol=2e-3)


def test_the_masks_are_part_of_a_runs_identity(marked, tmp_path, base):
    folder = tmp_path / "copy"
    shutil.copytree(marked.root.parent, folder)
    mask = next((folder / "masks" / "bar").iterdir())
    shutil.copyfile(next((folder / "masks" / "square").iterdir()), mask)
    data = xt.ImageData.from_folder(folder / "images", masks=folder / "masks", image_size=(32, 32))
    runs = tmp_path / "runs"
    shutil.copytree(base.path, runs / base.name)
    notes = []
    other = train_model(data, BASE, runs_dir=runs, notes=notes.append, epochs=1)
    assert other.path != runs / base.name
    assert "pixels" in notes[0]


@pytest.mark.parametrize("views", [0, 2])
def test_masks_move_with_their_images(marked, views):
    config = dataclasses.replace(BASE, augmentation="flip,translation", augmented_views=views)
    augmenter = Augmenter(marked, config)
    rows = marked.indices("train")[:6]
    labels = labels_of_pixels(marked).load(rows)
    drawn = np.repeat(np.where(labels > 0, 200.0, 20.0)[..., None], 3, axis=3)
    moved, moved_labels = augmenter(drawn, rows, [0, 1, 2]), augmenter.move_labels(rows, [0, 1, 2])
    assert (moved_labels != labels).any()
    agree = (moved[..., 0] > 110) == (moved_labels > 0)
    assert agree.mean() > 0.97  # but for interpolated edges
    if views:
        view = View(marked, config, 0)
        positions = np.array([3, 0])
        assert view.move_labels(positions).shape == (2, 32, 32)
        assert (view.move_labels(positions)[0] == view.move_labels(np.array([3]))[0]).all()


def test_augmented_training_ends(marked, tmp_path):
    run = train_model(marked, BASE, runs_dir=tmp_path, augmentation="flip,contrast", augmented_views=1, epochs=1)
    assert run.state == "finished"


def test_class_weights_are_by_pixels(marked):
    counts = labels_of_pixels(marked).counts[marked.indices("train")].sum(0)
    share = PixelTargets(marked, dataclasses.replace(BASE, class_weight="share"))
    np.testing.assert_allclose(share.weight_of[:3], 1 - counts / counts.sum(), rtol=1e-5)
    named = PixelTargets(marked, dataclasses.replace(BASE, class_weight="bar=5"))
    assert named.weight_of[[0, 1, 2, 255]].tolist() == [1, 5, 1, 0]
    _, weights = named.batch(np.array([0]))
    assert set(np.unique(weights)) <= {1.0, 5.0}
    with pytest.raises(ConfigError, match=r"class_weight must be classes of the pixels .*Did you mean 'bar'"):
        PixelTargets(marked, dataclasses.replace(BASE, class_weight="bat=5"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f1_macro", "task": "classify", "loss": "dice"}, "loss must be another one, or task segment"),
        ({"task": "classify", "metric": "iou_mean"}, "metric must be one of .* unless task is segment"),
        ({"metric": "accuracy"}, "metric must be one of iou_mean, f1_at_iou with task segment"),
        ({"head": "fc"}, "head must be 'gap', or left out, with task segment"),
        ({"architecture": "lenet5-relu"}, "architecture must be a VGG with task segment"),
        ({"loss": "dice", "label_smoothing": 0.1}, "loss must be another one with label_smoothing"),
        ({"task": "detect"}, "task must be one of classify, segment"),
    ],
)
def test_settings_of_the_other_task_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{"task": "segment", **options})


def test_losses_are_compared(marked, tmp_path):
    table = xt.compare(
        marked,
        dataclasses.replace(BASE, epochs=1),
        factor={"loss": ["categorical_crossentropy", "dice"]},
        seeds=1,
        learning_rates="own",
        workers=1,
        runs_dir=tmp_path,
    )
    assert len(table.cells) == 2
    assert table.metric == "iou_mean"
    scores = table.scores()
    assert list(scores.index)[-1] == "all background"
    assert list(scores)[:3] == ["IoU background", "IoU bar", "IoU square"]
    assert scores.loc["all background", "IoU bar"] == 0
    assert (table.cells["low"] <= table.cells["test"]).all()
    assert xt.load_comparison(table.path).sentence() == table.sentence()


def test_heatmaps_of_all_blocks_and_of_a_region(segmented, marked):
    rows = [int(row) for row in marked.indices("test")[:2]]
    maps = xt.gradcam_blocks(segmented, marked.paths(rows))
    assert maps.blocks == (1, 2, 3, 4, 5)
    predicted = segmented.predictions.iloc[rows]["predicted"].tolist()
    assert [maps.explained(i) for i in range(2)] == predicted
    whole = xt.gradcam_blocks(segmented, marked.paths(rows), class_name="bar", region=np.ones((32, 32), bool))
    part = np.zeros((32, 32), bool)
    part[:4, :4] = True
    corner = xt.gradcam_blocks(segmented, marked.paths(rows), class_name="bar", region=part)
    assert not np.allclose(whole.raw[5], corner.raw[5])
    again = xt.gradcam_blocks(segmented, marked.paths(rows))
    np.testing.assert_array_equal(again.raw[3], maps.raw[3])  # the region is taken back
    with pytest.raises(InputError, match="region must mark pixels"):
        xt.gradcam_blocks(segmented, marked.paths(rows), region=np.zeros((32, 32)))


def test_a_classifier_says_nothing_of_pixels(run, demo):
    with pytest.raises(ModelError, match="says nothing of pixels"):
        segment_images(run, demo.paths()[:1])
    with pytest.raises(ModelError, match="not a segmentation"):
        xt.gradcam_blocks(run, demo.paths()[:1], region=np.ones((32, 32)))
