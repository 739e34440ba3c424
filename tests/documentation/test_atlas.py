"""The freeze atlas is up to date, and a sweep becomes the rows that its runs are."""

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
from documents import ROOT
from sklearn.metrics import f1_score

from xaitune.comparison.atlas import COLUMNS, atlas_rows
from xaitune.comparison.plan import plan_sweep
from xaitune.comparison.table import load_sweep
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.training.folder import start_folder
from xaitune.training.train import train_model


@pytest.fixture(scope="module")
def atlas():
    """benchmarks/atlas.py."""
    spec = importlib.util.spec_from_file_location("atlas", ROOT / "benchmarks" / "atlas.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_and_csv_are_those_of_the_results(atlas, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["atlas.py", "--check"])
    atlas.main()
    monkeypatch.setattr(atlas, "DOCS", tmp_path)
    page = (ROOT / "docs" / "atlas.md").read_text(encoding="utf-8")
    (tmp_path / "atlas.md").write_text(page.replace("| `scans-slim-150-64` | 168", "| `scans-slim-150-64` | 169"))
    (tmp_path / "atlas.csv").write_bytes((ROOT / "docs" / "atlas.csv").read_bytes())
    monkeypatch.setattr(sys, "argv", ["atlas.py", "--check", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"atlas\.md"):
        atlas.main()


def test_every_run_of_the_battery_is_in_it(atlas):
    truth = pd.read_csv(atlas.TRUTH, dtype={"depth": str})
    rows = pd.read_csv(ROOT / "docs" / "atlas.csv", dtype={"depth": str})
    assert rows.columns.tolist() == list(COLUMNS)
    of_battery = rows[rows["optimizer"].isna() | (rows["optimizer"] == "nag")]
    kept = of_battery.set_index(["task", "depth", "seed"])["test"]
    for run in truth.itertuples():
        assert kept[run.task, run.depth, run.seed] == pytest.approx(run.test)
    assert not rows.duplicated(["task", "depth", "optimizer", "seed"]).any()
    assert ((rows["low"] <= rows["test"] + 1e-6) & (rows["test"] <= rows["high"] + 1e-6)).mean() > 0.97


def test_a_depth_has_the_optimizer_that_is_best_on_validation(atlas):
    rows = [("1", "sgd", 0, 0.5, 0.9), ("1", "nag", 0, 0.7, 0.4), ("1", "nag", 1, 0.8, 0.6), ("2", "sgd", 0, 0.2, 0.3)]
    table = pd.DataFrame(rows, columns=["depth", "optimizer", "seed", "validation", "test"])
    cells = atlas.cells(table.assign(task="t", low=0.1, high=0.95))
    assert cells.loc[("t", "1"), "optimizer"] == "nag"
    assert cells.loc[("t", "1"), "test"] == pytest.approx(0.5)
    assert cells.loc[("t", "1"), "seeds"] == 2
    assert cells.loc[("t", "2"), "test"] == pytest.approx(0.3)


def test_a_sweep_becomes_rows(demo, tmp_path):
    """A sweep's folder with two runs of one cell, which differ in their seed."""
    base = TrainConfig(weights="slim", head_epochs=1, epochs=1, precision="float32")
    grid = SweepConfig(freeze_through=(5,), optimizers=("nag",), seeds=2, learning_rates="own", workers=1)
    plan = plan_sweep(demo, grid, base, runs_dir=tmp_path)
    start_folder(plan.folder, "sweep", {"identity": plan.identity}, overwrite=False)
    for seed in (0, 1):
        name = f"freeze5-nag-seed{seed}"
        train_model(
            demo, base, name=name, runs_dir=plan.folder, freeze_through=5, seed=seed, cache_dir=tmp_path / "cache"
        )
    sweep = load_sweep(plan.folder)
    rows = atlas_rows(sweep, "scans of steel")
    assert rows.columns.tolist() == list(COLUMNS)
    assert rows[["depth", "seed", "optimizer"]].values.tolist() == [["5", 0, "nag"], ["5", 1, "nag"]]
    assert rows["task"].unique().tolist() == [f"scans-of-steel-slim-{len(demo.indices('train'))}-32x32"]
    assert rows["test_images"].tolist() == [len(demo.indices("test"))] * 2
    assert rows["groups"].iloc[0] == len(np.unique(demo.groups[demo.indices("test")]))
    tests = sweep.predictions("freeze5-nag-seed1").query("split == 'test'")
    assert rows["test"].iloc[1] == pytest.approx(f1_score(tests["true"], tests["predicted"], average="macro"))
    assert (rows["low"] <= rows["test"]).all()
    assert (rows["test"] <= rows["high"]).all()
    assert rows["epochs"].tolist() == [1, 1]
    # No path of this machine goes along.
    assert not rows.astype(str).apply(lambda column: column.str.contains("/")).any().any()
    pd.testing.assert_frame_equal(sweep.atlas_rows("scans of steel"), rows)
    assert sweep.atlas_rows("x", "mine")["task"].unique().tolist() == ["mine"]
