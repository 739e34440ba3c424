"""Images without labels: drift is found where it was made and hardly elsewhere, and what to label first is said."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import xaitune as xt
from xaitune.advise import unlabelled
from xaitune.advise.drift import comparable_data
from xaitune.advise.unlabelled import UnlabelledDrift, drift_without_labels, images_to_label
from xaitune.config.settings import DataConfig
from xaitune.data.unlabelled import is_flat, unlabelled_images
from xaitune.errors import ConfigError, DataError

SIZE = {"image_size": (32, 32)}


def flat_copy(demo, folder, change):
    """The demo's images, changed, all directly in one folder, with their groups in groups.csv beside it."""
    rows = []
    folder.mkdir()
    for path, group in zip(demo.paths(), demo.groups, strict=True):
        image = change(np.asarray(Image.open(path).convert("L"), np.float32))
        file = folder / f"{path.parent.name}-{path.name}"
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(file)
        rows.append({"file": file.name, "group": group})
    pd.DataFrame(rows).to_csv(folder.parent / f"{folder.name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def faint(demo, tmp_path_factory):
    """The demo's images with every value one higher: other files, and no drift to speak of."""
    return flat_copy(demo, tmp_path_factory.mktemp("faint") / "images", lambda image: image + 1)


def test_nearly_the_same_images_have_not_drifted(demo, run, faint, tmp_path):
    drift = drift_without_labels(run, faint, groups=faint.parent / "images.csv", runs_dir=tmp_path)
    assert drift.p > 0.05
    assert drift.p_predicted > 0.05
    assert drift.retrain == "unknown"  # 11 validation groups
    groups = len(set(demo.groups))
    validation = demo.indices("validation")
    assert drift.scores["images"].tolist() == [len(set(demo.groups[validation])), groups]
    assert f"of the {len(validation)} validation images of {run.path}" in drift.text
    assert "One image of each group was compared, at most 400 of each set." in drift.text
    assert drift.predicted.sum().tolist() == pytest.approx([1, 1])
    assert len(drift.to_label) == groups == drift.to_label["group"].nunique()
    assert drift.path == tmp_path / "drift"
    written = json.loads((tmp_path / "drift/drift.json").read_text())
    assert (written["retrain"], written["p"]) == ("unknown", drift.p)
    assert pd.read_csv(tmp_path / "drift/to_label.csv")["file"].tolist() == drift.to_label["file"].tolist()
    assert {path.name for path in drift.path.iterdir()} >= {"config.json", "drift.csv", "drift.png", "predicted.csv"}


def test_darker_images_have_drifted(demo, run, tmp_path):
    dark = flat_copy(demo, tmp_path / "images", lambda image: image / 2)
    drift = drift_without_labels(run.path, dark, groups=tmp_path / "images.csv", runs_dir=tmp_path / "runs")
    assert drift.p <= 0.05
    assert drift.retrain == "drifted"
    assert drift.headline.startswith("The images have drifted.")
    assert "differ in Block 1" in drift.text
    assert "look at the lighting first" in drift.text
    assert "Only labels tell whether the accuracy has fallen" in drift.text
    assert drift.blocks[["empty_old", "empty_new", "maps_old", "maps_new"]].notna().all(axis=None)


def test_an_image_for_each_group_and_no_more(demo):
    """A group with six exposures counts as one with one, so that other numbers of exposures are no drift."""
    rows = unlabelled.one_of_each_group(demo, np.arange(len(demo)))
    assert sorted(demo.groups[rows]) == sorted(set(demo.groups))
    assert list(rows) != sorted(rows)


def test_large_groups_come_first_no_more_often_than_small_ones():
    """Of 500 groups of six and 500 of one image about half of those drawn are large; before, nine in ten were."""
    groups = np.repeat(np.arange(1000), [6] * 500 + [1] * 500)
    rows = unlabelled.one_of_each_group(SimpleNamespace(groups=groups), np.arange(len(groups)))
    assert len(set(groups[rows])) == len(rows) == unlabelled.MOST_IMAGES
    for drawn in (groups[rows], groups[rows[: unlabelled.RANDOM]]):
        assert 0.35 < (drawn < 500).mean() < 0.65


def test_no_difference_is_found_more_often_than_promised():
    """Of 100 p-values of shares without a difference about 5 are below .05."""
    rng = np.random.default_rng(7)

    def p_value(shares_old, shares_new):
        names = {
            "old": rng.choice(["a", "b", "c"], 40, p=shares_old),
            "new": rng.choice(["a", "b", "c"], 90, p=shares_new),
        }
        return unlabelled.same_shares(names, {which: np.arange(len(drawn)) for which, drawn in names.items()})

    same, other = (0.7, 0.25, 0.05), (0.25, 0.7, 0.05)
    assert np.mean([p_value(same, same) <= 0.05 for _ in range(100)]) <= 0.1
    assert np.mean([p_value(same, other) <= 0.05 for _ in range(10)]) == 1
    assert np.isnan(p_value((1, 0, 0), (1, 0, 0)))


def test_two_tests_do_not_double_the_alarms(demo, run, faint, tmp_path, monkeypatch):
    """Features and predicted classes are both tested, so that a p of .03 in each is no finding."""
    blocks = pd.DataFrame({"distance": 0.1, "usual": 0.2, "p": 0.03}, index=pd.Index(range(1, 6), name="block"))
    monkeypatch.setattr(unlabelled, "two_samples", lambda features, *_: blocks[: len(features)])
    drift = drift_without_labels(run, faint, groups=faint.parent / "images.csv", runs_dir=tmp_path)
    assert (drift.p, drift.p_predicted, drift.retrain) == (0.06, 0.06, "unknown")
    assert unlabelled.for_two_tests(0.9) == 1


def test_random_images_are_labelled_before_uncertain_ones(monkeypatch):
    monkeypatch.setattr(unlabelled, "RANDOM", 2)
    table = pd.DataFrame(
        {"file": list("abcde"), "predicted": "x", "probability": [0.9, 0.5, 0.8, 0.4, 0.6], "group": 1}
    )
    ordered = images_to_label(table)
    assert ordered["file"].tolist() == ["a", "b", "d", "e", "c"]
    assert ordered["why"].tolist() == ["random", "random", "uncertain", "uncertain", "uncertain"]


def table_drift(p=0.5, p_predicted=0.5, groups=40, new=(0.7, 0.2, 0.1), random=100, uncertain=20):
    blocks = pd.DataFrame({"distance": 0.1, "usual": 0.2, "p": p}, index=pd.Index(range(1, 6), name="block"))
    return UnlabelledDrift(
        *(
            blocks,
            pd.DataFrame({"images": groups, "of": groups, "groups": groups}, index=["old", "new"]),
            "gini",
            0,
            "runs/old",
        ),
        predicted=pd.DataFrame({"old": (0.7, 0.2, 0.1), "new": new}, index=["free", "crack", "hole"]),
        p_predicted=p_predicted,
        to_label=pd.DataFrame({"why": ["random"] * random + ["uncertain"] * uncertain}),
    )


def test_what_follows_from_the_figures():
    assert table_drift().retrain == "no"
    assert table_drift(p=0.01, p_predicted=0.01).retrain == "drifted"
    assert table_drift(groups=6).retrain == table_drift(p=np.nan).retrain == "unknown"
    assert "With so few groups that says little." in table_drift(groups=6).text
    shares = table_drift(p_predicted=0.01, new=(0.2, 0.4, 0.4))
    assert shares.retrain == "classes"
    assert "differ more than by chance (p = 0.010), most for free: 70% then, 20% now." in shares.text
    assert "Label the first 100 images of to_label.csv" in shares.text
    assert "wide where a class has few images. The other 20 follow" in shares.text
    assert "The other" not in table_drift(random=25, uncertain=0).text
    assert shares.headline.startswith("No drift was found, but")
    for unclear in (table_drift(p=np.nan, p_predicted=0.01), table_drift(p_predicted=0.01, groups=6)):
        assert unclear.retrain == "classes"
        assert "No drift" not in unclear.headline
        assert "whether these have drifted is not known" in unclear.headline
    assert "With so few groups that says little." in unclear.text
    assert not hasattr(shares, "score_gap")
    assert "Then as now all are predicted to be free." in table_drift(p_predicted=np.nan, new=(1.0, 0.0, 0.0)).text


@pytest.mark.parametrize(
    ("files", "flat"),
    [
        (["1.png", "2.png"], True),
        (["1.png", "masks/1.png", "notes/read.txt"], True),
        (["1.png", "crack/2.png"], False),  # class folders, and an image that belongs to no class
        (["crack/1.png"], False),
        (["read.txt"], False),
    ],
)
def test_a_flat_folder_is_told_from_class_folders(tmp_path, files, flat):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert is_flat(tmp_path) is flat
    assert not is_flat(tmp_path / "nowhere")


def test_what_cannot_be_compared_is_refused(demo, run, faint, tmp_path):
    larger = unlabelled_images(DataConfig(str(faint), image_size=(48, 48)))
    with pytest.raises(ConfigError, match="must be 32x32"):
        comparable_data(run, larger)
    same = flat_copy(demo, tmp_path / "same", lambda image: image)
    for path in demo.paths():  # byte for byte
        (same / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="are among the training, validation and test images of"):
        drift_without_labels(run, same, runs_dir=tmp_path / "runs")
    (tmp_path / "empty").mkdir()
    with pytest.raises(xt.ImageError, match="No images in"):
        drift_without_labels(run, tmp_path / "empty", runs_dir=tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"have labels \(blowhole, .* give a folder with images directly in it"):
        drift_without_labels(run, demo, runs_dir=tmp_path / "runs")
    with pytest.raises(xt.ImageError, match="No images directly in"):
        drift_without_labels(run, demo.root, runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_masks_in_a_folder_of_their_own_are_no_images(demo, tmp_path):
    for file in ("1.png", "masks/1.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(Path(demo.paths()[0]).read_bytes())
    assert is_flat(tmp_path)
    assert unlabelled_images(DataConfig(str(tmp_path), **SIZE)).files == ("1.png",)


def test_images_of_the_run_are_left_out(demo, run, faint, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in sorted(faint.iterdir())[:30]:
        (mixed / path.name).write_bytes(path.read_bytes())
    known = Path(demo.paths()[0])
    (mixed / "known.png").write_bytes(known.read_bytes())
    data = unlabelled_images(DataConfig(str(mixed), **SIZE))
    drift = drift_without_labels(run, data, runs_dir=tmp_path / "runs")
    assert drift.known == 1
    assert "known.png" not in drift.to_label["file"].tolist()
    assert len(drift.to_label) == 30
