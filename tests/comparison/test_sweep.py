"""Sweeps: the grid, the table and the check of the advice, against independently computed figures."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from xaitune import _files
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import check_advice, save_check
from xaitune.advise.recommended import recommended_model
from xaitune.comparison.cost import RUN_SECONDS, run_cost, run_seconds
from xaitune.comparison.grid import base_config, grid_runs
from xaitune.comparison.plan import has_ended
from xaitune.comparison.sweep import sweep_freeze
from xaitune.comparison.table import find_sweep, load_sweep
from xaitune.comparison.verdict import images_needed
from xaitune.config.settings import DataConfig, SweepConfig, TrainConfig
from xaitune.errors import ConfigError, DataError, RunError
from xaitune.models.blocks import CHANNELS, multiply_adds
from xaitune.stats import comparisons
from xaitune.stats import intervals as stats
from xaitune.stats.metrics import classification_metrics
from xaitune.training import folder as runs

NAMES = ("crack", "dent", "hole")
BASE = TrainConfig(weights="slim", head_epochs=1, epochs=1, precision="float32")
FINGERPRINT, WEIGHTS = "f" * 16, "w" * 12


def images(count, groups, seed=0):
    """True classes and group names of a split with `groups` groups of equal size."""
    true = np.random.default_rng(seed).permutation(np.arange(count) % len(NAMES))
    return true, np.array([f"part {i % groups:02d}" for i in range(count)])


def answers(true, wrong):
    """The true classes, except that the first `wrong` images get the next class."""
    predicted = true.copy()
    predicted[:wrong] = (predicted[:wrong] + 1) % len(NAMES)
    return predicted


def write_run(folder, config, validation_wrong, test_predicted, test_true, test_groups, seconds=1.0):
    """Write the files of a finished run with these predictions."""
    splits = {"train": images(12, 4), "validation": images(30, 10, 1), "test": (test_true, test_groups)}
    predicted = {"train": splits["train"][0], "validation": answers(splits["validation"][0], validation_wrong)}
    predicted["test"] = test_predicted
    metrics, rows = {}, []
    for split, (true, groups) in splits.items():
        probabilities = np.eye(len(NAMES))[predicted[split]] * 0.7 + 0.1
        metrics[split] = classification_metrics(true, probabilities, NAMES)
        frame = {"file": [f"{split}/{i}.png" for i in range(len(true))], "group": groups, "split": split}
        frame |= {"true": np.array(NAMES)[true], "predicted": np.array(NAMES)[predicted[split]]}
        rows.append(pd.DataFrame(frame | {f"p({n})": probabilities[:, i] for i, n in enumerate(NAMES)}))
    path = folder / runs.run_name(config, with_rate=config.learning_rate is not None)
    identity = {"fingerprint": FINGERPRINT, "weights": WEIGHTS, "learning_rate": config.rate}
    contents = {"identity": identity, "train": dataclasses.asdict(config), "data": dataclasses.asdict(DataConfig())}
    _files.write_json(path / "config.json", contents | {"class_names": NAMES})
    _files.write_json(path / "metadata.json", {"precision": "float32", "weights_digest": WEIGHTS})
    _files.write_csv(path / "history.csv", pd.DataFrame({"stage": ["fine-tune"], "epoch": [1], "seconds": [seconds]}))
    _files.write_csv(path / "predictions.csv", pd.concat(rows, ignore_index=True))
    _files.write_json(path / runs.RESULT, {"state": "finished", "metrics": metrics, "seconds": seconds})


def write_sweep(folder, cells, count=60, groups=20, started="2026-01-02T00:00:00+00:00", metric="f1_macro"):
    """Write a sweep of (depth, optimizer) -> (number wrong on validation, [test predictions, one per seed], seconds)."""
    true, names = images(count, groups, 2)
    identity = {"fingerprint": FINGERPRINT, "weights": WEIGHTS}
    _files.write_json(folder / "config.json", {"identity": identity, "started": started, "class_names": NAMES})
    for (depth, optimizer), (wrong, predicted, seconds) in cells.items():
        for seed, answer in enumerate(predicted):
            config = dataclasses.replace(BASE, freeze_through=depth, optimizer=optimizer, seed=seed, metric=metric)
            write_run(folder, config, wrong, answer, true, names, seconds)
    return load_sweep(folder)


def advice(freeze_through, created="2026-01-01T00:00:00+00:00", **other):
    """Advice without its evidence."""
    values = {"confidence": 0.8, "evidence": pd.DataFrame(), "votes": {}, "reasons": "", "method": "heatmap"}
    values |= {"measure": "localisation", "fingerprint": FINGERPRINT, "weights": WEIGHTS, "image_size": (32, 32)}
    values |= {"images": 10, "groups": 10, "model_calls": 60, "created": created, "freeze_through": freeze_through}
    return FreezeAdvice(**(values | other))


TRUE, GROUPS = images(60, 20, 2)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """3 depths x 2 optimizers x 2 seeds with known predictions."""
    cells = {
        (3, "nag"): (2, [answers(TRUE, 3), answers(TRUE, 5)], 30.0),  # best on validation
        (3, "sgd"): (4, [answers(TRUE, 1), answers(TRUE, 2)], 30.0),  # better on test, which must not matter
        (4, "nag"): (5, [answers(TRUE, 4), answers(TRUE, 5)], 20.0),
        (4, "sgd"): (6, [answers(TRUE, 9), answers(TRUE, 9)], 20.0),
        (5, "nag"): (9, [answers(TRUE, 40), answers(TRUE, 42)], 5.0),
        (5, "sgd"): (8, [answers(TRUE, 44), answers(TRUE, 44)], 5.0),
    }
    return write_sweep(tmp_path_factory.mktemp("table") / "sweep", cells)


def test_the_layout_of_the_table(table):
    """Frozen blocks x optimizer, with the optimizers in the order of OPTIMIZERS, not of the alphabet."""
    layout = table.table()
    assert list(layout.index) == [3, 4, 5]
    assert list(layout.columns) == ["sgd", "nag"]
    assert layout.loc[4, "sgd"] == pytest.approx(table.cell(4, "sgd")["test"])
    assert len(table.runs) == 12
    assert (table.groups, table.images) == (20, 60)


def test_means_and_intervals_come_from_stats(table):
    for depth, optimizer, wrong in ((3, "nag", (3, 5)), (5, "sgd", (44, 44))):
        predicted = np.stack([answers(TRUE, w) for w in wrong])
        interval = stats.bootstrap_interval(TRUE, predicted, GROUPS, "f1_macro")
        cell = table.cell(depth, optimizer)
        assert cell["test"] == pytest.approx(interval.value)
        assert (cell["low"], cell["high"]) == (interval.low, interval.high)
        by_seed = [classification_metrics(TRUE, np.eye(3)[p] * 0.7 + 0.1, NAMES)["f1_macro"] for p in predicted]
        assert cell["scores"] == pytest.approx(by_seed)  # the score of every seed
        assert cell["test"] == pytest.approx(np.mean(by_seed))
        assert cell["seeds"] == 2


def test_the_best_is_chosen_on_validation(table):
    assert table.best["name"] == "freeze3-nag"
    assert table.cells["test"].idxmax() != table.cells["validation"].idxmax()


def test_equals_are_the_cells_whose_interval_reaches_zero(table):
    best = np.stack([answers(TRUE, 3), answers(TRUE, 5)])
    equal = set()
    for row in table.cells.itertuples():
        names = table.runs.query("freeze_through == @row.freeze_through and optimizer == @row.optimizer")["name"]
        predicted = np.stack([table.predictions(n).query("split == 'test'")["predicted"] for n in names])
        numbers = np.vectorize(NAMES.index)(predicted)
        gap = table.paired(table.cells).difference(row.name, "freeze3-nag")
        assert (row.difference, row.diff_low, row.diff_high) == pytest.approx((gap.difference, gap.low, gap.high))
        assert gap.difference == pytest.approx(comparisons.paired_bootstrap(numbers, best, TRUE, GROUPS).difference)
        if gap.high >= 0:
            equal.add(row.name)
    assert set(table.equals["name"]) == equal >= {"freeze3-nag", "freeze3-sgd"}
    assert not equal & {"freeze5-nag", "freeze5-sgd"}
    assert list(table.equals["seconds"]) == sorted(table.equals["seconds"])  # the cheapest first


# ---- the verdict


MANY, MANY_GROUPS = images(3000, 1000, 2)


def alike(wrong, other):
    """The true classes of MANY, except for `wrong` images that all models miss and some `other` ones."""
    predicted = MANY.copy()
    missed = [*range(wrong), *other]
    predicted[missed] = (predicted[missed] + 1) % 3
    return predicted


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """3 depths x 2 seeds on 3,000 test images: 3 and 4 are alike, 5 misses 300 images more."""
    shared = range(2000, 2010)
    cells = {
        (3, "nag"): (2, [alike(600, [2100]), alike(600, [2101])], 30.0),  # best on validation
        (4, "nag"): (5, [alike(600, shared), alike(600, shared)], 20.0),
        (5, "nag"): (9, [alike(900, []), alike(901, [])], 5.0),
    }
    folder = tmp_path_factory.mktemp("wide") / "sweep"
    return write_sweep(folder, cells, count=3000, groups=1000, metric="accuracy")


def test_confirmed(wide):
    check = check_advice(advice(3), wide)
    assert (check.verdict, check.advised, check.rival) == ("confirmed", 3, 4)
    assert check.optimizers == {3: "nag", 4: "nag", 5: "nag"}  # the best one on validation for each depth
    assert check.difference.difference == pytest.approx(9 / 3000)
    assert set(check.lower_bounds) == {4, 5}
    assert check.lower_bounds[5] > 0.08  # 300 of 3,000 images
    assert check.lowest == (4, check.lower_bounds[4])
    assert -0.01 < check.lower_bounds[4] < check.interval[0] + 1e-9  # of several bounds at once each is lower
    assert check.best["name"] == "freeze3-nag"
    assert check.test_images_needed is None
    assert check.seeds == 2
    first, second = check.mcnemar  # the rival alone misses ten images, the advised depth one of its own
    assert (first["advised_only"], first["rival_only"]) == (second["advised_only"], second["rival_only"]) == (10, 1)
    assert first["p"] == pytest.approx(2 * 12 / 2**11)
    sentence = check.sentence()
    assert sentence.startswith(
        "The sweep confirms the advice to freeze Block 1-3 (nag): no other depth is more than 1 point"
    )
    assert "(by these figures Block 1-4 could be " in sentence
    assert " above Block 1-4 (nag), the best of the others on validation [95 % interval: " in sentence
    assert "Measured on 3,000 test images in 1,000 groups, with 2 seeds." in sentence


def test_enough_is_the_cheapest_cell_shown_to_be_within_the_margin(wide, table):
    """Depth 4 is cheaper than 3 and within a point of it; depth 5 is cheaper still and worse. 60 images show nothing."""
    assert wide.enough["name"] == "freeze4-nag"
    assert wide.cells.set_index("name")["lowest"]["freeze5-nag"] < -0.05
    assert (
        check_advice(advice(3), wide)
        .sentence()
        .endswith("within 1 point of all the others is Block 1-4 frozen with nag.")
    )
    assert table.enough is None
    assert "no cheaper one can be recommended." in check_advice(advice(3), table).sentence()


def test_contradicted(table):
    check = check_advice(advice(5), table)
    assert (check.verdict, check.rival) == ("contradicted", 3)
    assert check.optimizers == {5: "sgd", 3: "nag", 4: "nag"}  # at depth 5 sgd is better on validation
    assert check.interval[1] < 0
    a, b = np.stack([answers(TRUE, 44)] * 2), np.stack([answers(TRUE, 3), answers(TRUE, 5)])
    expected = comparisons.paired_bootstrap(a, b, TRUE, GROUPS, "f1_macro")
    assert check.difference.difference == pytest.approx(expected.difference)
    assert check.difference.group_error == pytest.approx(expected.group_error)
    assert "contradicts" in check.sentence()
    p = [comparisons.mcnemar_exact(answers(TRUE, 44) == TRUE, answers(TRUE, wrong) == TRUE) for wrong in (3, 5)]
    assert [row["p"] for row in check.mcnemar] == p
    assert [row["rival_only"] for row in check.mcnemar] == [41, 39]


def test_cannot_tell(tmp_path):
    """Each is wrong on 12 images of different groups: the accuracies are equal and the interval is wide."""
    a, b = TRUE.copy(), TRUE.copy()
    a[:12] = (a[:12] + 1) % 3
    others = [*range(32, 40), *range(52, 56)]  # in the groups where `a` is correct
    b[others] = (b[others] + 1) % 3
    table = write_sweep(tmp_path / "sweep", {(2, "nag"): (1, [a], 9.0), (4, "nag"): (2, [b], 3.0)}, metric="accuracy")
    check = check_advice(advice(2), table)
    assert check.verdict == "cannot tell"
    assert check.difference.difference == pytest.approx(0)
    low, high = check.interval
    assert low < -0.01 < 0 < high
    assert check.test_images_needed == images_needed(check.difference.group_error, 0.0, 60)
    assert check.test_images_needed > 60
    assert f"about {check.test_images_needed:,} test images would be needed" in check.sentence()
    assert "with 1 seed: this is about these trained models, not about other trainings." in check.sentence()


def test_ten_images_that_both_have_right_confirm_nothing(tmp_path):
    true = images(10, 10, 2)[0]
    cells = {(3, "nag"): (1, [true, true], 9.0), (4, "nag"): (2, [true, true], 3.0)}
    check = check_advice(advice(3), write_sweep(tmp_path / "sweep", cells, count=10, groups=10, metric="accuracy"))
    assert check.verdict == "cannot tell"
    assert check.difference.few == "10 groups, 0 groups with a mistake"
    assert check.interval[0] < -0.2


def test_confirmed_means_against_every_depth(tmp_path):
    """Depth 4 is best on validation and equal on test, depth 5 third on validation and 3 points better: not confirmed."""
    cells = {
        (3, "nag"): (4, [alike(600, [2100])], 30.0),
        (4, "nag"): (2, [alike(600, [2101])], 20.0),
        (5, "nag"): (9, [alike(510, [])], 5.0),
    }
    check = check_advice(advice(3), write_sweep(tmp_path / "sweep", cells, count=3000, groups=1000, metric="accuracy"))
    assert check.rival == 4
    assert check.interval[0] > -0.01
    assert check.lowest[0] == 5
    assert check.verdict == "cannot tell"


def test_other_data_or_weights_are_refused(table):
    with pytest.raises(DataError, match="different data or weights"):
        check_advice(advice(3, fingerprint="0" * 16), table)
    with pytest.raises(DataError, match="different data or weights"):
        check_advice(advice(3, weights="other"), table)


def test_a_sweep_without_the_advised_depth_is_refused(table, tmp_path):
    with pytest.raises(ConfigError, match=r"advised depth 1 and at least one other\. It contains: 3, 4, 5\."):
        check_advice(advice(1), table)
    alone = write_sweep(tmp_path / "sweep", {(3, "nag"): (1, [TRUE], 1.0)})
    with pytest.raises(ConfigError, match=r"advised depth 3 and at least one other\. It contains: 3\."):
        check_advice(advice(3), alone)


def test_advice_that_was_made_after_the_sweep_is_flagged(table):
    late = check_advice(advice(3, created="2026-01-03T00:00:00+00:00"), table)
    assert not late.advice_made_first
    assert "this is not a blind test" in late.sentence()
    first = check_advice(advice(3), table)
    assert first.advice_made_first
    assert "blind test" not in first.sentence()


def test_check_json(wide):
    check = check_advice(advice(3), wide)
    save_check(check, wide.path)
    saved = json.loads((wide.path / "check.json").read_text(encoding="utf-8"))
    assert saved["verdict"] == "confirmed"
    assert saved["lower_bounds"] == {str(depth): bound for depth, bound in check.lower_bounds.items()}
    assert saved["sentence"] == check.sentence()
    assert saved["difference"]["low"] == check.difference.low
    assert saved["mcnemar"][0] == check.mcnemar[0]


# ---- several learning rates


def write_rates(folder, cells):
    """Write a sweep of (depth, rate) -> [(number wrong on validation, number wrong on test), one per seed]."""
    identity = {"fingerprint": FINGERPRINT, "weights": WEIGHTS}
    contents = {"identity": identity, "started": "2026-01-02T00:00:00+00:00", "class_names": NAMES}
    _files.write_json(folder / "config.json", contents)
    for (depth, rate), seeds in cells.items():
        for seed, (validation, test) in enumerate(seeds):
            config = dataclasses.replace(BASE, freeze_through=depth, learning_rate=rate, seed=seed)
            write_run(folder, config, validation, answers(TRUE, test), TRUE, GROUPS)
    return load_sweep(folder)


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """2 depths x 2 rates x 2 seeds: the rate that is worse on test has the better validation mean, which decides."""
    cells = {(3, 1e-3): [(0, 9), (8, 9)], (3, 1e-5): [(3, 20), (3, 22)]}
    cells |= {(4, 1e-3): [(5, 9), (5, 9)], (4, 1e-5): [(9, 1), (9, 2)]}
    return write_rates(tmp_path_factory.mktemp("rated") / "sweep", cells)


def test_a_cell_describes_the_rate_that_is_best_on_validation(rated):
    assert sorted(rated.runs["name"])[:2] == ["freeze3-nag-lr0.001-seed0", "freeze3-nag-lr0.001-seed1"]
    assert "freeze4-nag-lr1e-05-seed0" in set(rated.runs["name"])
    assert list(rated.cells["name"]) == ["freeze3-nag", "freeze4-nag"]
    assert list(rated.cells["learning_rate"]) == [1e-5, 1e-3]  # 3 + 3 wrong are fewer than 0 + 8
    assert list(rated.cells["rates"]) == [2, 2]
    expected = stats.bootstrap_interval(TRUE, np.stack([answers(TRUE, 20), answers(TRUE, 22)]), GROUPS, "f1_macro")
    cell = rated.cell(3, "nag")
    assert (cell["test"], cell["low"], cell["high"]) == pytest.approx((expected.value, expected.low, expected.high))
    assert list(rated.cell_runs(3, "nag")["name"]) == ["freeze3-nag-lr1e-05-seed0", "freeze3-nag-lr1e-05-seed1"]
    assert recommended_model(rated).run.startswith("freeze3-nag-lr1e-05-")


def test_the_verdict_compares_the_best_rate_of_each_depth(rated):
    check = check_advice(advice(3), rated)
    a, b = (np.stack([answers(TRUE, w) for w in wrong]) for wrong in ((20, 22), (9, 9)))
    assert check.difference == comparisons.paired_bootstrap(a, b, TRUE, GROUPS, "f1_macro")
    assert check.learning_rates == {3: 1e-5, 4: 1e-3}
    assert "the advice to freeze Block 1-3 (nag at 1e-05)" in check.sentence()
    assert " Block 1-4 (nag at 0.001), the best of the others on validation" in check.sentence()
    save_check(check, rated.path)
    assert json.loads((rated.path / "check.json").read_text())["learning_rates"] == {"3": 1e-5, "4": 1e-3}


def test_a_rate_that_diverged_or_lacks_a_seed_is_not_chosen(tmp_path):
    folder = tmp_path / "sweep"
    write_rates(folder, {(3, 1e-3): [(0, 9)], (3, 1e-4): [(4, 9), (4, 9)], (3, 1e-2): [(0, 9), (0, 9)]})
    diverged = folder / "freeze3-nag-lr0.01-seed1"
    _files.write_json(diverged / runs.RESULT, {"state": "diverged", "metrics": {}, "seconds": 1.0})
    (diverged / "predictions.csv").unlink()
    cell = load_sweep(folder).cell(3, "nag")
    assert (cell["learning_rate"], cell["rates"], cell["seeds"]) == (1e-4, 3, 2)


def missing(folder, config, base):
    """The runs of the grid that have not ended in the folder."""
    return [run for run in grid_runs(config, base) if not has_ended(run, folder)]


def test_the_grid_of_several_rates_and_its_missing_runs(tmp_path):
    several = SweepConfig(freeze_through=(3, 4), optimizers="nag", seeds=1, learning_rates="1e-2,1e-3")
    notes = []
    base = base_config(dataclasses.replace(BASE, learning_rate=0.5, final_epochs=2), several, notes.append)
    assert (base.learning_rate, base.final_epochs) == (None, 0)
    assert notes[1] == "learning_rate is ignored: each combination tries the learning_rates of the sweep."
    grid = grid_runs(several, base)
    assert [(c.freeze_through, c.learning_rate) for c in grid] == [(4, 1e-2), (4, 1e-3), (3, 1e-2), (3, 1e-3)]
    assert [runs.run_name(c, with_rate=True) for c in grid][-1] == "freeze3-nag-lr0.001-seed0"
    # A sweep at one rate has none in its run names; its runs at one of these rates are not missing.
    plain = dataclasses.replace(several, learning_rates="own")
    assert grid_runs(plain, BASE)[0] == dataclasses.replace(BASE, freeze_through=4, optimizer="nag", seed=0)
    write_sweep(tmp_path / "a", {(3, "nag"): (1, [TRUE], 1.0)})  # at nag's own 1e-3
    left = [(c.freeze_through, c.rate) for c in missing(tmp_path / "a", several, base)]
    assert left == [(4, 1e-2), (4, 1e-3), (3, 1e-2)]
    write_rates(tmp_path / "b", {(3, 1e-3): [(1, 1)], (4, 1e-2): [(1, 1)]})
    assert [c.freeze_through for c in missing(tmp_path / "b", plain, BASE)] == [4]


# ---- the folder


def test_runs_on_different_test_images_cannot_be_compared(tmp_path):
    write_sweep(tmp_path / "sweep", {(3, "nag"): (1, [TRUE], 1.0)})
    other, names = images(59, 20, 2)
    write_run(tmp_path / "sweep", dataclasses.replace(BASE, freeze_through=4), 1, other, other, names)
    with pytest.raises(DataError, match="were tested on different images, so they cannot be compared"):
        load_sweep(tmp_path / "sweep")


def test_diverged_and_failed_runs_are_listed_but_are_not_in_the_cells(tmp_path):
    folder = tmp_path / "sweep"
    write_sweep(folder, {(3, "nag"): (1, [TRUE], 1.0), (4, "nag"): (1, [TRUE, TRUE], 1.0)})
    result = folder / "freeze4-nag-seed1" / runs.RESULT
    _files.write_json(result, {"state": "diverged", "metrics": {}, "seconds": 1.0})
    (result.parent / "predictions.csv").unlink()
    _files.write_json(folder / "sweep.json", {"grid": {}, "failures": {"freeze5-nag-seed0": "memory ran out"}})
    table = load_sweep(folder)
    states = dict(zip(table.runs["name"], table.runs["state"], strict=True))
    assert states["freeze4-nag-seed1"] == "diverged"
    assert states["freeze5-nag-seed0"] == "failed: memory ran out"
    assert table.cell(4, "nag")["seeds"] == 1
    assert len(table.cells) == 2


def test_no_sweep_and_an_empty_one(tmp_path):
    with pytest.raises(RunError, match="is not a sweep's folder"):
        load_sweep(tmp_path)
    _files.write_json(tmp_path / "sweep/config.json", {"identity": {}, "started": "2026"})
    with pytest.raises(RunError, match=r"has no finished run yet\. Run 'xaitune sweep-freeze' again to continue\."):
        load_sweep(tmp_path / "sweep")
    assert find_sweep(tmp_path) is None


def test_find_sweep_takes_the_newest_on_that_data(table):
    assert find_sweep(table.path.parent) == table.path
    assert find_sweep(table.path.parent, FINGERPRINT) == table.path
    assert find_sweep(table.path.parent, "0" * 16) is None


def test_without_advice_the_recommended_run_is_the_best_seed_of_the_best_cell(table):
    chosen = recommended_model(table)
    runs = table.cell_runs(3, "nag").set_index("name")
    assert (chosen.depth, chosen.optimizer, chosen.run) == (3, "nag", runs["validation"].idxmax())


def test_grid_order():
    grid = grid_runs(SweepConfig(freeze_through=(1, 5), optimizers=("sgd", "nag"), seeds=2, learning_rates="own"), BASE)
    first = [(c.seed, c.freeze_through, c.optimizer) for c in grid[:4]]
    assert first == [(0, 5, "sgd"), (0, 5, "nag"), (0, 1, "sgd"), (0, 1, "nag")]
    assert len(grid) == 8
    assert {c.epochs for c in grid} == {1}


# ---- with real trainings


def test_a_larger_grid_the_same_grid_and_another_base(demo, tmp_path):
    """A larger grid trains only its missing runs, the same grid none; another base goes to another folder."""
    small = {"train": BASE, "runs_dir": tmp_path, "freeze_through": (4, 5), "optimizers": ("nag",), "workers": 1}
    small |= {"learning_rates": "own"}
    one = sweep_freeze(demo, seeds=1, **small)
    assert list(one.runs["name"]) == ["freeze4-nag-seed0", "freeze5-nag-seed0"]
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("sweep/*/result.json")}
    notes = []
    two = sweep_freeze(demo, seeds=2, notes=notes.append, **small)
    assert notes == ["4 of 6 runs are already finished."]  # two are linear heads
    assert len(two.runs) == 4
    assert list(two.cells["seeds"]) == [2, 2]
    assert {p: p.stat().st_mtime_ns for p in times} == times
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("sweep/*/result.json")}
    again = sweep_freeze(demo, seeds=2, **small)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("sweep/*/result.json")} == times
    pd.testing.assert_frame_equal(again.cells, two.cells)
    assert set(two.runs["train"].notna()) == {True}
    # All cells of a seed share the head, and all seeds the test images.
    heads = [two.history(f"freeze{k}-nag-seed0").query("stage == 'head'").drop(columns="seconds") for k in (4, 5)]
    pd.testing.assert_frame_equal(*heads)
    assert {tuple(two.predictions(n)["file"]) for n in two.runs["name"]} == {demo.files}
    # More rates for the same cells: the two trained runs at nag's own rate are not trained again.
    rates = sweep_freeze(demo, seeds=1, notes=notes.append, **small | {"learning_rates": "1e-3,1e-4"})
    assert notes[-1] == "2 of 4 runs are already finished."  # the linear heads: whether another rate is better is open
    new = {"freeze4-nag-lr0.0001-seed0", "freeze5-nag-lr0.0001-seed0"}
    assert set(rates.runs["name"]) - set(two.runs["name"]) == new
    assert list(rates.cells["rates"]) == [2, 2]
    other = sweep_freeze(demo, seeds=1, notes=notes.append, **small | {"train": dataclasses.replace(BASE, epochs=2)})
    assert other.path.name == "sweep-2"
    assert "epochs 1 -> 2" in notes[-1]
    with pytest.raises(RunError, match="epochs 1 -> 2"):
        sweep_freeze(demo, name="sweep", seeds=1, **small | {"train": dataclasses.replace(BASE, epochs=2)})


def test_the_estimate_counts_validation_and_the_last_predictions(demo):
    run, whole = TrainConfig(weights="slim", freeze_through=0), sum(multiply_adds(demo.image_size).values())
    about = (demo, demo.image_size, CHANNELS, 1.0)
    epochs, ended = run_seconds(run, *about, ends=False), run_seconds(run, *about)
    assert ended - epochs == pytest.approx(len(demo) * whole)
    trained = run_cost(run, len(demo.indices("train")), demo.image_size)
    judged = run.epochs * len(demo.indices("validation")) * whole
    assert epochs == pytest.approx(RUN_SECONDS + trained + judged)


def test_progress_of_each_run_and_the_best_so_far(demo, tmp_path):
    steps, messages = {}, []

    def run_progress(name, done, total, what):
        steps.setdefault(name, []).append((done, total))

    grid = {"freeze_through": (4, 5), "optimizers": ("nag",), "seeds": 1, "workers": 1, "learning_rates": "own"}
    base = TrainConfig(weights="slim", head_epochs=1, epochs=2, precision="float32")
    shares = []

    def progress(done, total, what):
        messages.append(what)
        shares.append(done / total)

    options = {"progress": progress, "run_progress": run_progress}
    table = sweep_freeze(demo, train=base, runs_dir=tmp_path, **options, **grid)
    for name in ("freeze4-nag-seed0", "freeze5-nag-seed0"):
        *before, end = steps[name]
        assert end[0] == end[1]
        assert before
        assert all(done < total for done, total in before)
    last = next(i for i, what in enumerate(messages) if what.startswith("4 of 4 runs done"))
    assert max(shares[:last]) < 1  # the last run's predictions are still to be made
    assert (shares[-1], shares) == (1, sorted(shares))
    best = table.runs.sort_values("validation")["name"].iloc[-1]
    assert messages[-1].startswith("4 of 4 runs done, best ")
    assert best in table.cells["name"].iloc[0] or best.startswith("freeze")
