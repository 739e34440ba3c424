"""How many runs of a sweep's grids have ended."""

import dataclasses

import pandas as pd
import pytest

from xaitune._files import read_json, write_csv, write_json
from xaitune.comparison.grid import base_config, frozen_runs, grid_runs
from xaitune.comparison.so_far import (
    add_grid,
    count_runs,
    failed_runs,
    recorded_grids,
    runs_so_far,
    so_far_text,
    unfinished_grid,
)
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.training.folder import run_name

BASE = TrainConfig(weights="slim", epochs=8)
GRID = SweepConfig(freeze_through=(4, 5), optimizers=("sgd", "nag"), seeds=1, learning_rates="own")


def ask(folder, grid, base=BASE):
    """Record a call of a sweep, as its start does."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    grids = {"grids": add_grid(recorded_grids(folder), grid)}
    write_json(folder / "config.json", config | {"train": dataclasses.asdict(base_config(base, grid))} | grids)


def end(folder, run, state="finished", score=0.5, *, with_rate=False):
    """The folder of a run that has ended."""
    path = folder / run_name(run, with_rate=with_rate)
    write_json(path / "config.json", {"identity": {"learning_rate": run.rate}})
    write_csv(path / "history.csv", pd.DataFrame({"stage": ["fine-tune"], f"val_{run.metric}": [score]}))
    write_json(path / "result.json", {"state": state})


def end_heads(folder, base=BASE, grid=GRID):
    """The folders of the linear heads, which have ended; returns their number."""
    heads = frozen_runs(base_config(base, grid))
    for run in heads:
        end(folder, run)
    return len(heads)


def test_runs_of_the_grid_that_have_ended(tmp_path):
    assert runs_so_far(tmp_path) is None  # a folder of an earlier version
    assert count_runs(tmp_path) == (0, 0)
    ask(tmp_path, GRID)
    runs = grid_runs(GRID, BASE)
    assert runs_so_far(tmp_path) == (0, 6)
    assert end_heads(tmp_path) == 2
    assert runs_so_far(tmp_path) == (2, 6)
    end(tmp_path, dataclasses.replace(runs[0], freeze_through=1))  # not of the grid
    end(tmp_path, runs[0])
    end(tmp_path, runs[1], "diverged")
    end(tmp_path, runs[2], "stopped")
    assert so_far_text(tmp_path) == "so far 4 of 6 runs have ended"
    name = run_name(runs[2])
    write_json(tmp_path / "sweep.json", {"grid": dataclasses.asdict(GRID), "failures": {name: "memory ran out"}})
    assert runs_so_far(tmp_path) == (5, 6)
    about = {"freeze_through": 4, "optimizer": "sgd", "seed": 0}
    assert failed_runs(tmp_path) == [{"name": name, "state": "failed: memory ran out", **about}]
    end(tmp_path, runs[3])
    assert runs_so_far(tmp_path) is None
    assert so_far_text(tmp_path) == ""
    assert count_runs(tmp_path) == (6, 6)


@pytest.mark.parametrize(
    ("base", "grid", "count"),
    [
        (dataclasses.replace(BASE, head="blocks"), {}, 2),  # depth 5 is a linear head
        (TrainConfig(weights="slim", trained_blocks="3-5"), {"freeze_through": (2,)}, 2),
        (dataclasses.replace(BASE, weights="imagenet", architecture="vgg19"), {}, 4),
        (
            TrainConfig(architecture="lenet5-relu", weights="random", freeze_through=0),
            {"freeze_through": (0,), "optimizers": ("nag",), "seeds": 2},
            2,
        ),
    ],
)
def test_every_kind_of_run_counts(tmp_path, base, grid, count):
    grid = dataclasses.replace(GRID, **grid)
    ask(tmp_path, grid, base)
    runs = grid_runs(grid, base_config(base, grid))
    assert len(runs) == count
    heads = end_heads(tmp_path, base, grid)
    assert heads == (0 if base.from_scratch else 2)
    for done, run in enumerate(runs):
        assert runs_so_far(tmp_path) == (heads + done, heads + count)
        end(tmp_path, run)
    assert runs_so_far(tmp_path) is None


def test_a_trial_is_not_yet_a_run(tmp_path):
    grid = SweepConfig(freeze_through=(4,), optimizers=("nag",), seeds=2)
    ask(tmp_path, grid)
    low, high, low1, high1 = grid_runs(grid, BASE)
    end_heads(tmp_path)
    end(tmp_path, low, "diverged", with_rate=True)
    assert runs_so_far(tmp_path) == (2, 4)  # the other rate has not been tried
    end(tmp_path, high, with_rate=True)
    end(tmp_path, low1, with_rate=True)  # at the rate that was not chosen
    assert runs_so_far(tmp_path) == (3, 4)
    end(tmp_path, high1, with_rate=True)
    assert runs_so_far(tmp_path) is None


def test_a_trial_that_fails_ends_its_combination(tmp_path):
    grid = SweepConfig(freeze_through=(4,), optimizers=("nag",), seeds=2)
    ask(tmp_path, grid)
    low, high, *_ = grid_runs(grid, BASE)
    failures = {run_name(high, with_rate=True): "memory ran out", "frozen-all-blocks": "memory ran out"}
    write_json(tmp_path / "sweep.json", {"grid": dataclasses.asdict(grid), "failures": failures})
    assert runs_so_far(tmp_path) == (1, 4)  # the linear head
    end(tmp_path, low, with_rate=True)
    assert runs_so_far(tmp_path) == (3, 4)
    end(tmp_path, frozen_runs(BASE)[1])
    assert runs_so_far(tmp_path) is None  # no rate can be chosen
    assert "optimizer" not in failed_runs(tmp_path)[1]  # a linear head


def test_a_smaller_sweep_does_not_hide_a_larger_one(tmp_path):
    small = SweepConfig(freeze_through=(5,), optimizers=("nag",), seeds=1, learning_rates="own", workers=2)
    ask(tmp_path, small)
    ask(tmp_path, GRID)
    ask(tmp_path, small)
    end_heads(tmp_path)
    assert [grid.freeze_through for grid in recorded_grids(tmp_path)] == [(4, 5)]  # which has the small one's run
    for run in grid_runs(GRID, BASE):
        if (run.freeze_through, run.optimizer) != (5, "nag"):
            end(tmp_path, run)
    assert runs_so_far(tmp_path) == (5, 6)
    for run in grid_runs(small, BASE):
        end(tmp_path, run)
    assert runs_so_far(tmp_path) is None
    more = dataclasses.replace(small, seeds=2)  # of one combination, not of all
    ask(tmp_path, more)
    assert runs_so_far(tmp_path) == (6, 7)
    assert unfinished_grid(tmp_path) == dataclasses.replace(more, workers=None)


def test_a_rate_of_its_own_after_several(tmp_path):
    several = SweepConfig(freeze_through=(4,), optimizers=("nag",), seeds=1)
    ask(tmp_path, several)
    end_heads(tmp_path)
    low, high = grid_runs(several, BASE)
    end(tmp_path, low, "stopped", 0.2, with_rate=True)
    end(tmp_path, high, with_rate=True)
    assert runs_so_far(tmp_path) is None
    ask(tmp_path, dataclasses.replace(several, learning_rates="own"))
    assert len(recorded_grids(tmp_path)) == 2
    assert runs_so_far(tmp_path) == (2, 3)
    end(tmp_path, low, with_rate=True)
    assert runs_so_far(tmp_path) is None


def test_runs_of_every_fold_count(tmp_path):
    grid = SweepConfig(freeze_through=(3,), optimizers=("nag",), seeds=1, learning_rates="own", folds=3)
    ask(tmp_path, grid)
    for fold in ("fold1", "fold2", "fold3"):
        end_heads(tmp_path / fold)
    (run,) = grid_runs(grid, BASE)
    end(tmp_path / "fold1", run)
    assert runs_so_far(tmp_path) == (7, 9)
    end(tmp_path / "fold2", run)
    end(tmp_path / "fold3", run)
    assert runs_so_far(tmp_path) is None
