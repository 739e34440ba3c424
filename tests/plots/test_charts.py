"""Plots: pixel values computed by hand, no change to matplotlib's state, and names drawn literally."""

import importlib.util
import io
import itertools
import warnings

import cv2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image

from xaitune.errors import InputError, RunError
from xaitune.plots import block_charts, charts, figures, overlays, pictures

KOREAN = "균열 (crack)"
needs_font = pytest.mark.skipif(
    importlib.util.find_spec("koreanize_matplotlib") is None, reason="koreanize-matplotlib (the font) is not installed"
)


def history(epochs=6, diverged=False):
    rise = np.linspace(0.1, 0.8, epochs)
    frame = pd.DataFrame({"stage": ["head"] * 2 + ["fine-tune"] * (epochs - 2), "epoch": np.arange(1, epochs + 1)})
    frame["train_loss"] = frame["val_loss"] = np.nan if diverged else 2 - rise
    frame["val_f1_macro"] = np.nan if diverged else rise
    return frame


def cells(optimizers=("sgd", "nag"), depths=(0, 1, 3)):
    rows = []
    for i, (k, o) in enumerate((k, o) for k in depths for o in optimizers):
        score = 0.5 + 0.05 * i
        row = {"name": f"freeze{k}-{o}", "freeze_through": k, "optimizer": o, "seeds": 2, "equals": i > 2}
        row |= {"validation": score, "test": score, "low": score - 0.1, "high": score + 0.1}
        rows.append(row | {"scores": [score - 0.01, score + 0.01]})
    return pd.DataFrame(rows)


def block_summary():
    names = ["average_precision", "best_iou", "mask_area", "gini", "insertion", "deletion"]
    rows = [
        {"block": b, "score": n, "mean": 0.1 * b, "low": 0.1 * b - 0.05, "high": 0.4} for b in (1, 3) for n in names
    ]
    return pd.DataFrame(rows)


def every_plot():
    """Plot name -> function of ax, for every plot."""
    counts = pd.DataFrame({"train": [6, 3], "validation": [2, 1], "test": [2, 1]}, index=[KOREAN, "no $defect$"])
    table = pd.DataFrame({"score": [0.2, 0.5], "low": [0.1, 0.4], "high": [0.3, 0.6]}, index=[1, 2])
    runs = cells()[["name", "freeze_through", "optimizer"]].assign(state="finished")
    image = np.full((64, 48, 3), 90)
    return {
        "class_frequencies": lambda ax: charts.class_frequencies(counts, ax=ax),
        "confusion_matrix": lambda ax: charts.confusion_matrix([[3, 1], [0, 5]], [KOREAN, "b"], ax=ax),
        "learning_curves": lambda ax: charts.learning_curves({"a": history(), "b": history(diverged=True)}, ax=ax),
        "all_curves": lambda ax: charts.all_curves({n: history() for n in runs["name"]}, runs, ax=ax),
        "block_evidence": lambda ax: block_charts.block_evidence(
            table, 2, {1: 0.3, 2: 0.7}, measure="localisation", ax=ax
        ),
        "sweep_cells": lambda ax: charts.sweep_cells(cells(), ax=ax),
        "block_drift": lambda ax: block_charts.block_drift(
            pd.DataFrame({"distance": [0.3, 0.1], "usual": 0.2, "p": [0.01, 0.6]}, index=[1, 2]), ax=ax
        ),
        "block_finds": lambda ax: block_charts.block_finds(
            pd.DataFrame(
                {f"{n}{end}": v for n in ("own", "gradcam") for end, v in (("", 0.2), ("_low", 0.1), ("_high", 0.4))},
                index=[1, 2],
            ),
            ax=ax,
        ),
        "comparison_cells": lambda ax: charts.comparison_cells(
            pd.DataFrame(
                {
                    "name": [KOREAN, "b"],
                    "test": 0.5,
                    "low": 0.4,
                    "high": 0.7,
                    "validation": [0.5, 0.6],
                    "equals": [False, True],
                    "scores": [[0.4, 0.6], [0.5]],
                }
            ),
            ax=ax,
        ),
        "score_by_images": lambda ax: charts.score_by_images(
            pd.DataFrame({"images": [10.0, 20.0, 40.0], "score": [0.5, 0.6, 0.7]}), ax=ax
        ),
        "block_scores": lambda ax: block_charts.block_scores(block_summary(), ax=ax),
        "shares": lambda ax: charts.shares(pd.Series({KOREAN: 0.7, "$b$": 0.3}), explained=KOREAN, ax=ax),
        "weight_intervals": lambda ax: charts.weight_intervals(
            pd.DataFrame({"weight": [0.2, -0.1], "low": [0.1, -0.3], "high": [0.3, 0.1]}, index=[4, 0]), ax=ax
        ),
        "difference": lambda ax: charts.difference(0.01, -0.02, 0.03, label="cannot tell", ax=ax),
        "panels": lambda ax: pictures.panels([image, image], ["image", "Block 1"], caption=KOREAN, ax=ax),
        "contact_sheet": lambda ax: pictures.contact_sheet([image, image], [KOREAN, "b"], titles=["image"], ax=ax),
    }


