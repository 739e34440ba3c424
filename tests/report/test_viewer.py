"""The parts behind the page's interactive views, against arithmetic."""

import base64
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from reporting import make_sweep, make_viewed

from xaitune.report import drawn
from xaitune.report.cell_details import sweep_details
from xaitune.report.drawn import viewed_images
from xaitune.report.embedding import script_json
from xaitune.report.thresholds import THRESHOLDS, cheapest, threshold_section
from xaitune.report.viewer import choose_viewed, map_sheet, mask_outline, viewer_section, within_budget
from xaitune.stats.intervals import wilson_interval
from xaitune.training.run import load_run


def pixels(uri):
    content = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED)


def table_of(true, predicted, sure):
    share = np.array(sure)
    columns = {f"p({name})": np.where(np.array(list(predicted)) == name, share, (1 - share) / 2) for name in "abc"}
    groups = [f"g{i}" for i in range(len(true))]
    return pd.DataFrame({"true": list(true), "predicted": list(predicted), "group": groups, **columns})


def test_wrong_images_come_first_the_surest_at_the_top_and_every_pair_has_one():
    test = table_of("aaaaaabbc", "bbbbacbbb", [0.5, 0.9, 0.8, 0.7, 0.9, 0.4, 0.9, 0.6, 0.45])
    chosen = choose_viewed(test, "abc", most=5)
    assert chosen[:3] == [1, 8, 5]  # a as b, the surest of four; c as b; a as c
    assert set(chosen[3:]) == {4, 6}  # one right image of each class that has one
    assert sorted(choose_viewed(test, "abc", most=100)) == list(range(9))


def test_a_sheet_has_the_maps_below_one_another_in_the_pictures_aspect():
    maps = [np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)]
    sheet = pixels(map_sheet(maps, (64, 32), (4, 4), "stretch"))
    assert sheet.shape == (64, 64)  # two maps of 32 x 64
    assert sheet[:30].max() <= 3
    assert sheet[34:].min() >= 252
    padded = np.zeros((8, 8), np.float32)
    padded[2:6] = 1  # what the model saw of an image of 2 : 1, padded above and below
    assert pixels(map_sheet([padded], (64, 32), (8, 8), "pad"))[2:-2].min() > 120


def test_an_outline_lies_around_the_mask():
    mask = np.zeros((10, 20), bool)
    mask[2:8, 5:15] = True
    (polygon,) = mask_outline(mask, (20, 10))
    x, y = np.reshape(polygon, (-1, 2)).T * 20 / 448
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((5, 15, 2, 8), abs=0.2)
    assert mask_outline(np.zeros((10, 20), bool), (20, 10)) == ()


def test_a_page_that_would_be_too_large_keeps_one_rule_and_then_fewer_images():
    images = make_viewed().images
    whole = sum(i.cost for i in images)
    first = sum(len(i.picture) + len(i.maps["gradcam"]) + len(i.true_maps.get("gradcam", "")) for i in images)
    assert within_budget(images, whole) == images
    assert [list(i.maps) for i in within_budget(images, whole - 1)] == [["gradcam"]] * 12
    assert len(within_budget(images, first - 1)) == 11


def test_misses_and_false_alarms_by_hand():
    p = [0.9, 0.5, 0.2, 0.6, 0.1, 0.05]
    frame = {"true": list("aaabbb"), "predicted": list("aabbbb"), "group": list("uvwxyz"), "split": "test"}
    test = pd.DataFrame({**frame, "p(a)": p, "p(b)": 1 - np.array(p)})
    validation = test.assign(split="validation", group=list("UVWXYZ"))
    section = threshold_section(pd.concat([test, validation]), ["a", "b"])
    of_a, place = section["data"]["classes"][0], list(THRESHOLDS).index(0.55)
    assert (of_a["test"]["of"], of_a["test"]["others"]) == (3, 3)
    assert of_a["test"]["missed"][place] == 2  # 0.5 and 0.2
    assert of_a["test"]["false"][place] == 1  # 0.6
    low, high = of_a["intervals"]["missed"][place]
    wilson = wilson_interval(2, 3)
    assert low <= wilson[0] + 1e-3
    assert high >= wilson[1] - 1e-3
    # At 10 false alarms for a miss the cheapest thresholds miss nothing: above 0.1 and up to 0.2, of which 0.16 is the middle.
    assert section["rows"][0]["threshold"] == "0.16"
    assert section["rows"][0]["figures"][0][0] == "0 of 3"
    assert section["rows"][0]["figures"][1][0] == "1 of 3"
    assert not section["optimistic"]
    assert threshold_section(test, ["a", "b"])["optimistic"]
    assert threshold_section(test.drop(columns="p(a)"), ["a", "b"]) is None
    assert cheapest([3, 1, 0], [0, 1, 9], ratio=0.1) == 0


