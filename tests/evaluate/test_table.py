"""Scores of explanations as one table: equal to those of `evaluate`, in chunks or at once."""

import numpy as np
import pandas as pd
import pytest

import xaitune as xt
from xaitune import evaluate
from xaitune.data.resize import map_to_image
from xaitune.errors import InputError
from xaitune.evaluate import table as module
from xaitune.evaluate.table import Scorer, draw_images, plan_effort, printable, score_maps, summarise
from xaitune.explain.heatmaps import BlockHeatmaps, unit_view

MASK_SCORES = ["mass_inside", "pointing_game", "average_precision", "best_iou", "iou_at_0.5"]
MODEL_SCORES = ["stability", "average_drop", "increase", "deletion", "insertion", "road"]


def heatmaps(raw, size=(2, 2), resize="stretch"):
    """Heatmaps with these raw values: block -> (n, h, w)."""
    n = len(next(iter(raw.values())))
    return BlockHeatmaps(
        method="gradcam",
        raw={b: np.array(m, np.float32) for b, m in raw.items()},
        images=np.zeros((n, *size, 3), np.uint8),
        files=tuple(f"{i}.png" for i in range(n)),
        classes=np.zeros(n, int),
        class_names=("a", "b"),
        probabilities=np.full((n, 2), 0.5),
        resize=resize,
    )


TWO = heatmaps({1: [[[4, 2], [1, 1]], [[-1, -1], [-1, 0]]], 3: [[[0, 0], [0, 9]], [[1, 2], [3, 4]]]})


@pytest.fixture(scope="module")
def data(demo):
    """The paths of six images with defects, and the masks of the first five in the file's geometry."""
    rows = [i for i in demo.indices("test") if (m := demo.mask(int(i))) is not None and m.any()][:6]
    return demo.paths(rows), [*(demo.mask(int(i)) for i in rows[:5]), None]


@pytest.fixture(scope="module")
def maps(run, data):
    return xt.gradcam_blocks(run, data[0], blocks=[3, 5])


def test_rows_are_ordered_by_image_with_scores_by_hand():
    table = score_maps(TWO, masks=[np.array([[1, 1], [0, 0]]), None])
    assert table[["file", "block"]].to_numpy().tolist() == [["0.png", 1], ["0.png", 3], ["1.png", 1], ["1.png", 3]]
    assert table["is_zero"].tolist() == [False, False, True, False]
    assert table["mass_inside"].tolist() == pytest.approx([6 / 8, 0, np.nan, np.nan], nan_ok=True)
    assert table["pointing_game"].tolist() == pytest.approx([1, 0, np.nan, np.nan], nan_ok=True)
    assert table["iou_at_0.5"].tolist() == pytest.approx([1, 0, np.nan, np.nan], nan_ok=True)
    assert table["mask_area"].tolist() == pytest.approx([0.5, 0.5, np.nan, np.nan], nan_ok=True)
    assert table["gini"].tolist() == pytest.approx([(-3 - 1 + 2 + 12) / 24, 1, 0, 10 / 30])
    assert [c for c in table if c in module.SCORES] == [c for c in module.SCORES if c in table]
    assert not set(MASK_SCORES) & set(score_maps(TWO))


def test_an_empty_mask_differs_from_a_missing_one():
    table = score_maps(TWO, masks=[np.zeros((2, 2)), None])
    assert table[MASK_SCORES].isna().all(axis=None)
    assert table["mask_area"].tolist() == pytest.approx([0, 0, np.nan, np.nan], nan_ok=True)


@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_a_mask_of_the_files_size_is_compared_in_the_files_geometry(resize):
    rng = np.random.default_rng(0)
    explanation = heatmaps({2: rng.random((1, 4, 4)), 4: rng.random((1, 2, 2))}, (8, 8), resize)
    mask = np.zeros((30, 20), bool)
    mask[3:9, 5:15] = True
    table = score_maps(explanation, masks=[mask])
    placed = np.stack([map_to_image(unit_view(explanation.raw[b])[0], (30, 20), (8, 8), resize) for b in (2, 4)])
    np.testing.assert_allclose(table["average_precision"], evaluate.average_precision(placed, mask))
    np.testing.assert_allclose(table["mass_inside"], evaluate.mass_inside(placed, mask))


