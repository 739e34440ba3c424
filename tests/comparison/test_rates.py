"""rates.py: trials of the learning rates, the choice among them, and that a sweep carries them out."""

import dataclasses

import pandas as pd
import pytest

from xaitune import _files
from xaitune.comparison.engines.task import Task, in_order
from xaitune.comparison.grid import cell_rates, frozen_runs, grid_runs
from xaitune.comparison.rates import (
    TRIAL_EPOCHS,
    cells_of,
    chosen_rate,
    count_done,
    expected_runs,
    runs_to_do,
    stop_others,
)
from xaitune.comparison.sweep import sweep_freeze
from xaitune.comparison.table import load_sweep
from xaitune.config.settings import DataConfig, SweepConfig, TrainConfig
from xaitune.training.folder import RESULT, run_name
from xaitune.training.run import load_run, stop_run
from xaitune.training.train import train_model

BASE = TrainConfig(weights="slim", head_epochs=1, epochs=8, precision="float32")
(CELL,) = cells_of(grid_runs(SweepConfig(freeze_through="4", optimizers="nag", seeds=2), BASE))
LOW, HIGH = (run for run in CELL if run.seed == 0)


def write(folder, run, scores, state=None):
    """The folder of a run with these validation scores: paused, or ended in `state`."""
    path = folder / run_name(run, with_rate=True)
    _files.write_json(path / "config.json", {"identity": {"learning_rate": run.rate}})
    rows = {"stage": "fine-tune", "val_f1_macro": scores, "val_loss": [1.0] * len(scores), "seconds": 2.0}
    _files.write_csv(path / "history.csv", pd.DataFrame(rows))
    if state:
        _files.write_json(path / RESULT, {"state": state})
    return path


def test_rates_of_a_cell():
    assert cell_rates(SweepConfig(), BASE, "nag") == (1e-3, 3e-3)
    assert cell_rates(SweepConfig(), BASE, "sgd") == (1e-2, 3e-2)
    assert cell_rates(SweepConfig(), dataclasses.replace(BASE, learning_rate=0.5), "sgd") == (0.5,)
    assert cell_rates(SweepConfig(learning_rates="own"), BASE, "sgd") == (None,)
    assert cell_rates(SweepConfig(learning_rates="1e-4"), BASE, "sgd") == (1e-4,)


def test_first_the_trials_then_the_chosen_rate(tmp_path):
    assert runs_to_do(CELL, None) == [(LOW, TRIAL_EPOCHS), (HIGH, TRIAL_EPOCHS)]
    expected = expected_runs(CELL, None)
    assert sorted(run.epochs for run in expected) == [TRIAL_EPOCHS, 8, 8]
    path = write(tmp_path, LOW, [0.5, 0.6, 0.4])
    assert runs_to_do(CELL, tmp_path) == [(HIGH, TRIAL_EPOCHS)]
    assert chosen_rate(CELL, tmp_path) is None
    write(tmp_path, HIGH, [0.3, 0.7, 0.2])
    assert chosen_rate(CELL, tmp_path) == HIGH.rate
    assert [(run.seed, run.rate, pause) for run, pause in runs_to_do(CELL, tmp_path)] == [
        (0, 3e-3, None),
        (1, 3e-3, None),
    ]
    (path / "checkpoint").mkdir()
    stop_others(CELL, tmp_path)
    assert _files.read_json(path / RESULT) == {"state": "stopped", "metrics": {}, "seconds": 6.0}
    assert not (path / "checkpoint").exists()
    assert count_done(CELL, tmp_path) == 0
    write(tmp_path, HIGH, [0.3, 0.7, 0.2, 0.1], "finished")
    assert count_done(CELL, tmp_path) == 1


@pytest.mark.parametrize(
    ("low", "high", "chosen"),
    [
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], 1e-3),  # the lower of equals
        ([0.1, 0.1, 0.1, 0.9], [0.2, 0.2, 0.2, 0.2], 3e-3),  # only the first epochs are compared
        ([0.1, 0.1], [0.9, float("nan")], 1e-3),  # it diverged in the second epoch
    ],
)
def test_the_choice(tmp_path, low, high, chosen):
    write(tmp_path, LOW, low, "finished")
    write(tmp_path, HIGH, high, "diverged" if high[-1] != high[-1] else "finished")
    assert chosen_rate(CELL, tmp_path) == chosen


