"""Comparisons: factors checked before anything is trained, one table of all cells, and losses that are the same function."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from xaitune.comparison.comparison import compare, plan_comparison
from xaitune.comparison.comparison_table import has_converged, load_comparison
from xaitune.comparison.factors import check_factors, parse_factors, part_name, parts_of
from xaitune.comparison.table import load_sweep
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.errors import ConfigError, RunError

BASE = TrainConfig(weights="slim", head_epochs=1, epochs=2, precision="float32", freeze_through=4)
LOSSES = ("categorical_crossentropy", "sparse_categorical_crossentropy")


@pytest.fixture(scope="module")
def losses(demo, tmp_path_factory):
    """The two losses of the studies, two seeds each."""
    folder = tmp_path_factory.mktemp("losses")
    options = {"factor": "loss", "values": LOSSES, "seeds": 2, "learning_rates": "own", "runs_dir": folder}
    return compare(demo, BASE, **options), options


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["los"], ["focal"], r"factor must be one of .*Received: factor='los'\. Did you mean 'loss'"),
        (["seed"], ["1,2"], "factor must be one of"),
        (["loss"], ["focl"], "Received: loss='focl'. Did you mean 'focal'"),
        (["loss"], [], "Every --factor needs its --values"),
        (["epochs"], ["few"], "epochs must be a number"),
        (["freeze_through"], ["7"], "freeze_through must be 0..5"),
        (["loss", "loss"], ["focal", "focal"], "given twice"),
        (["freeze_through", "trained_blocks"], ["1-3", "1"], "name the same thing"),
    ],
)
def test_what_does_not_exist_is_refused(names, values, message):
    with pytest.raises(ConfigError, match=message):
        parse_factors(names, values)


def test_factors_take_any_setting():
    read = parse_factors(["epochs", "class_weight", "learning_rate"], ["2,5", "none,balanced", "1e-3,1e-2"])
    assert read == {"epochs": (2, 5), "class_weight": (None, "balanced"), "learning_rate": (1e-3, 1e-2)}
    assert check_factors({"trained_blocks": ["1", [4, 5], "4-5"]}) == {"trained_blocks": ("1", "4,5")}
    assert len(parts_of({"loss": LOSSES, "epochs": (1, 2), "optimizer": ("sgd", "nag")}, TrainConfig())) == 4
    assert parts_of({}, BASE) == [({}, BASE)]
    assert part_name({"class_weight": "a b=2,c/d=1"}) == "class_weight=a~b=2+c~d=1"
    with pytest.raises(ConfigError, match="label_smoothing needs another loss"):
        parts_of({"loss": ("sparse_categorical_crossentropy",)}, TrainConfig(label_smoothing=0.1))
    with pytest.raises(ConfigError, match="needs a list of values"):
        check_factors({"loss": "focal"})


def test_a_contradiction_is_refused_before_anything_is_written(demo, tmp_path):
    with pytest.raises(ConfigError, match="class_weight must be classes of the data"):
        compare(demo, BASE, factor={"class_weight": ["balanced", "krack=2"]}, runs_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_two_cross_entropies_are_one_function(losses):
    """The same gradients, so the same runs, and a sentence that says so."""
    table, _ = losses
    assert table.cells["name"].tolist() == list(LOSSES)
    assert table.cells["seeds"].tolist() == [2, 2]
    a, b = (table.parts[f"loss={loss}"] for loss in LOSSES)
    for run in a.runs["name"]:
        ours, theirs = (part.predictions(run).filter(like="p(").to_numpy() for part in (a, b))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    pair = table.pairs().iloc[0]
    assert pair["difference"] == pytest.approx(0, abs=1e-12)
    assert pair["verdict"] == "cannot tell"
    assert "No difference beyond the noise of test images and seeds" in table.sentence()


def test_the_figures_are_those_of_the_sweeps(losses, demo):
    table, _ = losses
    sweep = load_sweep(table.path / f"loss={LOSSES[0]}")
    for column in ("validation", "test", "low", "high", "seconds"):
        assert table.cells[column][0] == pytest.approx(sweep.cells[column][0])
    wide = table.losses()
    assert list(wide.columns) == ["seed 0", "seed 1", "mean"]
    predictions = sweep.predictions(table.cells["runs"][0][0]).query("split == 'test' and true == 'crack'")
    by_hand = -np.log(np.maximum(predictions["p(crack)"], 1e-12)).mean()
    assert wide.loc[(LOSSES[0], "crack"), "seed 0"] == pytest.approx(by_hand)
    loaded = load_comparison(table.path)
    pd.testing.assert_frame_equal(loaded.cells, table.cells)
    assert loaded.table()["minus the best"].eq("best on validation").sum() == 1


def test_it_resumes_and_grows(losses, demo, monkeypatch):
    """The same call trains nothing; another value trains its own runs alone."""
    table, options = losses
    config = SweepConfig(seeds=2, learning_rates="own")
    again = plan_comparison(demo, {"loss": LOSSES}, config, BASE, runs_dir=options["runs_dir"])
    assert again.done == again.total == 4
    more = plan_comparison(demo, {"loss": (*LOSSES, "focal")}, config, BASE, runs_dir=options["runs_dir"])
    assert more.folder == table.path
    assert (more.done, more.total) == (4, 6)
    other = plan_comparison(demo, {"epochs": (1, 2)}, config, BASE, runs_dir=options["runs_dir"])
    assert other.folder != table.path


def test_other_values_join_those_that_are_there_and_what_diverges_is_named(demo, tmp_path):
    """A rate that no run survives takes nothing from the others."""
    options = {"seeds": 1, "runs_dir": tmp_path}
    compare(demo, BASE, factor={"learning_rate": [1e-3]}, **options)
    table = compare(demo, BASE, factor={"learning_rate": [1e-4]}, **options)
    assert table.cells["learning_rate"].tolist() == [1e-3, 1e-4]
    assert {"comparison.csv", "comparison.png", "curves.png"} <= {path.name for path in table.path.iterdir()}
    lost = next((table.path / "learning_rate=0.0001").glob("*/result.json"))
    lost.write_text(json.dumps(json.loads(lost.read_text()) | {"state": "diverged"}))
    rest = load_comparison(table.path)
    assert rest.cells["learning_rate"].tolist() == [1e-3]
    assert rest.diverged == ("learning_rate=0.0001",)
    assert "Diverged, and left out: learning_rate=0.0001." in rest.sentence()


def test_depths_and_optimizers_vary_within_one_sweep(demo, tmp_path):
    """Which is what sweep-freeze does."""
    factors = {"freeze_through": (4, 5), "optimizer": ("sgd", "nag")}
    plan = plan_comparison(demo, factors, SweepConfig(seeds=1, learning_rates="own"), BASE, runs_dir=tmp_path)
    assert len(plan.parts) == 1
    assert plan.total == 4
    repeats = plan_comparison(demo, {}, SweepConfig(seeds=3, learning_rates="own"), BASE, runs_dir=tmp_path)
    assert repeats.total == 3


def test_blocks_beyond_the_prefix(demo, tmp_path):
    factors = {"trained_blocks": ["1", "5"]}
    table = compare(demo, BASE, factors=factors, seeds=1, learning_rates="own", runs_dir=tmp_path)
    assert table.cells["trained_blocks"].tolist() == ["1", "5"]
    runs = [sweep.runs["freeze_through"].tolist() for sweep in table.parts.values()]
    assert runs == [[0], [4]]
    assert not math.isnan(table.pairs()["difference"][0])


def test_a_run_that_never_left_its_starting_loss_has_not_converged():
    def history(head, tuned):
        stages = ["head"] * len(head) + ["fine-tune"] * len(tuned)
        return pd.DataFrame({"stage": stages, "train_loss": [*head, *tuned]})

    assert not has_converged(history([2.4, 2.0], [2.0, 1.99, 2.1]))
    assert has_converged(history([2.4, 2.0], [2.0, 1.5]))
    assert not has_converged(history([], [2.4, 2.39]))
    assert has_converged(history([], [2.4, 1.2]))
    assert has_converged(history([2.0], []))


def test_a_folder_of_another_kind_is_refused(tmp_path, run):
    with pytest.raises(RunError, match="is not a comparison's folder"):
        load_comparison(run.path)
