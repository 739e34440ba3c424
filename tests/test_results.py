"""Result objects built by hand: their figures, tables, pictures and notebook views."""

import dataclasses
import html.parser
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from sklearn.metrics import f1_score

from xaitune._notebook import table_html
from xaitune.advise.advice import FreezeAdvice
from xaitune.advise.check import AdviceCheck
from xaitune.comparison.table import SweepTable
from xaitune.config.settings import DataConfig, TrainConfig
from xaitune.errors import ModelError
from xaitune.explain.heatmaps import BlockHeatmaps, unit_view
from xaitune.explain.lime.result import Superpixels
from xaitune.stats.comparisons import Difference
from xaitune.stats.intervals import wilson_interval
from xaitune.stats.metrics import classification_metrics
from xaitune.training.run import Run

CLASSES = ("<b>hole</b>", "균열", "no <defect>")


@pytest.fixture(autouse=True)
def no_figure_is_shown(monkeypatch):
    def show(*_, **__):
        raise AssertionError("a result must not call show()")

    monkeypatch.setattr(plt, "show", show)
    before = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == before
    plt.close("all")


@pytest.fixture
def run(tmp_path):
    true = np.arange(30) % 3
    probabilities = np.full((30, 3), 0.2)
    predicted = np.where(np.arange(30) % 5 == 0, (true + 1) % 3, true)
    probabilities[np.arange(30), predicted] = 0.6
    metrics = {split: classification_metrics(true, probabilities, CLASSES) for split in ("validation", "test")}
    epochs = {"stage": ["head", "fine-tune", "fine-tune"], "epoch": [1, 1, 2], "seconds": 1.0}
    curves = {"train_loss": [2, 1, 0.5], "val_loss": [2.1, 1.2, 0.9], "val_f1_macro": [0.2, 0.5, 0.7]}
    result = Run(
        path=tmp_path / "a <i>run",
        config=TrainConfig(weights="slim"),
        data_config=DataConfig(path="images"),
        fingerprint="f" * 16,
        class_names=CLASSES,
        state="finished",
        history=pd.DataFrame({**epochs, **curves}),
        metrics=metrics,
        predictions=pd.DataFrame(
            {
                "group": [f"g{i // 3}" for i in range(30)],
                "split": "test",
                "true": np.array(CLASSES)[true],
                "predicted": np.array(CLASSES)[predicted],
            }
        ),
        metadata={},
    )
    return result


@pytest.fixture
def maps():
    raw = {
        1: np.arange(2 * 8 * 12, dtype=np.float32).reshape(2, 8, 12) - 50,
        5: np.array([[[0, -1, 0], [-2, 0, 0]], [[1, 2, 4], [-8, 0, 3]]], np.float32),
    }
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
    share = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    return BlockHeatmaps("gradcam", raw, images, ("<a>.png", "b.png"), np.array([0, 2]), CLASSES, share)


@pytest.fixture
def superpixels():
    segments = np.kron(np.arange(4).reshape(2, 2), np.ones((8, 8), int))
    weights = np.array([[0.4, -0.2, 0.0, 0.1], [0.1, 0.1, 0.1, 0.2], [-0.1, -0.1, -0.1, -0.1]])
    image = np.full((1, 16, 16, 3), 90, np.uint8)
    interval = np.stack([weights - 0.05, weights + 0.05], axis=-1)
    share = np.array([[0.5, 0.3, 0.2]])
    scores, stability = np.array([[0.8, 0.1, 0.1]]), np.full((1, 3, 2), 0.95)
    parts = ((segments,), (weights,), (interval,), scores, stability, np.array([100]))
    return Superpixels(image, ("<a>.png",), np.array([0]), CLASSES, share, *parts)