def test_a_stopped_rate_that_is_wanted_after_all_is_trained(demo, tmp_path):
    """A grid at the rate that a sweep has stopped: its run is not taken for finished."""
    write(tmp_path, LOW, [0.5, 0.6, 0.4], "stopped")
    write(tmp_path, HIGH, [0.3, 0.7, 0.2], "finished")
    alone = [run for run in CELL if run.rate == LOW.rate]
    assert [run.seed for run, _ in runs_to_do(alone, tmp_path)] == [0, 1]
    assert count_done(alone, tmp_path) == 0
    write(tmp_path, HIGH, [0.3, 0.7, 0.2], "diverged")  # the chosen one diverged later: the other one is next
    assert [(run.rate, run.seed) for run, _ in runs_to_do(CELL, tmp_path)] == [(1e-3, 0), (1e-3, 1)]
    config = dataclasses.replace(LOW, epochs=1)
    first = train_model(demo, config, name="again", runs_dir=tmp_path)
    stop_run(first.path)
    assert load_run(first.path).state == "stopped"
    assert train_model(demo, config, name="again", runs_dir=tmp_path).state == "finished"


def test_a_trial_waits_for_the_warm_up():
    warm = [dataclasses.replace(run, warmup_epochs=2) for run in CELL]
    assert [pause for _, pause in runs_to_do(warm, None)] == [TRIAL_EPOCHS + 2] * 2


def test_the_tasks_of_a_seed_come_before_those_of_the_next():
    tasks = [
        Task(str(i), DataConfig(), "", run, "", "", 1.0) for i, run in enumerate([CELL[2], CELL[0], CELL[3], CELL[1]])
    ]
    assert [task.name for task in in_order(tasks)] == ["1", "3", "0", "2"]


def test_a_sweep_tries_two_rates_and_fits_two_linear_heads(demo, tmp_path):
    """Every seed is trained at the cell's rate, and the other rate of the first seed ends after its trial."""
    grid = {"freeze_through": (4,), "optimizers": ("nag",), "seeds": 2, "workers": 1}
    train = dataclasses.replace(BASE, epochs=5, patience=5)
    table = sweep_freeze(demo, train=train, runs_dir=tmp_path, **grid)
    states = table.runs.set_index("name")["state"]
    assert sorted(states) == ["finished", "finished", "stopped"]
    stopped = load_run(table.path / states.index[states == "stopped"][0])
    assert stopped.config.seed == 0
    assert (stopped.history["stage"] == "fine-tune").sum() == TRIAL_EPOCHS
    assert not (stopped.path / "model.keras").exists()
    cell = table.cell(4, "nag")
    assert (cell["seeds"], cell["rates"]) == (2, 2)
    other = 3e-3 if cell["learning_rate"] == 1e-3 else 1e-3
    assert stopped.config.rate == other
    # A trial and its continuation are the same training as one without a pause.
    through = sweep_freeze(
        demo,
        train=dataclasses.replace(train, learning_rate=cell["learning_rate"]),
        seeds=1,
        runs_dir=tmp_path / "through",
        cache_dir=tmp_path / "cache",
        **{k: v for k, v in grid.items() if k != "seeds"},
    )
    name = f"freeze4-nag-lr{cell['learning_rate']:g}-seed0"
    pd.testing.assert_frame_equal(through.predictions("freeze4-nag-seed0"), table.predictions(name), check_exact=True)
    assert list(table.heads["name"]) == ["frozen-all-blocks", "frozen-best-block"]
    assert table.frozen_sentence().count("linear head") == 1
    assert table.frozen_sentence() in load_sweep(table.path).frozen_sentence()
    assert [run.head_blocks for run in frozen_runs(train)] == ["all", "best"]
    assert len(pd.read_csv(table.path / "sweep.csv")) == 5
    again = sweep_freeze(demo, train=train, runs_dir=tmp_path, **grid)
    pd.testing.assert_frame_equal(again.runs, table.runs)
