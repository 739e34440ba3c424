"""Advice from frozen features and short trainings: real trainings on the demo's images."""

import dataclasses
import shutil
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaitune import _files
from xaitune.advise import evaluation, race, recommend
from xaitune.advise.advice import find_advice, load_advice
from xaitune.advise.candidates import CANDIDATES, HEADS, training_costs
from xaitune.advise.check import check_advice
from xaitune.advise.decision import COST_WEIGHT
from xaitune.advise.evaluation import Evaluation
from xaitune.advise.race import race_cost
from xaitune.advise.recommend import _quick_method, advise_freeze
from xaitune.cli.advise import advise
from xaitune.comparison.sweep import sweep_freeze
from xaitune.comparison.table import find_sweep
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError
from xaitune.models.blocks import multiply_adds
from xaitune.report.sections import advice_section
from xaitune.training.features import FeatureCache
from xaitune.training.run import read_history

BASE = TrainConfig(weights="slim", head_epochs=1, epochs=4, precision="float32")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Cached frozen features and heads, shared by the tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def raced(demo, cache, tmp_path_factory):
    """Advice by a race, and the folder of its runs."""
    runs_dir = tmp_path_factory.mktemp("raced")
    return advise_freeze(demo, BASE, method="race", runs_dir=runs_dir, cache_dir=cache), runs_dir


def test_features_give_every_candidate_its_evidence(demo, cache, tmp_path, monkeypatch):
    made, write = [], recommend.write_advice
    monkeypatch.setattr(recommend, "write_advice", lambda advice, folder: made.append(advice) or write(advice, folder))
    loaded = advise_freeze(demo, BASE, method="features", runs_dir=tmp_path, cache_dir=cache)
    (advice,) = made
    assert advice.method == "features"
    table = advice.evidence
    assert tuple(table.index) == CANDIDATES
    assert table[["score", "low", "high", "regret", "best", "near", "cost", "linear", "probe"]].notna().all(axis=None)
    assert table["linear"].between(0, 1).all()
    assert table.loc[list(HEADS), "linear"].equals(table.loc[list(HEADS), "probe"])
    assert table["best"].sum() == pytest.approx(1)
    assert (table["low"] < table["score"]).all()
    assert (table["score"] < table["high"]).all()
    assert 0 <= advice.freeze_through <= 5
    assert 0 < advice.confidence <= 1
    assert advice.frozen in ("", *HEADS)
    assert ("linear head on" in advice.reasons) == advice.headline.startswith("Train no block") == bool(advice.frozen)
    assert advice.images == len(demo.indices("train")) + len(demo.indices("validation"))
    pd.testing.assert_frame_equal(advice.evidence, loaded.evidence)
    for field in dataclasses.fields(advice):
        if field.name not in ("evidence", "path"):
            assert getattr(advice, field.name) == getattr(loaded, field.name), field.name
    assert find_advice(tmp_path, demo.fingerprint, advice.weights) == tmp_path / "advice"
    assert {p.name for p in loaded.path.iterdir()} >= {"advice.json", "evidence.csv", "evidence.png"}
    assert not (tmp_path / "sweep").exists()


def test_a_higher_cost_weight_never_advises_a_dearer_training(demo, cache, tmp_path):
    costs = training_costs(demo.image_size)
    advised = []
    for weight in (0.0, 0.01, 100.0):
        advice = advise_freeze(
            demo, BASE, method="features", cost_weight=weight, runs_dir=tmp_path / str(weight), cache_dir=cache
        )
        advised.append(costs[str(advice.freeze_through)])
    assert advised == sorted(advised, reverse=True)
    assert advised[-1] == 0


def test_no_test_image_is_used(demo, tmp_path):
    """Noise in place of every test image changes no figure."""
    root, advice = Path(demo.config.path).parent, []
    for name in ("clean", "poisoned"):
        shutil.copytree(root, tmp_path / name)
        if name == "poisoned":
            rng = np.random.default_rng(0)
            for i in demo.indices("test"):
                noise = rng.integers(0, 256, (32, 32), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / name / "images" / demo.files[i])
        groups = tmp_path / name / "groups.csv"
        data = ImageData.from_folder(tmp_path / name / "images", groups=groups, image_size=(32, 32))
        advice.append(advise_freeze(data, BASE, method="features", runs_dir=tmp_path / f"runs-{name}"))
    pd.testing.assert_frame_equal(advice[0].evidence, advice[1].evidence, rtol=1e-5)