@pytest.fixture
def advice():
    score = [0.2, 0.5, 0.7, 0.7, 0.4]
    table = {"score": score, "low": np.array(score) - 0.1, "high": np.array(score) + 0.1}
    evidence = pd.DataFrame(table, index=pd.Index(range(1, 6), name="block"))
    votes = {1: 0.0, 2: 0.2, 3: 0.4, 4: 0.4, 5: 0.0}
    ends = ("f" * 16, "slim", (64, 64), 40, 20, 123, "2025-01-02T03:04:05+00:00")
    return FreezeAdvice(3, 0.4, evidence, votes, "The <map> & the mask agree.", "heatmap", "average precision", *ends)


@pytest.fixture
def sweep(tmp_path):
    runs, cells = [], []
    for k, o, validation, test, equals, seconds in (
        (1, "nag", 0.60, 0.58, False, 90.0),
        (3, "nag", 0.80, 0.75, True, 50.0),
        (4, "nag", 0.78, 0.77, True, 30.0),
        (3, "sgd", 0.70, 0.71, False, 50.0),
    ):
        name = f"freeze{k}-{o}"
        cell = {"name": name, "freeze_through": k, "optimizer": o, "seeds": 1, "seconds": seconds, "equals": equals}
        figures = {"validation": validation, "test": test, "low": test - 0.1, "high": test + 0.1}
        cells.append({**cell, **figures, "difference": test - 0.75, "scores": [test]})
        run = {"name": f"{name}-seed0", "freeze_through": k, "optimizer": o, "seed": 0, "state": "finished"}
        runs.append({**run, "validation": validation, "test": test, "seconds": seconds})
    curve = pd.DataFrame({"stage": "fine-tune", "epoch": [1, 2], "train_loss": [1, 0.5], "val_f1_macro": [0.4, 0.7]})
    for run in runs:
        (tmp_path / run["name"]).mkdir()
        curve.to_csv(tmp_path / run["name"] / "history.csv", index=False)
    ends = (CLASSES, "f" * 16, "slim", 15, 30)
    return SweepTable(tmp_path, "f1_macro", pd.DataFrame(runs), pd.DataFrame(cells), *ends)


def make_check(**changes):
    options = {
        "verdict": "confirmed",
        "advised": 3,
        "rival": 1,
        "optimizers": {3: "nag", 1: "sgd"},
        "difference": Difference(0.013, -0.004, 0.03, 15, 30, seeds=2),
        "lower_bounds": {1: -0.006},
        "margin": 0.01,
        "metric": "f1_macro",
        "best": {"name": "freeze3-nag"},
        "enough": {"name": "freeze3-nag", "freeze_through": 3, "optimizer": "nag"},
        "test_images_needed": None,
    }
    return AdviceCheck(**{**options, **changes})