def test_a_mask_of_the_models_size_is_compared_there_even_with_padding():
    rng = np.random.default_rng(1)
    raw, mask = {2: rng.random((1, 8, 8))}, rng.random((8, 8)) < 0.3
    scores = [score_maps(heatmaps(raw, (8, 8), r), masks=[mask])["average_precision"][0] for r in ("pad", "stretch")]
    assert scores[0] == scores[1] == pytest.approx(evaluate.average_precision(raw[2][0].astype(np.float32), mask))


def test_a_very_large_mask_is_reduced(monkeypatch):
    rng = np.random.default_rng(2)
    explanation = heatmaps({2: rng.random((1, 6, 6))}, (24, 24))
    mask = np.zeros((300, 200), bool)
    mask[60:150, 50:120] = True
    whole = score_maps(explanation, masks=[mask])[MASK_SCORES]
    monkeypatch.setattr(module, "MASK_PIXELS", 6000)
    np.testing.assert_allclose(score_maps(explanation, masks=[mask])[MASK_SCORES], whole, atol=0.03)


def test_scores_that_query_the_model_equal_those_of_evaluate(run, maps, data):
    table = score_maps(maps, masks=data[1], model=run, steps=3)
    assert table[MODEL_SCORES].notna().all(axis=None)
    stacked = np.stack([maps.upsampled(b) for b in maps.blocks], 1)
    predict = module.Probabilities(module.open_classifier(run))
    images = maps.images.astype(np.float32)
    areas = evaluate.deletion_insertion(predict, images, stacked, maps.classes, steps=3)
    drop = evaluate.average_drop_increase(predict, images, stacked, maps.classes)
    expected = {"deletion": areas.deletion, "insertion": areas.insertion, "average_drop": drop.drop}
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values.ravel(), atol=1e-3)
    assert table["stability"].between(0, 1).all()
    assert table["road"].between(-0.5, 0.5).all()
    assert table[MASK_SCORES].notna().sum().tolist() == [10] * 5


def test_only_the_sample_queries_the_model_and_chunks_change_nothing(run, maps, data):
    whole = score_maps(maps, masks=data[1], model=run, steps=2, images=3, groups=list("aabbcc"))
    chosen = draw_images(6, 3)
    assert np.flatnonzero(whole["deletion"].notna()).tolist() == [r for i in chosen for r in (2 * i, 2 * i + 1)]
    assert whole["gini"].notna().all()
    assert whole["group"].tolist() == list("aaaabbbbcccc")
    scorer, calls_of_progress = Scorer(6, 3), []
    for start in (0, 1, 4):
        part = slice(start, {0: 1, 1: 4, 4: 6}[start])
        explanation = xt.gradcam_blocks(run, data[0][part], blocks=[3, 5])
        scorer.add(explanation, data[1][part], list("aabbcc")[part])
    in_chunks = scorer.finish(module.open_classifier(run), 2, lambda *call: calls_of_progress.append(call))
    pd.testing.assert_frame_equal(in_chunks, whole, rtol=1e-3, atol=1e-3)
    assert calls_of_progress[-1][:2] == (3, 3)
    assert scorer.calls == 2 * 3 + 2 * 6 + (3 + 6) + 2 * 6 * 3 + 2 * 3


def test_superpixels_are_scored_by_their_signed_map(run, data):
    paths, masks = data[0][:2], data[1][:2]
    explanation = xt.lime_superpixels(run, paths, num_samples=40, segmenter="slic")
    table = score_maps(explanation, masks=masks, model=run, steps=2)
    assert table["block"].tolist() == ["superpixels"] * 2
    expected = [evaluate.average_precision(explanation.signed_map(i), masks[i]) for i in range(2)]
    np.testing.assert_allclose(table["average_precision"], expected, atol=1e-6)
    assert "stability" not in table
    assert table[["deletion", "insertion", "road", "average_drop"]].notna().all(axis=None)


