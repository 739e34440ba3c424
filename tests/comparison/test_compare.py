"""Comparisons: factors checked before anything is trained, one table of all cells, and losses that are the same function."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import finish, start, wait_for, xaitune

from xaitune.comparison.comparison import compare, plan_comparison
from xaitune.comparison.comparison_table import has_converged, load_comparison
from xaitune.comparison.factors import check_factors, parse_factors, part_name, parts_of
from xaitune.comparison.table import load_sweep
from xaitune.config.settings import SweepConfig, TrainConfig
from xaitune.errors import ConfigError, RunError
from xaitune.models.vgg import build_vgg16
from xaitune.report.gather import find_comparisons, report_on
from xaitune.report.page import write_report
from xaitune.training.network import Network
from xaitune.training.run import load_run

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


def test_the_two_cross_entropies_have_equal_gradients(demo):
    """On the same model and batch, for every trained variable."""
    network = Network(build_vgg16(len(demo.class_names), image_size=demo.image_size, weights="slim"), "float32")
    part, rows = network.part(4, cut=False), demo.indices("train")[:16]
    images, weight = demo.load(rows).astype(np.float32), np.ones(len(rows), np.float32)
    one_hot = np.eye(len(demo.class_names), dtype=np.float32)[demo.labels[rows]]
    values = []
    for loss, targets in zip(LOSSES, (one_hot, demo.labels[rows].astype(np.int64)), strict=True):
        gradients = part.gradients(dataclasses.replace(BASE, loss=loss))
        (value, *_), arrays = gradients.compute(images, targets, weight)
        values.append([np.asarray(value), *(np.asarray(a) for a in arrays)])
    assert np.abs(values[0][1]).max() > 0
    for categorical, sparse in zip(*values, strict=True):
        np.testing.assert_allclose(categorical, sparse, rtol=1e-4, atol=1e-6)


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


def test_values_are_shown_as_they_were_given(demo, tmp_path):
    """None stays none, and the optimizer's own rate stays own, beside the number that it is."""
    factors = {"class_weight": [None, "share"], "learning_rate": ["own", 1e-4]}
    table = compare(demo, dataclasses.replace(BASE, epochs=1), factor=factors, seeds=1, runs_dir=tmp_path)
    shown = table.table()
    assert shown["class_weight"].tolist() == ["none", "none", "share", "share"]
    assert shown["learning_rate"].tolist() == ["own", "0.0001"] * 2
    assert shown["rate"].tolist() == ["0.001", "0.0001"] * 2
    with pytest.raises(ConfigError, match="values belong to a factor that is named"):
        compare(demo, BASE, factor=factors, values=[1], runs_dir=tmp_path)


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
    table = compare(demo, BASE, factor=factors, seeds=1, learning_rates="own", runs_dir=tmp_path)
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
    assert not has_converged(history([], [2.4, 2.39, 2.38]))
    assert has_converged(history([], [2.4, 1.2, 1.1]))
    assert has_converged(history([2.0], []))
    assert has_converged(history([2.0], [2.0, 2.0]))  # too short to say


PRESET_VALUES = ("lenet5-tanh-sgd", "vgg16-random", "vgg16-features", "vgg16-block3-final")


def test_presets_are_the_freezing_studys_models():
    """Each sets what it names; networks from random weights leave out what the others need."""
    train = TrainConfig(weights="slim", head="fc", epochs=7)
    parts = {values["architecture"]: base for values, base in parts_of({"architecture": PRESET_VALUES}, train)}
    shown = ("architecture", "weights", "head", "freeze_through", "final_epochs", "epochs")
    assert [tuple(getattr(parts[name], field) for field in shown) for name in PRESET_VALUES] == [
        ("lenet5-tanh", "random", "gap", 0, 0, 7),
        ("vgg16", "random", "fc", 0, 0, 7),
        ("vgg16", "slim", "fc", 5, 0, 7),
        ("vgg16", "slim", "fc", 3, 10, 7),
    ]
    assert (parts["lenet5-tanh-sgd"].optimizer, parts["lenet5-tanh-sgd"].rate) == ("sgd", 0.01)
    with pytest.raises(ConfigError, match="architecture lenet5-tanh-sgd sets optimizer itself"):
        check_factors({"architecture": PRESET_VALUES, "optimizer": ["nag"]})
    with pytest.raises(ConfigError, match="Did you mean 'vgg16-features'"):
        check_factors({"architecture": ["vgg16-feature"]})