class Tags(html.parser.HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


OWN_TAGS = {"b", "p", "div", "table", "thead", "tbody", "tr", "th", "td", "style"}


def test_run(run):
    assert run.name == "a <i>run"
    with mock.patch("xaitune.models.model_files.load_model", lambda path: ("loaded", path)):
        assert run.model == ("loaded", run.path)
    assert run.model == ("loaded", run.path)  # loaded only once
    expected = f1_score(run.predictions["true"], run.predictions["predicted"], average="macro")
    assert run.score() == pytest.approx(expected)
    frame = run.to_dataframe()
    assert frame.index.tolist() == ["validation", "test"]
    assert frame.loc["test", "accuracy"] == pytest.approx(24 / 30)
    assert run.per_class().loc["균열", "support"] == 10
    assert run.per_class()["support"].dtype == int
    assert np.isnan(dataclasses.replace(run, metrics={}, state="diverged").score())


def test_the_sentence_of_a_run_has_the_score_and_its_intervals(run):
    sentence = run.sentence()
    low, high = wilson_interval(24, 30)
    assert sentence.startswith(f"Test macro F1 {run.score():.3f} [")
    assert f"over 10 groups, accuracy 0.800 [{low:.3f}, {high:.3f}] over 30 images." in sentence
    assert "too little data to rely on the interval of macro F1: only" in sentence  # ten groups are few
    by_accuracy = dataclasses.replace(run, config=TrainConfig(weights="slim", metric="accuracy")).sentence()
    assert by_accuracy.startswith("Test accuracy 0.800 [")
    assert by_accuracy.count("accuracy 0.800") == 1
    assert dataclasses.replace(run, state="diverged").sentence() == "The run is diverged: it has no score."


def test_a_table_in_a_notebook_says_what_it_leaves_out():
    table = pd.DataFrame({"file": [f"/data/<crack>/{i}.png" for i in range(25)], "weight": np.nan})
    text = table_html(table)
    assert text.count("<tr") == 21
    assert "20 of 25 rows" in text
    assert "&lt;crack&gt;/0.png" in text
    assert "/data/" not in text
    assert "<td>-</td>" in text
    assert "rows;" not in table_html(table.head(20))


def test_maps_and_their_views(maps):
    assert maps.blocks == (1, 5)
    assert len(maps) == 2
    assert maps.is_zero.tolist() == [[False, True], [False, False]]
    np.testing.assert_array_equal(maps.view[5][0], np.zeros((2, 3)))
    np.testing.assert_array_equal(maps.view[5][1], np.array([[0.25, 0.5, 1.0], [0, 0, 0.75]]))
    assert maps.view[1].min() == 0
    assert maps.view[1].max(axis=(1, 2)).tolist() == [1, 1]
    # A map with tiny values is not empty.
    np.testing.assert_allclose(unit_view(maps.raw[5] * 1e-30), maps.view[5], rtol=1e-5)
    assert maps.block(5).blocks == (5,)
    with pytest.raises(ModelError, match=r"Block 3 was not drawn\. Drawn: 1, 5\."):
        maps.block(3)


def test_upsampling_is_bilinear_and_stays_in_range(maps):
    up = maps.upsampled(5)
    assert up.shape == (2, 16, 24)
    assert up.min() == 0  # bicubic would be negative
    assert up.max() == 1
    np.testing.assert_allclose(
        up[1, 0], np.interp((np.arange(24) + 0.5) / 8 - 0.5, [0, 1, 2], [0.25, 0.5, 1]), atol=1e-6
    )
    assert maps.upsampled(5, view=False).min() == -8


def test_table_of_maps(maps):
    table = maps.to_dataframe()
    assert table["block"].tolist() == [1, 1, 5, 5]
    assert table["file"].tolist() == ["<a>.png", "b.png"] * 2
    assert table["class"].tolist() == [CLASSES[0], CLASSES[2]] * 2
    assert table["probability"].tolist() == [0.7, 0.3] * 2
    assert table["raw_max"].tolist() == [45, 141, 0, 4]
    assert table["is_zero"].tolist() == [False, False, True, False]


def test_superpixels_table_and_masks(superpixels):
    table = superpixels.to_dataframe()
    assert table["weight"].tolist() == [0.4, -0.2, 0.0, 0.1]
    assert table["area"].tolist() == [0.25] * 4
    share = superpixels.share()
    assert share.tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert share.index.tolist() == list(CLASSES)
    assert superpixels.top_mask(0, True, 1)[:8, :8].all()
    assert superpixels.top_mask(0, True, 1).sum() == 64
    assert superpixels.top_mask(0, True).sum() == 128  # a weight of 0 is neither positive nor negative
    assert superpixels.top_mask(0, False).sum() == 64
    assert superpixels.signed_map()[0, 15] == -0.2


def test_weights_are_drawn_from_the_largest_down_and_filled_where_they_are_clear(superpixels):
    ax = superpixels.plot_weights(count=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "3", "1"]  # 0.4, 0.1 and -0.2; not 0.0
    assert ax.get_title(loc="left") == "Weights for <b>hole</b>: the 3 largest of 4"
    marks = [lines[0].get_markerfacecolor() for lines in ax.containers]
    assert "white" not in marks  # intervals of 0.05 to either side exclude 0
    assert [lines[0].get_markerfacecolor() for lines in superpixels.plot_weights().containers].count("white") == 1


def test_arrays_are_read_only(maps, superpixels):
    arrays = [*maps.raw.values(), maps.images, maps.classes, maps.probabilities]
    arrays += [superpixels.images, superpixels.class_score, superpixels.class_stability, superpixels.samples]
    arrays += [superpixels.probabilities, superpixels.classes]
    arrays += [*superpixels.segments, *superpixels.class_weights, *superpixels.class_interval]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_results_are_frozen_and_compare_by_identity(run, maps, superpixels, advice, sweep):
    for result in (run, maps, superpixels, advice, sweep, make_check()):
        field = dataclasses.fields(result)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, field, None)
        assert result != dataclasses.replace(result)