def test_a_race_is_the_beginning_of_the_sweep(demo, raced, cache):
    """Its trials pause; the sweep goes on with those of the chosen rate, trains no epoch twice, and can check the advice."""
    advice, runs_dir = raced
    assert advice.evidence["short"].between(0, 1).all()
    assert find_sweep(runs_dir) is None  # it has no result yet
    folder = runs_dir / "sweep"
    trials = {p.parent.name: read_history(p.parent) for p in folder.glob("freeze*/history.csv")}
    assert len(trials) == 12  # six depths, two rates
    assert all((h["stage"] == "fine-tune").sum() == 3 for h in trials.values())
    before = {name: (folder / name / "config.json").stat().st_mtime_ns for name in trials}
    table = sweep_freeze(
        demo, train=BASE, optimizers="nag", freeze_through="0-5", seeds=1, runs_dir=runs_dir, cache_dir=cache
    )
    assert find_sweep(runs_dir) == folder
    assert {name: (folder / name / "config.json").stat().st_mtime_ns for name in trials} == before
    for name in table.runs.query("state == 'finished'")["name"]:
        columns = ["stage", "epoch", "train_loss", "val_loss"]
        pd.testing.assert_frame_equal(table.history(name)[columns].head(4), trials[name][columns])
    check = check_advice(advice, table)
    assert check.advice_made_first
    assert advice.evidence.loc["3", "short"] == pytest.approx(
        trials[table.cell(3, "nag")["name"] + f"-lr{table.cell(3, 'nag')['learning_rate']:g}-seed0"]["val_f1_macro"][
            -2:
        ].mean()
    )


def test_a_race_over_folds_is_the_beginning_of_the_sweep_over_folds(demo, cache, tmp_path):
    """The trials are in the sweep's folds, their scores are averaged, and the sweep goes on with the same runs."""
    sweep = SweepConfig(folds=3, learning_rates="own", workers=1)
    plan = race.plan_race(demo, BASE, sweep, tmp_path)
    table = race.run_race(plan, demo, cache_dir=cache)
    folders = [tmp_path / f"sweep/fold{number}/freeze3-nag-seed0" for number in (1, 2, 3)]
    trials = [read_history(folder) for folder in folders]
    scores = [trial.query("stage == 'fine-tune'")["val_f1_macro"] for trial in trials]
    assert [len(score) for score in scores] == [3, 3, 3]
    assert len(set(map(tuple, scores))) > 1
    assert table.loc["3", "short"] == pytest.approx(np.mean([score[-2:].mean() for score in scores]))
    assert tuple(table.index) == CANDIDATES
    assert table["short"].notna().all()
    assert find_sweep(tmp_path) is None
    before = [(folder / "config.json").stat().st_mtime_ns for folder in folders]
    grid = {"folds": 3, "learning_rates": "own", "freeze_through": 3, "optimizers": "nag", "seeds": 1, "workers": 1}
    done = sweep_freeze(demo, train=BASE, **grid, runs_dir=tmp_path, cache_dir=cache)
    assert done.path == tmp_path / "sweep"
    assert [(folder / "config.json").stat().st_mtime_ns for folder in folders] == before
    for folder, trial in zip(folders, trials, strict=True):
        columns = ["stage", "epoch", "train_loss", "val_loss"]
        pd.testing.assert_frame_equal(read_history(folder)[columns].head(len(trial)), trial[columns])
        assert len(read_history(folder)) > len(trial)


def test_advice_over_folds_is_for_sweeps_over_the_same_folds_alone(demo, cache, tmp_path):
    """Every test image of the split has validated a fold; the page says so. Advice on one split serves every sweep."""
    given = {"runs_dir": tmp_path, "cache_dir": cache}
    sweep = SweepConfig(folds=3, learning_rates="own", workers=1)
    advice = advise_freeze(demo, BASE, method="race", sweep=sweep, **given)
    seen = set()
    for number in (1, 2, 3):
        rows = pd.read_csv(tmp_path / f"sweep/fold{number}/frozen-all-blocks/predictions.csv")
        seen |= set(rows.loc[rows["split"] == "validation", "file"])
    assert seen >= {demo.files[i] for i in demo.indices("test")}
    assert advice.folds == 3
    assert (
        "short trainings in 3 folds, which validate on every image, test images too" in advice_section(advice)["basis"]
    )
    about = (tmp_path, demo.fingerprint, advice.weights, "classify")
    assert find_advice(*about) is None
    assert find_advice(*about, 4) is None
    assert find_advice(*about, 3) == advice.path
    one = advise_freeze(demo, BASE, method="features", **given)
    assert one.folds is None
    assert "and on no test image" in advice_section(one)["basis"]
    values = _files.read_json(one.path / "advice.json")
    del values["folds"]  # as advice was written before
    _files.write_json(one.path / "advice.json", values)
    assert load_advice(one.path).folds is None
    assert find_advice(*about) == find_advice(*about, 3) == one.path


