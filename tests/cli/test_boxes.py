"""`xaitune explain --boxes` as a user drives it, on drawn images with masks."""

import json
from pathlib import Path

import pandas as pd
import pytest
from driving import xaitune

import xaitune as xt
from xaitune.evaluate.detection import score_boxes


@pytest.fixture(scope="module")
def images(demo):
    """Two images of cracks."""
    return [path for path in demo.paths() if path.parent.name == "crack"][:2]


@pytest.fixture(scope="module")
def explain(run, demo, images):
    """`xaitune explain` of the two images, in a folder, by the small run."""

    def call(folder, *options):
        return xaitune(folder, "explain", *images, "--model", run.path, "--out", "e", *options)

    return call


def test_boxes_are_drawn_written_and_scored_against_masks(explain, demo, images, tmp_path):
    root = Path(demo.config.path).parent
    truth = ["--masks", root / "masks", "--groups", root / "groups.csv"]
    answer = explain(tmp_path, "--boxes", *truth, "--block", "3,5", "--json")
    assert answer.status == 0, answer.err
    table = pd.read_csv(tmp_path / "e/boxes.csv")
    assert answer.json["boxes"] == len(table) > 0
    maps = xt.load_heatmaps(tmp_path / "e")
    boxes = xt.boxes_from_maps(maps)
    pd.testing.assert_frame_equal(table, boxes.to_dataframe(), check_dtype=False)
    assert json.loads((tmp_path / "e/boxes.json").read_text(encoding="utf-8")) == boxes.to_coco()
    # The notebook's function on the same maps gives the same scores.
    rows = [demo.paths().index(path) for path in images]
    again = score_boxes(boxes, masks=[demo.mask(i) for i in rows], groups=list(demo.groups[rows]))
    told = json.loads((tmp_path / "e/box-scores.json").read_text(encoding="utf-8"))
    assert told["scores"] == answer.json["box_scores"]
    assert [row["f1"] for row in told["scores"]] == pytest.approx(again.table["f1"].to_list(), nan_ok=True)
    assert len(pd.read_csv(tmp_path / "e/box-scores.csv")) == 4
    assert not (tmp_path / "e/scores.csv").exists()  # the maps are scored only with --score
    explain(tmp_path, "--block", "5")
    assert not list((tmp_path / "e").glob("box*"))  # they were of other maps


def test_boxes_against_given_ones(explain, images, tmp_path):
    (tmp_path / "true.csv").write_text(f"file,x,y,width,height\ncrack/{images[0].name},0,0,32,32\n")
    answer = explain(
        tmp_path, "--true-boxes", "true.csv", "--box-threshold", "0.01", "--box-regions", "all", "--block", "1"
    )
    assert answer.status == 0, answer.err
    assert "regions of at least 0.10% of an image above 1% of a map's maximum, on 2 images" in answer.out
    assert "Boxes against the true ones, 1 image " in answer.out
    assert "Block 1, IoU 0.25" in answer.out
    assert "1 image left out, of which no true box is known" in answer.out
    assert "Wrote e/box-scores.csv" in answer.out


def test_boxes_of_an_earlier_call_as_true_ones_are_all_found(explain, tmp_path):
    options = ["--block", "4", "--box-regions", "all", "--box-threshold", "0.5"]
    assert explain(tmp_path, *options).status == 0
    answer = explain(tmp_path, *options, "--true-boxes", "e/boxes.json", "--json")
    assert [row["f1"] for row in answer.json["box_scores"]] == [1, 1]
    assert "a box only finds true ones of the class that it explains" in answer.err


def test_images_without_a_true_box_are_not_scored(explain, images, tmp_path):
    (tmp_path / "true.csv").write_text(f"file,x,y,width,height\n{images[0].name},,,,\n{images[1].name},,,,\n")
    answer = explain(tmp_path, "--true-boxes", "true.csv", "--block", "5")
    assert answer.status == 0, answer.err
    assert "None of the images has a true box, so boxes are not scored." in answer.err


def test_boxes_alone_are_not_scored(explain, tmp_path):
    answer = explain(tmp_path, "--boxes", "--method", "cam")
    assert answer.status == 0, answer.err
    assert "around the largest region above 20% of a map's maximum" in answer.out
    assert set(pd.read_csv(tmp_path / "e/boxes.csv")["rule"]) == {"cam"}
    assert not (tmp_path / "e/box-scores.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--box-threshold", "2"], "threshold must be above 0 and at most 1. Received: threshold=2.0."),
        (["--box-regions", "both"], "regions must be one of largest, all."),
        (["--boxes", "--method", "lime"], "use --method gradcam or cam. Received: method=lime."),
        (["--true-boxes", "no.csv"], "No file of boxes at no.csv. Check the path."),
        (["--true-boxes", "short.csv"], "short.csv lacks the column height."),
    ],
)
def test_a_wrong_call_is_told_in_one_error(explain, tmp_path, options, message):
    (tmp_path / "short.csv").write_text("file,x,y,width\na.png,1,2,3\n")
    answer = explain(tmp_path, *options)
    assert (answer.status, message in answer.error) == (2, True), answer.err
    assert not (tmp_path / "e").exists()