def test_ranking(advice):
    assert advice.ranking == (3, 4, 2, 5, 1)  # by votes, then by score; ties from the front
    pd.testing.assert_frame_equal(advice.to_dataframe(), advice.evidence)


def test_sweep_table(sweep):
    assert sweep.best["name"] == "freeze3-nag"  # best on validation, though not on test
    assert sweep.equals["name"].tolist() == ["freeze4-nag", "freeze3-nag"]  # the cheapest first
    assert sweep.cell(3, "sgd")["test"] == 0.71
    table = sweep.table()
    assert table.columns.tolist() == ["nag", "sgd"]
    assert table.index.tolist() == [1, 3, 4]
    assert table.loc[3].tolist() == [0.75, 0.71]
    assert np.isnan(table.loc[1, "sgd"])
    assert sweep.table("validation").loc[3, "nag"] == 0.80
    with pytest.raises(ModelError, match=r"no finished combination freeze_through=5, optimizer='nag'"):
        sweep.cell(5, "nag")
    assert len(sweep.to_dataframe()) == 4


def test_a_cell_with_one_lucky_seed_is_not_the_best(sweep):
    cells = sweep.cells.assign(seeds=[3, 1, 3, 3])
    assert dataclasses.replace(sweep, cells=cells).best["name"] == "freeze4-nag"


def test_every_plot_returns_its_axes(run, maps, superpixels, advice, sweep):
    drawn = [run.plot, run.plot_history, run.plot_confusion_matrix, maps.plot, superpixels.plot, advice.plot]
    drawn += [superpixels.plot_weights]
    drawn += [sweep.plot, sweep.plot_histories, make_check().plot]
    for plot in drawn:
        assert isinstance(plot(), Axes)
        _, ax = plt.subplots()
        assert plot(ax) is ax


def test_sentences_name_blocks_and_metrics_as_everywhere_else():
    assert make_check().sentence() == (
        "The sweep confirms the advice to freeze Block 1-3 (nag): no other depth is more than 1 point of macro F1 better (by "
        "these figures Block 1 could be 0.6 points better). It scored 1.3 points of macro F1 above Block 1 (sgd), the best of "
        "the others on validation [95 % interval: 0.4 below to 3.0 above]. Measured on 30 test images in 15 groups, with 2 "
        "seeds. The cheapest combination that is shown to be within 1 point of all the others is Block 1-3 frozen with nag."
    )
    one = Difference(0.013, -0.004, 0.03, 15, 30)
    none = make_check(advised=0, optimizers={0: "nag", 1: "sgd"}, difference=one, metric="accuracy").sentence()
    assert "the advice to freeze nothing (nag): no other depth is more than 1 point of accuracy better" in none
    over = make_check(rival=0, optimizers={3: "nag", 0: "sgd"}, lower_bounds={0: -0.006}).sentence()
    assert "(by these figures freezing nothing could be 0.6 points better)" in over
    assert "above freezing nothing (sgd), the best of the others on validation" in over
    assert "with 1 seed: this is about these trained models, not about other trainings." in none
    unfinished = make_check(so_far="so far 6 of 8 runs have ended").sentence()
    assert (
        "The sweep is not finished: so far 6 of 8 runs have ended, and the others may change the verdict. Measured on"
        in unfinished
    )


