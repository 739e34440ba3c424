"""Boxes against true ones: matching with a known answer, the true boxes of masks, CSV and COCO files, and bad input."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from xaitune.config.explain_settings import BoxOptions
from xaitune.errors import DataError, InputError
from xaitune.evaluate.detection import box_iou, match_boxes, score_boxes, write_box_scores
from xaitune.evaluate.true_boxes import boxes_of_mask, read_true_boxes
from xaitune.explain.boxes import COLUMNS, Boxes
from xaitune.stats.intervals import mean_intervals, ratio_intervals, wilson_interval


def found(*rows, files=("a.png",), size=(100, 100), blocks=(5,), class_names=("crack", "hole")):
    """Boxes (image, block, class, x, y, width, height, score) in images of one size."""
    columns = ["image", "block", "class", "x", "y", "width", "height", "score"]
    table = pd.DataFrame(rows, columns=columns).assign(rule="gradcam", area=1, threshold=0.2)
    table["file"] = [files[i] for i in table["image"]]
    images = pd.DataFrame({"file": files, "width": size[1], "height": size[0]})
    return Boxes(table[["image", *COLUMNS]], images, blocks, class_names, BoxOptions())


def mask_of(*boxes, size=(100, 100)):
    mask = np.zeros(size, bool)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture
def folder(tmp_path):
    """images/crack/1.png and 2.png, images/hole/1.png: 20 wide and 10 high."""
    for name in ("crack/1", "crack/2", "hole/1"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((10, 20), np.uint8))
    return tmp_path


def images(folder, *names):
    return [folder / "images" / f"{name}.png" for name in names]


# ---- matching and scores


def test_iou_by_hand():
    iou = box_iou(np.array([[0, 0, 10, 10], [50, 50, 4, 4]]), np.array([[5, 0, 10, 10], [0, 0, 10, 10]]))
    np.testing.assert_allclose(iou, [[50 / 150, 1], [0, 0]])


@pytest.mark.parametrize(
    ("iou", "threshold", "answer"),
    [
        ([[0.6, 0.7], [0.0, 0.9], [0.5, 0.0]], 0.5, [1, -1, 0]),  # greedy: the first takes the second's
        ([[0.6, 0.7], [0.0, 0.9], [0.5, 0.0]], 0.65, [1, -1, -1]),
        ([[0.5]], 0.5, [0]),
        (np.zeros((2, 0)), 0.5, [-1, -1]),
        (np.zeros((0, 2)), 0.5, []),
    ],
)
def test_matching_is_greedy_and_one_to_one(iou, threshold, answer):
    assert match_boxes(np.array(iou), threshold).tolist() == answer


def test_scores_by_hand():
    boxes = found(
        (0, 5, "crack", 0, 0, 10, 10, 0.4),  # found already by the next one, which has the higher score
        (0, 5, "crack", 0, 0, 10, 9, 1.0),
        (1, 5, "crack", 50, 50, 10, 10, 1.0),  # IoU 1/3 with the true box
        (2, 5, "crack", 0, 0, 5, 5, 1.0),  # nothing is there
        files=("a.png", "b.png", "c.png", "d.png"),
    )
    masks = [mask_of((0, 0, 10, 10), (30, 30, 10, 10)), mask_of((55, 50, 10, 10)), mask_of(), None]
    scores = score_boxes(boxes, masks=masks)
    table = scores.to_dataframe().set_index("iou")
    assert table[["boxes", "true_boxes", "images"]].to_numpy().tolist() == [[3, 3, 2]] * 2
    assert table["found"].tolist() == [2, 1]
    np.testing.assert_allclose(table.loc[0.25, ["precision", "recall", "f1"]].to_list(), [2 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(table.loc[0.5, ["precision", "recall", "f1"]].to_list(), [1 / 3, 1 / 3, 1 / 3])
    assert (table["recall_low"] <= table["recall"]).all()
    assert (table["recall"] <= table["recall_high"]).all()
    assert (scores.without_boxes, scores.unknown, scores.classes_count) == (1, 1, False)
    assert scores.per_image["file"].tolist() == ["a.png", "b.png"]
    np.testing.assert_allclose(scores.per_image["best_iou"], [1, 1 / 3])
    assert "precision" in scores._repr_html_()


def test_every_block_is_scored_by_itself_also_one_without_boxes():
    boxes = found((0, 3, "crack", 0, 0, 10, 10, 1.0), blocks=(1, 3))
    table = score_boxes(boxes, masks=[mask_of((0, 0, 10, 10))], iou=[0.5]).table.set_index("block")
    assert table["recall"].tolist() == [0, 1]
    assert table["precision"].isna().tolist() == [True, False]


def test_nothing_found_has_an_interval():
    row = score_boxes(
        found((0, 5, "crack", 0, 0, 9, 9, 1.0)), masks=[mask_of((20, 0, 9, 9), (40, 0, 9, 9))]
    ).table.iloc[0]
    for name, number in (("precision", 1), ("recall", 2), ("f1", 2)):
        assert (row[f"{name}_low"], row[name], row[f"{name}_high"]) == (0, 0, wilson_interval(0, number)[1])


def test_intervals_resample_groups():
    files = tuple(f"{i}.png" for i in range(12))
    boxes = found(*((i, 5, "crack", 0, 0, 10, 10, 1.0) for i in range(12)), files=files)
    masks = [mask_of((0, 0, 10, 10)) if i < 6 else mask_of((50, 50, 10, 10)) for i in range(12)]
    alone = score_boxes(boxes, masks=masks, iou=[0.5]).table.iloc[0]
    grouped = score_boxes(boxes, masks=masks, groups=[i // 3 for i in range(12)], iou=[0.5])
    row = grouped.table.iloc[0]
    assert row["recall"] == alone["recall"] == 0.5
    assert row["recall_high"] - row["recall_low"] > alone["recall_high"] - alone["recall_low"]
    assert grouped.per_image["group"].tolist() == [i // 3 for i in range(12)]


def test_a_ratio_of_counts_of_1_is_a_mean():
    values, groups = np.random.default_rng(0).random((20, 2)), np.arange(20) // 3
    for mean, ratio in zip(
        mean_intervals(values, groups), ratio_intervals(values, np.ones((20, 2)), groups), strict=True
    ):
        np.testing.assert_array_equal(mean, ratio)


def test_classes_count_where_they_are_the_models():
    boxes = found((0, 5, "crack", 0, 0, 10, 10, 1.0))

    def table(*names):
        return pd.DataFrame({"file": "a.png", "x": 0, "y": 0, "width": 10, "height": 10, "class": names})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xaitune.evaluate.true_boxes._check_inside", lambda *_: None)
        for names, recall, count in ((["crack"], 1, True), (["hole"], 0, True), (["defect"], 1, False)):
            scores = score_boxes(boxes, true_boxes=table(*names), iou=[0.5])
            assert (scores.table["recall"][0], scores.classes_count) == (recall, count)


def test_scores_are_written(tmp_path):
    boxes = found(blocks=(1,))
    scores = score_boxes(boxes, masks=[mask_of((0, 0, 10, 10))])
    table, about = write_box_scores(tmp_path, scores)
    assert pd.read_csv(table)["true_boxes"].tolist() == [1]
    told = json.loads(about.read_text(encoding="utf-8"), parse_constant=lambda name: 1 / 0)
    assert [row["precision"] for row in told["scores"]] == [None, None]
    assert told["left_out"] == {"without_a_true_box": 0, "unknown": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give either masks or true_boxes."),
        ({"masks": [mask_of(), mask_of()]}, "There must be one entry per image (1). Received: 2."),
        (
            {"masks": [mask_of(size=(5, 5))]},
            "The mask of a.png must have its image's size (100, 100). Received: (5, 5).",
        ),
        ({"masks": [mask_of()]}, "None of the images has a true box, so boxes cannot be scored."),
        ({"masks": [mask_of((0, 0, 2, 2))], "iou": [0]}, "iou must be above 0 and at most 1. Received: iou=0."),
        ({"masks": [mask_of()], "groups": [1, 2]}, "groups must hold one entry per image (1). Received: 2."),
    ],
)
def test_a_wrong_call(options, message):
    with pytest.raises(InputError) as error:
        score_boxes(found(), **options)
    assert str(error.value) == message


# ---- the boxes of masks


def test_specks_are_left_out_unless_there_is_nothing_else():
    size = (200, 200)  # a speck has less than 4 pixels
    assert boxes_of_mask(mask_of((0, 0, 1, 3), (50, 60, 2, 2), size=size)).tolist() == [[50, 60, 2, 2]]
    assert boxes_of_mask(mask_of((0, 0, 1, 1), (50, 60, 1, 3), size=size)).tolist() == [[50, 60, 1, 3]]
    assert boxes_of_mask(mask_of(size=size)).shape == (0, 4)


# ---- files of boxes


def test_a_csv_names_files_by_the_end_of_their_path(folder):
    files = images(folder, "crack/1", "crack/2", "hole/1")
    csv = folder / "boxes.csv"
    csv.write_text(
        "file,x,y,width,height,class\ncrack/1.png,0,0,5,5,crack\n2.png,,,,,\ncrack/1.png,10,0,10.5,10,hole\n"
    )
    true = read_true_boxes(csv, files)
    np.testing.assert_allclose(true.boxes[0], [[0, 0, 5, 5], [10, 0, 10.5, 10]])
    assert true.classes[0] == ("crack", "hole")
    assert true.boxes[1].shape == (0, 4)  # nothing is in it
    assert true.boxes[2] is None  # nothing is known of it
    assert len(read_true_boxes(csv, files[:1])) == 1  # boxes of other images that exist are passed over


def test_a_coco_file(folder):
    coco = {
        "images": [{"id": 7, "file_name": "crack/1.png"}, {"id": 9, "file_name": "crack/2.png"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 3, "name": "crack"}],
    }
    file = folder / "boxes.json"
    file.write_text(json.dumps(coco))
    true = read_true_boxes(file, images(folder, "crack/1", "crack/2", "hole/1"))
    assert [None if b is None else b.tolist() for b in true.boxes] == [[[1, 2, 3, 4]], [], None]
    assert true.classes[0] == ("crack",)
    del coco["categories"]
    file.write_text(json.dumps(coco))
    assert read_true_boxes(file, images(folder, "crack/1")).classes == (None,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x,y,width\n1.png,0,0,5\n", "lacks the column height. Needed: file,x,y,width,height[,class]."),
        ("path,x,y\n", "lacks the columns file, width, height."),
        ("", "cannot be read as CSV"),
        (
            "file,x,y,width,height\ncrack/1.png,0,0,0,5\n",
            "the box of crack/1.png has no area. Received: x=0, y=0, width=0",
        ),
        ("file,x,y,width,height\ncrack/1.png,0,0,-3,5\n", "has no area"),
        ("file,x,y,width,height\ncrack/1.png,0,0,a,5\n", "needs four numbers: x, y, width, height"),
        ("file,x,y,width,height\ncrack/1.png,0,0,,5\n", "needs four numbers"),
        (
            "file,x,y,width,height\ncrack/1.png,15,0,10,5\n",
            "the box of crack/1.png reaches beyond the image, which is 20 pixels wide and 10 high. Received: x=15",
        ),
        ("file,x,y,width,height\ncrack/1.png,-4,0,10,5\n", "reaches beyond the image"),
        ("file,x,y,width,height\ncrack/9.png,0,0,5,5\n", "names crack/9.png, and no such image is there."),
        ("file,x,y,width,height\n1.png,0,0,5,5\n", "Name its folder too."),
        ("file,x,y,width,height\n", "names none of the images, such as"),
    ],
)
def test_a_bad_csv(folder, text, message):
    csv = folder / "boxes.csv"
    csv.write_text(text)
    with pytest.raises(DataError) as error:
        read_true_boxes(csv, images(folder, "crack/1", "crack/2", "hole/1"))
    assert message in str(error.value)
    assert str(csv) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"images": []}', "is not a COCO file: it lacks 'annotations'. Received: the keys images."),
        ("[]", "is not a COCO file: it lacks 'images' and 'annotations'. Received: a list."),
        ('{"images": [{"id": 1}], "annotations": []}', "images need id and file_name"),
        ('{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3]}]}', "bbox [x, y, width, height]"),
    ],
)
def test_a_bad_coco_file(folder, text, message):
    file = folder / "boxes.json"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        read_true_boxes(file, images(folder, "crack/1"))
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["no.csv", "no.json"])
def test_no_file_of_boxes(folder, name):
    with pytest.raises(DataError, match=r"No file of boxes at .*\. Check the path\."):
        read_true_boxes(folder / name, images(folder, "crack/1"))
