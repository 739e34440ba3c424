"""A sweep over folds: every image is tested once, by models that were trained without it and without its group."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from xaitune.advise.advice import load_advice
from xaitune.advise.recommend import advise_freeze
from xaitune.advise.recommended import recommended_model
from xaitune.comparison.plan import plan_sweep
from xaitune.comparison.sweep import sweep_freeze
from xaitune.comparison.table import find_sweep, load_sweep
from xaitune.config.settings import DataConfig, SweepConfig, TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.data.splits import assign_splits
from xaitune.errors import ConfigError, DataError, RunError
from xaitune.report.gather import report_on

TRAIN = TrainConfig(weights="slim", head_epochs=1, epochs=1, precision="float32")
GRID = {"freeze_through": (4, 5), "optimizers": ("nag",), "seeds": 1, "workers": 1, "folds": 3}


@pytest.fixture(scope="module")
def folds(demo, tmp_path_factory):
    runs_dir = tmp_path_factory.mktemp("folds")
    advise_freeze(demo, TRAIN, method="features", runs_dir=runs_dir)
    return sweep_freeze(demo, train=TRAIN, runs_dir=runs_dir, **GRID)


def test_folds_cover_every_group_once():
    labels, groups = np.repeat(np.arange(3), 40), np.repeat(np.arange(24), 5)
    tested, validated = np.zeros(120), np.zeros(120)
    for k in range(1, 6):
        split = assign_splits(labels, groups, [""] * 120, (0.6, 0.2, 0.2), 0, f"{k}/5")
        tested += split == "test"
        validated += split == "validation"
        for group in range(24):
            assert len(set(split[groups == group])) == 1
        assert set(split) == {"train", "validation", "test"}
        for label in range(3):
            assert set(split[labels == label]) == {"train", "validation", "test"}
    assert (tested == 1).all()
    assert (validated == 1).all()
    with pytest.raises(DataError, match="these have given splits"):
        assign_splits(labels, groups, ["train"] * 120, (0.6, 0.2, 0.2), 0, "1/5")


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/2", "a", "1"])
def test_a_bad_fold_is_refused(fold):
    with pytest.raises(ConfigError, match="fold must be K/N with N at least 3"):
        DataConfig(fold=fold)


def test_every_image_is_tested_once(folds, demo):
    assert (folds.images, folds.groups) == (len(demo), len(set(demo.groups)))
    assert list(folds.runs["name"]) == ["freeze4-nag-seed0", "freeze5-nag-seed0"]
    for name in [*folds.runs["name"], *folds.heads["name"]]:
        table = folds.predictions(name)
        assert sorted(table["file"]) == sorted(demo.files)
        score = f1_score(table["true"], table["predicted"], average="macro")
        rows = pd.concat([folds.runs, folds.heads]).set_index("name")
        assert rows.loc[name, "test"] == pytest.approx(score)
    one = ImageData.from_config(dataclasses.replace(demo.config, fold="2/3"))
    part = load_sweep(folds.path / "fold2")
    tested = part.predictions(part.runs["name"].iloc[0]).query("split == 'test'")["file"]
    assert set(tested) == {one.files[i] for i in one.indices("test")}


def test_the_same_call_trains_nothing_and_another_number_of_folds_is_another_sweep(folds, demo):
    runs_dir = folds.path.parent
    before = {p: p.stat().st_mtime_ns for p in folds.path.glob("*/*/result.json")}
    again = sweep_freeze(demo, train=TRAIN, runs_dir=runs_dir, **GRID)
    pd.testing.assert_frame_equal(again.cells, folds.cells)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    plan = plan_sweep(demo, SweepConfig(**GRID), TRAIN, runs_dir=runs_dir)
    assert (plan.total, plan.done, plan.expected) == (12, 12, [])
    other = plan_sweep(demo, SweepConfig(**{**GRID, "folds": None}), TRAIN, runs_dir=runs_dir)
    assert other.folder.name == "sweep-2"


def test_its_report_and_its_place(folds):
    assert find_sweep(folds.path.parent) == folds.path
    assert find_sweep(folds.path.parent, folds.fingerprint) == folds.path
    assert load_advice(folds.path.parent / "advice").fingerprint == folds.fingerprint
    assert folds.folder(recommended_model(folds).run).parent.name == "fold1"
    said, steps = [], []
    page, following = report_on(
        folds.path, folds.path.parent, said.append, lambda done, total, what: steps.append((done / total, what))
    )
    assert following.startswith(f"xaitune export {folds.path / 'fold1'}")
    text = page.read_text()
    shown = json.loads(re.search(r'id="report-data">(.*?)</script>', text, re.S)[1])["viewer"]["images"]
    assert {image["fold"] for image in shown} == {"1", "2", "3"}  # each from the fold in which it was tested
    tested = {}
    for number in ("1", "2", "3"):
        part = load_sweep(folds.path / f"fold{number}")
        table = part.predictions(part.runs["name"].iloc[0]).query("split == 'test'")
        tested |= dict.fromkeys(table["file"], number)
    assert all(tested[image["file"]] == image["fold"] for image in shown)
    assert "Images of all 3 folds are here." in re.sub(r"<[^>]+>", "", text)
    assert [share for share, _ in steps] == sorted(share for share, _ in steps)
    assert steps[0] == (0, "reading runs")
    assert steps[-1] == (0.9, "writing the page")
    assert any(re.fullmatch(r"maps of image \d+ of \d+ in fold 2 of 3", what) for _, what in steps)
    assert "another fingerprint" not in text
    assert "Does any block need training?" in text
    assert not any(line.startswith("Without pictures") for line in said)
    assert "plot" in dir(folds)
    folds.plot()
    folds.plot_histories()


def test_a_sweep_with_a_missing_fold_says_so(folds, tmp_path):
    import shutil

    copy = tmp_path / "sweep"
    shutil.copytree(folds.path, copy)
    shutil.rmtree(copy / "fold3")
    with pytest.raises(RunError, match="lacks fold3"):
        load_sweep(copy)