def texts(ax):
    return [t.get_text() for t in ax.figure.findobj(Text)]


# ---- pictures


def test_overlay_of_a_zero_map_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8)
    assert np.array_equal(overlays.overlay(image, np.zeros((64, 48))), image)


def test_overlay_blends_by_value_on_a_fixed_scale():
    top = np.rint(np.array(matplotlib.colormaps["inferno"](1.0)[:3]) * 255)
    out = overlays.overlay(np.full((1, 2), 100.0), np.array([[0.5, 1.0]]), alpha=0.8)
    assert np.array_equal(out[0, 1], np.rint(0.2 * 100 + 0.8 * top))
    half = np.rint(np.array(matplotlib.colormaps["inferno"](0.5)[:3]) * 255)
    assert np.array_equal(out[0, 0], np.rint(0.6 * 100 + 0.4 * half))
    # A weak map stays weak: the scale is not stretched to the map's own maximum; values above 1 are clipped.
    weak = overlays.overlay(np.full((1, 1), 100.0), np.array([[0.01]]))
    assert np.abs(weak.astype(int) - 100).max() <= 1
    assert np.array_equal(overlays.overlay([[100.0]], [[7.0]]), overlays.overlay([[100.0]], [[1.0]]))


def test_signed_overlay_colours_by_sign_on_one_scale():
    out = overlays.signed_overlay(np.full((1, 4), 100.0), np.array([[2.0, -2.0, 1.0, 0.0]]), alpha=1.0)[0]
    assert tuple(out[0]) == overlays.POSITIVE
    assert tuple(out[1]) == overlays.NEGATIVE
    assert np.array_equal(out[2], np.rint(50 + np.array(overlays.POSITIVE) / 2))
    assert tuple(out[3]) == (100, 100, 100)
    assert np.array_equal(overlays.signed_overlay(np.full((2, 2), 7), np.zeros((2, 2))), np.full((2, 2, 3), 7))


def test_tint_changes_only_the_mask():
    out = overlays.tint(np.full((1, 2), 100), [[True, False]], (40, 160, 80), alpha=0.5)
    assert out[0].tolist() == [[70, 130, 90], [100, 100, 100]]


def test_boundaries_lie_between_segments():
    segments = np.zeros((240, 240), int)
    segments[:, 120:] = 1
    out = overlays.boundaries(np.full((240, 240), 100), segments, (240, 228, 66))
    assert out[5, 119].tolist() == [240, 228, 66]
    assert (np.delete(out, 119, axis=1) == 100).all()
    assert overlays.boundaries(np.zeros((60, 30)), np.zeros((60, 30), int)).shape == (240, 120, 3)


@pytest.mark.parametrize("draw", [overlays.overlay, overlays.signed_overlay, overlays.boundaries])
def test_sizes_must_match(draw):
    with pytest.raises(InputError, match=r"size \(4, 4\)"):
        draw(np.zeros((4, 4, 3)), np.zeros((2, 4)))


def test_strip_has_one_height_and_keeps_aspect_ratios():
    out = overlays.strip([np.zeros((64, 64)), np.full((100, 50, 3), 200)], height=128, gap=4)
    assert out.shape == (128, 128 + 4 + 64, 3)
    assert (out[:, :128] == 0).all()
    assert (out[:, 128:132] == 255).all()
    assert (out[:, 132:] == 200).all()


# ---- Axes


