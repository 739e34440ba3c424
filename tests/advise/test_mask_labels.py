"""Masks that a segmentation contradicts, the worst first."""

import numpy as np
import pandas as pd
import pytest
from driving import xaitune

import xaitune as xt
from xaitune.advise.mask_labels import doubtful_masks, segmentation_of
from xaitune.errors import ConfigError


def test_the_worst_masks_come_first(segmented, marked):
    check = doubtful_masks(segmented, marked, count=3)
    table = check.table
    assert "train" not in table["split"].tolist()
    assert table["disagreement"].is_monotonic_decreasing
    assert check.images == (marked.split != "train").sum()
    row = table.iloc[0]
    prediction = segmented.predictions.set_index("file").loc[row["file"]]
    names = segmented.class_names
    counts = np.array([[prediction[f"pixels({a}>{b})"] for b in names] for a in names])
    missed = counts[1:, 0].sum() / counts.sum()
    assert row["missed"] == pytest.approx(missed)
    assert row["false_alarm"] == pytest.approx(counts[0, 1:].sum() / counts.sum())
    iou = [
        counts[c, c] / (counts[c].sum() + counts[:, c].sum() - counts[c, c])
        for c in range(3)
        if counts[c].sum() + counts[:, c].sum()
    ]
    assert row["disagreement"] == pytest.approx(1 - np.mean(iou))
    assert len(check.drawn) == 3
    assert "was not trained on" in check.headline


def test_what_cannot_be_compared_is_refused(segmented, run, demo, marked, tmp_path):
    with pytest.raises(ConfigError, match="classifies images"):
        doubtful_masks(run, demo)
    with pytest.raises(ConfigError, match="trained on other images"):
        doubtful_masks(segmented, xt.ImageData.from_folder(marked.root, image_size=(32, 32), split_seed=1))
    with pytest.raises(ConfigError, match="xaitune train --task segment"):
        segmentation_of(marked, tmp_path)


def test_data_check_labels_of_a_segmentation(segmented, marked, tmp_path):
    masks = ["--masks", marked.root.parent / "masks", "--image-size", "32x32"]
    arguments = ["data-check", marked.root, *masks, "--task", "segment", "--labels", "--label-count", "2"]
    said = xaitune(tmp_path, *arguments)
    assert (said.status, "Train one" in said.error) == (2, True)
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs" / segmented.name).symlink_to(segmented.path)
    said = xaitune(tmp_path, *arguments)
    assert said.status == 0, said.err
    table = pd.read_csv(tmp_path / "runs/data-check/labels.csv")
    assert {"disagreement", "action"} <= set(table)
    assert (tmp_path / "runs/data-check/labels.png").is_file()