def test_sentences_state_their_reservations():
    few = Difference(-0.02, -0.1, 0.06, 12, 30, "12 groups", 2)
    undecided = make_check(
        verdict="cannot tell", difference=few, test_images_needed=4000, advice_made_first=False, enough=None
    )
    sentence = undecided.sentence()
    assert sentence.startswith(
        "The sweep cannot tell whether the advice to freeze Block 1-3 (nag) is right. It scored "
    )
    assert "2.0 points of macro F1 below Block 1 (sgd), the best of the others on validation" in sentence
    assert "[95 % interval: 10.0 below to 6.0 above]. It would be confirmed if no other depth could be" in sentence
    assert "Do not rely on the interval: there is too little data, only 12 groups." in sentence
    assert (
        "If both depths are equally good, about 4,000 test images would be needed to show it to within 1 point."
        in sentence
    )
    assert "the advice was made after the sweep began, so this is not a blind test." in sentence
    assert sentence.endswith(
        "No combination of a depth and an optimizer is shown to be within 1 point of all the others, so no cheaper one can be "
        "recommended."
    )
    against = make_check(
        verdict="contradicted", enough={"name": "freeze4-nag", "freeze_through": 4, "optimizer": "nag"}
    ).sentence()
    assert against.startswith(
        "The sweep contradicts the advice to freeze Block 1-3 (nag). It scored 1.3 points of macro F1 above Block 1 (sgd)"
    )
    assert against.endswith("is shown to be within 1 point of all the others is Block 1-4 frozen with nag.")
    row = make_check().to_dataframe().iloc[0]
    assert (row["verdict"], row["advised"], row["rival"], row["groups"]) == ("confirmed", 3, 1, 15)
    assert make_check().interval == (-0.004, 0.03)


def test_notebook_views_escape_names_given_by_users(run, maps, superpixels, advice, sweep):
    views = {"run": run, "maps": maps, "superpixels": superpixels, "advice": advice, "sweep": sweep}
    views["check"] = make_check(
        optimizers={3: "<script>", 1: "sgd"}, best={"name": "<i>x"}, enough={"freeze_through": 4, "optimizer": "y&z"}
    )
    read = {name: Tags(result._repr_html_()) for name, result in views.items()}
    for name, page in read.items():
        assert set(page.tags) <= OWN_TAGS, name
    assert "a <i>run" in read["run"].text
    for name in ("maps", "superpixels"):
        assert "<b>hole</b>" in read[name].text
        assert "<a>.png" in read[name].text
        assert read[name].tags.count("b") == 1
    assert "The <map> & the mask agree." in read["advice"].text
    assert "<script>" in read["check"].text
    assert "y&z" in read["check"].text


def test_notebook_view_of_advice_names_a_single_block(advice):
    assert "Freeze Block 1-3 (confidence 40%)" in Tags(advice._repr_html_()).text
    one = Tags(dataclasses.replace(advice, freeze_through=1)._repr_html_()).text
    assert "Freeze Block 1 (confidence" in one
    assert "Block 1-1" not in one


def test_every_public_result_shows_itself_in_a_notebook():
    import xaitune

    public = (getattr(xaitune, name) for name in xaitune.__all__ if name != "__version__")
    classes = [each for each in public if isinstance(each, type) and not issubclass(each, Exception)]
    without = {each.__name__ for each in classes if not hasattr(each, "_repr_html_")}
    assert without == {
        "Config",
        "DataConfig",
        "SweepConfig",
        "TrackingConfig",
        "TrainConfig",
    }  # settings, whose repr is a call