def test_the_same_race_is_not_run_again(demo, raced, cache, monkeypatch):
    advice, runs_dir = raced
    monkeypatch.setattr(evaluation, "run_race", lambda *_, **__: pytest.fail("run again"))
    again = advise_freeze(demo, BASE, method="race", runs_dir=runs_dir, cache_dir=cache)
    assert again.created == advice.created


def test_one_learning_rate_and_no_epochs(demo, cache, tmp_path):
    with pytest.raises(ConfigError, match="epochs to at least 1"):
        race.plan_race(demo, dataclasses.replace(BASE, epochs=0), SweepConfig(), tmp_path)
    plan = race.plan_race(demo, dataclasses.replace(BASE, learning_rate=1e-3, epochs=1), SweepConfig(), tmp_path)
    table = race.run_race(plan, demo, cache_dir=cache)
    assert (table.loc["0":"5", "learning_rate"] == 1e-3).all()
    assert table["short"].notna().all()
    assert find_sweep(tmp_path) is None  # though its trials, as long as the trainings, have ended


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "method must be one of features, race, heatmap"),
        ({"method": "race", "model": "runs/x"}, "take a finished run that was trained on other images"),
        ({"max_calls": 5000}, "max_calls limits the method heatmap alone"),
        ({"cost_weight": -1}, "cost_weight must be at least 0"),
    ],
)
def test_arguments_that_do_not_fit(demo, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        advise_freeze(demo, BASE, runs_dir=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_costs_of_training():
    costs = training_costs((64, 64))
    assert costs["0"] == 1
    assert costs["3"] == pytest.approx(6.0 / 15.3, abs=0.01)  # Block 4 and 5 of VGG16's 15.3 billion
    assert costs["5"] == costs["frozen-all-blocks"] == 0


@pytest.mark.parametrize(
    ("images", "training", "sweep", "method"),
    [
        (150, {}, {}, "race"),
        (4000, {}, {}, "features"),
        (150, {"epochs": 3}, {}, "features"),  # the race would be whole trainings
        (150, {"patience": 2}, {}, "features"),
        (1000, {}, {"learning_rates": (1e-2, 1e-3, 1e-4)}, "features"),
        (1000, {}, {"learning_rates": "own"}, "race"),
        (150, {}, {"folds": 3}, "race"),
        (150, {}, {"folds": 40}, "features"),  # 38 times all images
        (150, {}, {"engine": "ray"}, "features"),
    ],
)
def test_the_race_is_the_default_where_it_is_short(images, training, sweep, method, monkeypatch, demo):
    monkeypatch.setattr(type(demo), "indices", lambda self, split: np.arange(images))
    assert _quick_method(demo, TrainConfig(weights="random", **training), SweepConfig(**sweep)) == method


def test_advice_at_other_rates_is_other_advice(demo, cache, tmp_path):
    sweeps = [SweepConfig(), SweepConfig(learning_rates="own"), SweepConfig(learning_rates=(1e-5,))]
    store = FeatureCache(cache, 1.0)
    made = [Evaluation(demo, BASE, sweep, tmp_path, store, 0.01).identity for sweep in sweeps]
    assert made[0] != made[1] != made[2] != made[0]


def test_the_cost_weight_of_the_command_line_is_that_of_python():
    assert signature(advise).parameters["cost_weight"].default == 100 * COST_WEIGHT


def test_the_cost_of_a_race_by_hand():
    macs = multiply_adds((32, 32))
    every = sum(macs.values()) + sum(sum(macs[b] for b in range(k, 6)) for k in range(2, 6))  # Block 5 frozen: none
    assert race_cost(10, (32, 32)) == pytest.approx(10 * every * 3 * 2 * 3)  # passes, rates, epochs