def test_the_worst_classes_have_thresholds_and_the_rest_are_named(monkeypatch):
    monkeypatch.setattr("xaitune.report.thresholds.DRAWS", 10)
    monkeypatch.setattr("xaitune.report.thresholds.MOST_CLASSES", 2)
    names = list("abcde")
    true = np.repeat(names, 2)
    table = pd.DataFrame({"true": true, "predicted": true, "group": range(10), "split": "test"})
    table = pd.concat([table, pd.DataFrame(0.2, range(10), [f"p({name})" for name in names])], axis=1)
    f1 = [0.9, 0.9, np.nan, 0.1, 0.9]
    section = threshold_section(table, names, f1)
    assert section["data"]["classes"][section["data"]["first"]]["class"] == 3
    assert [row["name"] for row in section["rows"]] == ["a", "d"]
    assert section["left_out"] == ["b", "e", "c"]
    assert section["unknown"] == []
    assert threshold_section(table[table["true"] != "e"], names, f1)["unknown"] == ["e"]


def test_details_of_a_cell(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    details = sweep_details(sweep, "freeze3-nag")
    cell = details["cells"]["freeze3-nag"]
    assert details["titles"]["freeze3-nag"] == "Block 1-3 frozen with nag"
    assert cell["runs"][0]["head"] == 3
    assert cell["runs"][0]["score"] == pytest.approx(sweep.history("freeze3-nag-seed0")["val_f1_macro"], abs=1e-4)
    assert np.sum(cell["counts"]) == 30
    (sweep.path / "freeze3-nag-seed0" / "history.csv").unlink()
    (sweep.path / "freeze3-nag-seed1" / "predictions.csv").unlink()
    cell = sweep_details(sweep, "freeze3-nag")["cells"]["freeze3-nag"]
    assert [run["seed"] for run in cell["runs"]] == [1]
    assert cell["counts"] is None


def test_doubtful_labels_are_in_the_viewers_data():
    viewed = make_viewed()
    section = viewer_section(viewed, {viewed.images[1].file: "crack (80 %)"})
    assert [image["label"] for image in section["data"]["images"][:3]] == ["", "crack (80 %)", ""]


def test_json_inside_a_script():
    assert script_json({"a": "</script>&\u2028"}) == '{"a":"\\u003c/script\\u003e\\u0026\\u2028"}'
    with pytest.raises(ValueError, match="JSON"):
        script_json([float("nan")])


def test_images_of_a_run(run, demo):
    viewed = viewed_images(run, demo)
    test = run.predictions[run.predictions["split"] == "test"].set_index("file")
    assert viewed.tested == len(test)
    assert viewed.blocks == (1, 2, 3, 4, 5)
    assert {image.true for image in viewed.images} == {run.class_names.index(name) for name in test["true"]}
    wrong = [image.true != image.predicted for image in viewed.images]
    assert wrong == sorted(wrong, reverse=True)
    for image in viewed.images:
        row = test.loc[image.file]
        assert image.shares[0] == (image.predicted, pytest.approx(row[f"p({row['predicted']})"]))
        assert image.explained == image.predicted
        assert pixels(image.picture).shape == (32, 32, 3)
        assert {pixels(sheet).shape for sheet in image.maps.values()} == {(5 * 64, 64)}
        assert len(image.maps) == 5
        assert len(image.true_maps) == (5 if image.true != image.predicted else 0)
    assert any(image.outline for image in viewed.images)


def test_models_of_different_blocks_share_those_that_are_shown(run, demo, tmp_path, monkeypatch):
    """Over folds a linear head on one block may end at another block in each fold."""
    test = run.predictions["split"] == "test"
    half = run.predictions.index % 2 == 0
    for name, left_out in (("a", test & half), ("b", test & ~half)):
        shutil.copytree(run.path, tmp_path / name)
        run.predictions[~left_out].to_csv(tmp_path / name / "predictions.csv", index=False)
    init = drawn._Drawer.__init__

    def ends_at_block_3(drawer, run, data):
        init(drawer, run, data)
        drawer.blocks = (1, 2, 3) if run.name == "a" else drawer.blocks

    monkeypatch.setattr(drawn._Drawer, "__init__", ends_at_block_3)
    viewed = viewed_images([load_run(tmp_path / "a"), load_run(tmp_path / "b")], demo, checked=True)
    assert viewed.blocks == (1, 2, 3)
    assert {pixels(image.maps["gradcam"]).shape for image in viewed.images} == {(3 * 64, 64)}
    assert {len(image.doubts) for image in viewed.images} == {3}


def test_images_of_a_segmentation(segmented, marked):
    viewed = viewed_images(segmented, marked)
    assert all(image.doubts == () for image in viewed.images)
    test = segmented.predictions[segmented.predictions["split"] == "test"]
    assert len(viewed.images) == len(test)
    assert all(image.shares == () and image.outline and not image.true_maps for image in viewed.images)
    assert all(image.iou is None or 0 <= image.iou <= 1 for image in viewed.images)


def test_checked_maps_say_what_speaks_against_them(run, demo):
    viewed = viewed_images(run, demo, checked=True)
    assert {len(image.doubts) for image in viewed.images} == {5}
    for image in viewed.images:
        for block, doubt in zip(viewed.blocks, image.doubts, strict=True):
            assert (doubt == "no positive evidence") == (block in image.empty["gradcam"])
    section = viewer_section(viewed)
    assert section["checked"] == 5 * section["shown"]
    assert section["doubtful"] == sum(doubt != "" for image in viewed.images for doubt in image.doubts)
    assert section["data"]["images"][0]["doubts"] == viewed.images[0].doubts