def test_cam_is_scored_like_grad_cam_at_block_5(run, data):
    cam = score_maps(xt.class_activation_map(run, data[0][:2], precision="float32"), model=run, steps=2)
    gradcam = score_maps(xt.gradcam_blocks(run, data[0][:2], blocks=5, precision="float32"), model=run, steps=2)
    np.testing.assert_allclose(cam["gini"], gradcam["gini"], atol=1e-3)
    np.testing.assert_allclose(cam["stability"], gradcam["stability"], atol=0.02)


def test_a_model_of_another_size_is_named(run):
    with pytest.raises(InputError, match=r"model's input size \(32, 32\)\. Received: \(2, 2\)"):
        score_maps(TWO, model=run)


def test_wrong_lengths_and_steps_are_named():
    with pytest.raises(InputError, match=r"masks must hold one entry per image \(2\). Received: 1"):
        score_maps(TWO, masks=[None])
    with pytest.raises(InputError, match="groups must hold"):
        score_maps(TWO, groups=["a"])
    with pytest.raises(InputError, match=r"mask must be \(height, width\)"):
        score_maps(TWO, masks=[np.ones(3), None])
    with pytest.raises(InputError, match="steps=0"):
        score_maps(TWO, steps=0)


# ---- effort


def calls(blocks, steps):
    return 2 + 2 * blocks * (steps - 1) + 1 + blocks + 6 * blocks


@pytest.mark.parametrize(
    ("total", "cost", "given", "expected"),
    [
        (5, 1e-4, {}, (5, 10)),  # all images, where there are few
        (500, 1e-4, {}, (256, 10)),  # no more than can be held in memory
        (500, 0.01, {}, (89, 10)),  # 128 calls and 6 for stability: 1.34 s per image
        (500, 0.15, {}, (8, 6)),  # at least eight images: 15 s each, of which 0.9 s for stability, 94 calls
        (500, 9.0, {}, (8, 2)),  # and two steps
        (4, 9.0, {}, (4, 2)),
        (500, 0.01, {"images": 20}, (20, 10)),
        (500, 0.01, {"steps": 4}, (162, 4)),
        (3, 0.01, {"images": 20, "steps": 7}, (3, 7)),
    ],
)
def test_effort_saves_images_before_steps(total, cost, given, expected):
    effort = plan_effort(total, 5, (cost, 0.0), **given)
    assert (effort.images, effort.steps) == expected
    assert effort.calls == effort.images * (calls(5, effort.steps) + 2)
    assert effort.seconds <= 120 or effort.steps == 2 or "steps" in given


def test_effort_includes_the_filling_and_refuses_values_below_1():
    assert plan_effort(500, 5, (0.01, 0.05)).images == int(120 / (1.34 + 30 * 0.05))
    with pytest.raises(InputError, match="steps=0"):
        plan_effort(5, 5, (0.1, 0.1), steps=0)
    with pytest.raises(InputError, match="images=-1"):
        plan_effort(5, 5, (0.1, 0.1), images=-1)


def test_a_measured_call_costs_something(run, maps):
    cost = module.measure_costs(module.open_classifier(run), maps.images[:2])
    assert all(0 < c < 1 for c in cost)


# ---- summary


def test_summary_by_hand():
    table = pd.DataFrame({"block": [1, 3, 1, 3, 1, 3], "group": list("aaaabb")})
    table["gini"] = [0.0, 1.0, 0.2, 1.0, 0.4, 1.0]
    table["deletion"] = [np.nan, np.nan, np.nan, 0.5, np.nan, np.nan]
    summary = summarise(table).set_index(["block", "score"])
    assert summary.loc[(1, "gini")].tolist() == pytest.approx([0.2, 0.1, 0.4, 3])
    assert summary.loc[(3, "gini")].tolist() == pytest.approx([1, 1, 1, 3])
    assert summary.loc[(3, "deletion")].tolist() == pytest.approx([0.5, np.nan, np.nan, 1], nan_ok=True)
    shown = printable(summarise(table))
    assert shown.loc["gini"].tolist() == ["0.20 [.10, .40]", "1.00 [1.00, 1.00]"]
    assert shown.loc["deletion↓"].tolist() == ["", "0.50"]
