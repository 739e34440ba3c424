"""A segmentation from the command line: check, train, predict, explain, compare, sweep and report, and what is refused."""

import shlex
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from driving import xaitune

TRAIN = ["--weights", "slim", "--precision", "float32", "--head-epochs", "4", "--epochs", "1", "--batch-size", "8"]


@pytest.fixture(scope="module")
def project(marked, tmp_path_factory):
    """A folder whose xaitune.toml asks for a segmentation of `marked`, with one run, and what each command said."""
    folder, root = tmp_path_factory.mktemp("segment"), marked.root
    data = [root, "--masks", root.parent / "masks", "--image-size", "32x32"]
    said = {"init": xaitune(folder, "init", *data, "--task", "segment", "--loss", "dice", *TRAIN)}
    said["train"] = xaitune(folder, "train", "--freeze-through", "4")
    return folder, said


def test_train_says_each_class_and_the_baseline(project):
    folder, said = project
    assert said["init"].status == 0, said["init"].err
    assert 'task = "segment"' in (folder / "xaitune.toml").read_text()
    train = said["train"]
    assert train.status == 0, train.err
    for text in ("Segmentation, Block 1-4 frozen", "all background", "square", "IoU", "Test mean IoU"):
        assert text in train.out + train.err
    assert (folder / "runs/freeze4-nag-seed0/segmentation.png").stat().st_size > 10_000


def test_data_check_counts_pixels(project):
    folder, _ = project
    said = xaitune(folder, "data-check")
    assert said.status == 0, said.err
    assert "Pixels per class" in said.out + said.err
    assert "Marked pixels are 8.0% of all" in said.out + said.err
    problems = pd.read_csv(folder / "runs/data-check/problems.csv")
    assert "pixel shares" in problems["kind"].tolist()
    grouped = ["--groups", "runs/data-check/groups.csv"]  # which it proposes
    following = shlex.split(xaitune(folder, "data-check", *grouped, "--json").json["next"])
    assert following == ["xaitune", "train", *grouped]  # advice needs a trained model


def test_predict_writes_masks_that_can_be_trained_on(project, marked):
    folder, _ = project
    said = xaitune(folder, "predict", "runs/freeze4-nag-seed0", marked.root, "--csv", "p.csv", "--json")
    assert said.status == 0, said.err
    table = pd.read_csv(folder / "p.csv")
    assert len(table) == 48
    masks = sorted((folder / "runs/predict/masks").rglob("*.png"))
    assert len(masks) == 48
    mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (40, 48)
    assert set(np.unique(mask)) <= {0, 1, 2}
    values = "0=background,1=bar,2=square"
    again = xaitune(
        folder, "data-check", marked.root, "--masks", "runs/predict/masks", "--pixel-classes", values, "--json"
    )
    assert again.status in (0, 2), again.err  # what was predicted decides whether every class is there
    assert "unknown values" not in again.err


def test_explain_scores_the_maps_of_all_blocks(project, marked):
    folder, _ = project
    bars = sorted((marked.root / "bar").iterdir())[:3]
    said = xaitune(folder, "explain", *bars, "--class", "bar", "--score", "--score-images", "1", "--json")
    assert said.status == 0, said.err
    blocks = {row["block"] for row in said.json["scores"]}
    assert blocks == {1, 2, 3, 4, 5}


def test_advice_looks_at_the_heatmaps_of_a_segmentation(project):
    folder, _ = project
    said = xaitune(folder, "advise", "--model", "runs/freeze4-nag-seed0", "--json")
    assert said.status == 0, said.err
    assert said.json["freeze_through"] in range(1, 6)
    evidence = pd.read_csv(folder / "runs/advice/evidence.csv")
    assert evidence["block"].tolist() == [1, 2, 3, 4, 5]
    assert "average_precision" in evidence  # against the masks


def test_compare_sweep_and_report(project):
    folder, _ = project
    grid = ["--factor", "loss", "--values", "focal,dice", "--seeds", "1", "--learning-rates", "own", "--workers", "1"]
    said = xaitune(folder, "compare", *grid)
    assert said.status == 0, said.err
    assert "Test IoU of each class" in said.out + said.err
    assert "all background" in said.out + said.err
    sweep = ["--freeze-through", "4-5", "--optimizers", "nag", "--seeds", "1", "--learning-rates", "own"]
    said = xaitune(folder, "sweep-freeze", *sweep, "--json")
    assert said.status == 0, said.err
    assert {cell["name"] for cell in said.json["cells"]} == {"freeze4-nag", "freeze5-nag"}
    assert said.json["verdict"] in (None, "confirmed", "contradicted", "cannot tell")  # advice on the run may be there
    said = xaitune(folder, "report")
    assert said.status == 0, said.err
    page = (folder / "runs/sweep/report.html").read_text()
    assert "Pixels of the test images" in page
    assert "the predicted classes and the pixels in error" in page


REFUSED = {
    "no masks": (["train", "{images}", "--task", "segment"], 2, "A segmentation needs masks"),
    "other metric": (
        ["train", "{images}", "--task", "segment", "--metric", "accuracy"],
        2,
        "metric must be one of iou_mean",
    ),
    "advice": (["advise"], 2, "looks at the heatmaps of one"),
    "collect": (["collect"], 2, "give --task classify"),
    "task as a factor": (["compare", "--factor", "task", "--values", "classify,segment"], 2, "factor must be one of"),
    "cam": (["explain", "{images}", "--method", "cam"], 2, "It has no GAP head"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, project, marked, tmp_path):
    arguments, status, message = REFUSED[name]
    folder = project[0] if name in ("advice", "cam", "collect", "task as a factor") else tmp_path
    said = xaitune(folder, *(str(a).format(images=marked.root) for a in arguments))
    assert said.status == status, said.out + said.err
    assert message in said.error
    assert "Traceback" not in said.err


def test_data_check_lists_every_wrong_mask(marked, tmp_path):
    shutil.copytree(marked.root.parent, tmp_path / "data")
    masks = sorted((tmp_path / "data/masks/bar").iterdir())
    cv2.imwrite(str(masks[0]), np.zeros((10, 10), np.uint8))
    masks[1].unlink()
    data = [tmp_path / "data/images", "--masks", tmp_path / "data/masks", "--pixel-classes", "mark"]
    said = xaitune(tmp_path, "data-check", *data, "--image-size", "32x32")
    assert said.status == 2
    assert "1 mask with another size than the image (height x width: 10 x 10 for 40 x 48)" in said.err
    problems = pd.read_csv(tmp_path / "runs/data-check/problems.csv").set_index("kind")
    assert problems.loc["mask of another size", "files"] == f"bar/{masks[0].name}"
    assert problems.loc["mask missing", "files"] == f"bar/{masks[1].name}"