@pytest.mark.parametrize("name", every_plot())
def test_plot_returns_its_axes_and_changes_no_state(name):
    draw = every_plot()[name]
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = draw(None)
        assert figures.png_bytes(own, dpi=50).startswith(b"\x89PNG")
        figure = Figure(figsize=(9, 4))
        given = figure.add_subplot(1, 2, 1)
        assert draw(given) is given
        figure.savefig(io.BytesIO(), format="png", dpi=50)
    picture, about = own._repr_png_()
    assert picture.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(picture)) as opened:
        assert about == {"width": round(opened.width * 96 / 150)}  # as wide as the figure, not as its pixels
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


@needs_font
@pytest.mark.parametrize("name", every_plot())
def test_korean_text_is_drawn_with_a_font_that_has_it(name):
    ax = every_plot()[name](None)
    figures.png_bytes(ax, dpi=50)
    for text in ax.figure.findobj(Text):
        for character in text.get_text():
            if character.isspace() or ord(character) < 0x1100:
                continue
            fonts = [
                FT2Font(font_manager.findfont(font_manager.FontProperties(family=[family])))
                for family in text.get_fontfamily()
            ]
            assert any(font.get_char_index(ord(character)) for font in fonts), text.get_text()


@needs_font
def test_the_font_is_found_without_importing_its_package():
    import sys

    assert "NanumGothic" in figures.east_asian_families()
    assert "koreanize_matplotlib" not in sys.modules


def test_latin_text_keeps_the_fonts_of_the_caller():
    ax = charts.confusion_matrix([[1, 0], [0, 1]], ["crack", "hole"])
    assert {tuple(t.get_fontfamily()) for t in ax.findobj(Text)} == {tuple(matplotlib.rcParams["font.family"])}


def test_a_name_with_dollars_is_not_a_formula():
    ax = every_plot()["class_frequencies"](None)
    assert "no $defect$" in texts(ax)
    assert not any(t.get_parse_math() for t in ax.get_yticklabels())


def test_confusion_matrix_prints_every_count():
    counts = np.arange(1, 401).reshape(20, 20)
    ax = charts.confusion_matrix(counts, [f"class {i}" for i in range(20)])
    assert set(map(str, range(1, 401))) <= set(texts(ax))
    sizes = {t.get_fontsize() for t in ax.texts}
    assert min(sizes) >= 7
    width = ax.figure.get_figwidth() * 72 / 20
    assert width > 3 * 0.6 * min(sizes)  # three digits fit a cell


def test_confusion_matrix_with_a_class_without_images_and_a_wrong_shape():
    ax = charts.confusion_matrix([[3, 1], [0, 0]], ["a", "b"])
    assert np.array_equal(ax.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    with pytest.raises(InputError, match="2x2"):
        charts.confusion_matrix(np.zeros((3, 3)), ["a", "b"])


@pytest.mark.parametrize("number", [2, 11, 20])
def test_no_label_is_cut_off(number):
    names = [f"a rather long name of a defect class {i}" for i in range(number)]
    ax = charts.confusion_matrix(np.eye(number), names)
    ax.figure.draw_without_rendering()
    whole = ax.figure.bbox.padded(2)
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title):
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text


def test_panel_titles_do_not_overlap():
    images = [np.zeros((64, 64))] * 6
    ax = pictures.panels(images, ["image"] + [f"Block {b} (no positive evidence)" for b in range(1, 6)], caption="x")
    ax.figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.texts[:6]]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_captions_are_drawn():
    image, heights = np.zeros((64, 64)), {}
    for caption in ("", "a caption"):
        for ax in (
            pictures.panels([image], ["a"], caption=caption),
            pictures.contact_sheet([image] * 2, ["a", "b"], caption=caption),
        ):
            content = np.frombuffer(figures.png_bytes(ax, dpi=80), np.uint8)
            dark = (cv2.imdecode(content, cv2.IMREAD_GRAYSCALE) < 128).any(axis=1)
            heights.setdefault(len(ax.images[0].get_array()), []).append(int(np.diff(dark.astype(int)).clip(0).sum()))
    one_more_line = all(with_caption == without + 1 for without, with_caption in heights.values())
    assert one_more_line, heights


def test_what_the_colours_mean_stands_beside_a_bar_and_no_text_is_wider_than_the_pictures():
    ax = pictures.panels(
        [np.zeros((64, 64))] * 3, ["a", "b", "c"], caption="a little text " * 9, colours="it is light " * 9
    )
    picture = cv2.imdecode(np.frombuffer(figures.png_bytes(ax), np.uint8), cv2.IMREAD_COLOR)
    assert (np.ptp(picture.astype(int), axis=2) > 100).any()  # the only colours: those of the bar
    ax.figure.draw_without_rendering()
    whole = ax.get_window_extent()
    *_, colours, caption = (text.get_window_extent() for text in ax.texts)
    assert max(colours.x1, caption.x1) < whole.x1 * 1.05
    assert caption.y1 < colours.y0 + 2  # below one another