def test_kerass_rates_stand_beside_our_own(demo, tmp_path):
    rates = parse_factors(["optimizer", "learning_rate"], ["adam,nag", "own,keras"])
    assert rates["learning_rate"] == (None, "keras")
    chosen = [
        TrainConfig(optimizer=o, learning_rate=r).rate for o in rates["optimizer"] for r in rates["learning_rate"]
    ]
    assert chosen == [3e-5, 1e-3, 1e-3, 1e-2]
    plan = plan_comparison(demo, rates, SweepConfig(seeds=1), BASE, runs_dir=tmp_path)
    assert plan.total == 4
    assert sorted(run.rate for _, part in plan.parts for cell in part.cells for run in cell) == sorted(chosen)
    with pytest.raises(ConfigError, match=r"learning_rate must be above 0, at most 10, or own .* or keras"):
        TrainConfig(learning_rate="own rate")


@pytest.fixture(scope="module")
def architectures(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("architectures")
    return compare(
        demo, BASE, factor="architecture", values=["lenet5-relu-adam", "vgg16-features"], seeds=2, runs_dir=folder
    )


def test_architectures_in_one_table(architectures):
    """The scores are means over the runs' own; a preset's rate is the only one that is tried."""
    table = architectures
    assert table.cells["name"].tolist() == ["lenet5-relu-adam", "vgg16-features"]
    assert table.cells["rate"][0] == 1e-3
    scores = table.scores()
    runs = [load_run(table.path / "architecture=lenet5-relu-adam" / run) for run in table.cells["runs"][0]]
    assert [run.config.architecture for run in runs] == ["lenet5-relu"] * 2
    for column, of in (("train", "train"), ("validation", "validation"), ("test", "test")):
        by_hand = np.mean([run.metrics[of]["accuracy"] for run in runs])
        assert scores.loc["lenet5-relu-adam", column] == pytest.approx(by_hand)
    by_hand = np.mean([run.metrics["test"]["f1_weighted"] for run in runs])
    assert scores.loc["lenet5-relu-adam", "f1_weighted"] == pytest.approx(by_hand)


def test_its_report_and_its_section_in_another(architectures, demo, run, tmp_path):
    page = report_on(architectures.path, architectures.path.parent)[0].read_text(encoding="utf-8")
    best = architectures.best["name"]
    assert architectures.lines()[0] in re.sub(r"<[^>]+>", "", page)  # without the glossary's marks
    assert 'id="comparison"' in page
    for name, row in architectures.scores().iterrows():
        assert f'<th scope="row">{name}</th><td>{row["loss"]:.3f}</td><td>{row["train"]:.3f}</td>' in page
    assert f'<tr class="mark"><th scope="row">{best}</th>' in page
    assert find_comparisons(architectures.path.parent, demo.fingerprint)[0].path == architectures.path
    assert not find_comparisons(architectures.path.parent, "of other images")
    other = write_report(run, tmp_path / "report.html", comparisons=[architectures]).read_text(encoding="utf-8")
    assert "Comparison: architecture" in other
    assert f"<h2>{architectures.lines()[0]}" not in other


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_a_killed_comparison_is_resumed(demo, tmp_path):
    """kill -9 midway: the runs that had ended are not trained again, and the table is that of an undisturbed one."""
    where = [demo.config.path, "--groups", demo.config.groups, "--image-size", "32x32", "--runs-dir", tmp_path]
    options = "--weights slim --freeze-through 4 --head-epochs 1 --epochs 3 --precision float32 --seeds 2"
    factors = "--learning-rates own --factor loss --values categorical_crossentropy,focal"
    command = ["compare", *where, *options.split(), *factors.split()]
    process = start(tmp_path, *command)
    pattern = "comparison/*/*/result.json"
    try:
        wait_for(lambda: list(tmp_path.glob(pattern)) or process.poll() is not None)
        process.kill()
    finally:
        finish(process)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob(pattern)}
    assert 1 <= len(before) < 4
    answer = xaitune(tmp_path, *command, "--json")
    assert answer.status == 0, answer.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(tmp_path.glob(pattern))) == 4
    train = TrainConfig(weights="slim", freeze_through=4, head_epochs=1, epochs=3, precision="float32")
    values = ["categorical_crossentropy", "focal"]
    options = {"factor": "loss", "values": values, "seeds": 2, "learning_rates": "own"}
    whole = compare(demo, train, runs_dir=tmp_path / "whole", **options)
    resumed = load_comparison(tmp_path / "comparison")
    for column in ("validation", "test"):
        np.testing.assert_allclose(resumed.cells[column], whole.cells[column], atol=1e-6)
    assert [cell["name"] for cell in answer.json["cells"]] == values


def test_a_folder_of_another_kind_is_refused(tmp_path, run):
    with pytest.raises(RunError, match="is not a comparison's folder"):
        load_comparison(run.path)