def test_class_frequencies_are_sorted_with_totals_and_shares():
    counts = pd.DataFrame({"train": [1, 6], "validation": [0, 2], "test": [0, 1]}, index=["rare", "common"])
    ax = charts.class_frequencies(counts)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["common", "rare"]
    assert {"9 (90.0%)", "1 (10.0%)"} <= set(texts(ax))
    assert [p.get_width() for p in ax.patches] == [6, 1, 2, 0, 1, 0]


def test_learning_curves_mark_the_best_epoch_and_the_stages():
    ax = charts.learning_curves({"run": history()}, metric="f1_macro")
    assert {"0.800", "head", "fine-tune", "epoch", "loss"} <= set(texts(ax))
    assert len(ax.figure.axes) == 2


def test_all_curves_has_one_line_per_run():
    runs = cells()[["name", "freeze_through", "optimizer"]].assign(state="finished")
    ax = charts.all_curves({n: history() for n in runs["name"][:4]}, runs)
    assert len(ax.lines) == 4
    assert {"nothing", "Block 1", "sgd", "nag", "4 trainings"} <= set(texts(ax))
    runs.loc[0, "state"] = "stopped"
    ax = charts.all_curves({n: history() for n in runs["name"][:4]}, runs)
    assert "4 trainings, 1 of them to try a learning rate" in texts(ax)


def test_evidence_names_the_advised_block_and_the_votes():
    table = pd.DataFrame({"score": [0.2, 0.5, np.nan]}, index=[1, 2, 3])
    assert {"advised", "Block 1-2\nchosen 70%", "Block 1\nchosen 0%"} <= set(
        texts(block_charts.block_evidence(table, 2, {2: 0.7}))
    )


def test_sweep_cells_marks_the_best_on_validation_not_on_test():
    table = cells()
    table.loc[0, "validation"] = 0.99
    ax = charts.sweep_cells(table)
    ring = next(line for line in ax.lines if line.get_markersize() == 15)
    assert ring.get_ydata() == table.loc[0, "test"]
    charts.sweep_cells(table.assign(test=np.nan, validation=np.nan))  # all diverged: drawn without a ring


def test_block_scores_against_masks_and_model_or_only_one():
    both = block_charts.block_scores(block_summary())
    upper, lower = both.figure.axes
    assert {"average precision", "best IoU", "chance (mask area)", "deletion (lower is better)"} <= set(texts(both))
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("against the masks", "against the model")
    assert [t.get_text() for t in lower.get_xticklabels()] == ["Block 1", "Block 3"]
    dashed = [line for line in upper.get_lines() if line.get_linestyle() == "--"]
    assert dashed[0].get_ydata()[0] == pytest.approx(0.2)  # the mean of both blocks' rows
    model_only = block_summary().query("score in ('insertion', 'gini')")
    assert len(block_charts.block_scores(model_only).figure.axes) == 1
    with pytest.raises(InputError, match=r"No scores to draw\. Received: gini"):
        block_charts.block_scores(model_only.query("score == 'gini'"))


def test_difference_is_in_points():
    assert "+1.3 [-0.4, +3.0]" in texts(charts.difference(0.013, -0.004, 0.03, margin=0.01))


def test_save_is_atomic(tmp_path, monkeypatch):
    path = figures.save(every_plot()["difference"](None), tmp_path / "새 폴더" / "d.png", dpi=50)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["d.png"]
    old = path.read_bytes()

    def disk_full(*_):
        raise OSError(28, "The disk is full on device")

    monkeypatch.setattr("os.replace", disk_full)
    with pytest.raises(RunError, match="The disk is full"):
        figures.save(every_plot()["block_evidence"](None), path, dpi=50)
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["d.png"]


def test_no_class_has_the_colour_of_an_error():
    from xaitune.plots.pictures import CLASS_COLOURS, CONFUSED, FALSE_ALARM, MISSED

    assert not {MISSED, FALSE_ALARM, CONFUSED} & set(CLASS_COLOURS)
    assert len(set(CLASS_COLOURS)) == len(CLASS_COLOURS)
