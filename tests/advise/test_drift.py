"""Drift: no difference is found where there is none, and the kind of change that was made is found and named."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaitune.advise.drift import Drift, comparable_data, measure_drift
from xaitune.advise.exchange import two_samples
from xaitune.advise.recommend import advise_freeze
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, DataError
from xaitune.models.weights import load_backbone

RNG_SEED = 7


def drawn(rng, groups=30, per_group=3, shift=0.0, shares=(0.5, 0.5), both=0.0):
    """Features whose groups differ as much as their images, class names and groups; a share `both` of the groups has two
    classes.
    """
    rows = []
    for group in range(groups):
        names = ("a", "b") if rng.random() < both else (rng.choice(("a", "b"), p=shares),)
        centre = rng.normal(size=8)
        for i in range(per_group * len(names)):
            name = names[i % len(names)]
            rows.append((centre + rng.normal(size=8) + 3 * (name == "a") + shift, name, group))
    features, labels, numbers = zip(*rows, strict=True)
    return np.array(features), np.array(labels), np.array(numbers)


def compared(old, new):
    classes, groups = ({"old": old[i], "new": new[i]} for i in (1, 2))
    return two_samples([(old[0], new[0])], classes, groups)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"shares": (0.8, 0.2)}),  # other shares of the classes
        ({"groups": 30, "per_group": 6}, {"groups": 60, "per_group": 1}),  # single images against groups
        ({"both": 0.8}, {"both": 0.8}),  # groups with both classes
    ],
)
def test_no_difference_is_found_more_often_than_promised(old, new):
    """Of 100 p-values without drift about 5 are below .05; before, up to 87 % were."""
    rng = np.random.default_rng(RNG_SEED)
    found = [compared(drawn(rng, **old), drawn(rng, **new))["p"].item() <= 0.05 for _ in range(100)]
    assert np.mean(found) <= 0.1


def test_a_shift_is_found_in_the_features_that_have_it():
    rng = np.random.default_rng(RNG_SEED)
    old, shifted = drawn(rng), drawn(rng, shift=1.5)
    classes, groups = {"old": old[1], "new": shifted[1]}, {"old": old[2], "new": shifted[2]}
    noise_old, noise_new = (rng.normal(size=x.shape) for x in (old[0], shifted[0]))
    table = two_samples([(noise_old, noise_new), (old[0], shifted[0])], classes, groups)
    assert table["p"][2] == 0.001
    assert table["p"][1] > 0.05
    assert table["distance"][2] > table["usual"][2]
    single = drawn(rng, per_group=1)
    assert compared(single, single)["distance"][1] == pytest.approx(0, abs=1e-12)
    assert compared(single, single)["p"][1] == 1
    features, labels, numbers = single
    other = {"old": labels, "new": np.char.add(labels, "x")}
    assert two_samples([(features, features)], other, {"old": numbers, "new": numbers}).isna().all(axis=None)


def test_the_distance_is_the_energy_distance():
    """Against SciPy's, for one feature and one class: D^2 / (2 E|X - Y|)."""
    from scipy.stats import energy_distance

    rng = np.random.default_rng(RNG_SEED)
    old, new = rng.normal(size=(12, 1)), rng.normal(1, 1, (9, 1))
    classes = {"old": np.repeat("a", 12), "new": np.repeat("a", 9)}
    groups = {"old": np.arange(12), "new": np.arange(9)}
    between = np.abs(old - new.T).mean()
    expected = energy_distance(old[:, 0], new[:, 0]) ** 2 / (2 * between)
    assert two_samples([(old, new)], classes, groups)["distance"].item() == pytest.approx(expected)


def copied(demo, folder, change=None, rename=None):
    """The demo's images, changed, as a data set of their own."""
    table = []
    for i in range(len(demo)):
        name = demo.class_names[demo.labels[i]]
        name = (rename or {}).get(name, name)
        image = np.asarray(Image.open(demo.root / demo.files[i]).convert("L"), np.float32)
        file = Path(folder) / name / Path(demo.files[i]).name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(change(image) if change else image, 0, 255).astype(np.uint8)).save(file)
        table.append({"file": file, "label": name, "group": demo.groups[i]})
    pd.DataFrame(table).to_csv(Path(folder) / "list.csv", index=False)
    return ImageData.from_csv(Path(folder) / "list.csv", image_size=(32, 32))


@pytest.fixture(scope="module")
def faint(demo, tmp_path_factory):
    """The demo's images with every value one higher: other files, and no drift to speak of."""
    return copied(demo, tmp_path_factory.mktemp("faint"), lambda image: image + 1)


def test_brighter_images_have_drifted(demo, run, tmp_path):
    brighter = measure_drift(run, demo, copied(demo, tmp_path, lambda image: image + 70))
    assert brighter.p <= 0.05
    assert brighter.retrain in ("yes", "drifted")
    assert "differ in Block 1" in brighter.text
    numbers = brighter.blocks[["distance", "usual", "p", "empty_old", "empty_new", "maps_old", "maps_new"]]
    assert numbers.notna().all(axis=None)


def test_nearly_the_same_images_have_not(demo, run, faint):
    drift = measure_drift(run, demo, faint)
    assert drift.p > 0.05
    assert drift.retrain == "unknown"  # 11 groups
    assert "With so few groups that says little." in drift.text
    assert drift.scores.loc["new", "groups"] == 22


def test_new_classes_are_named_and_counted(demo, run, tmp_path):
    name = demo.class_names[0]
    data = copied(demo, tmp_path, lambda image: image + 1, {name: "unheard of"})
    drift = measure_drift(run, demo, data)
    images = sum(
        data.class_names[data.labels[i]] == "unheard of" for s in ("train", "validation") for i in data.indices(s)
    )
    assert drift.new_classes == {"unheard of": images}
    assert drift.retrain == "yes"
    assert "The model does not know the class unheard of" in drift.text


def table_drift(p=0.5, old=(0.8, 0.75, 0.85), new=(0.8, 0.75, 0.85), groups=40, few=""):
    blocks = pd.DataFrame({"distance": 0.1, "usual": 0.2, "p": p}, index=pd.Index(range(1, 6), name="block"))
    rows = [dict(zip(("score", "low", "high"), row, strict=True)) for row in (old, new)]
    scores = pd.DataFrame(
        [row | {"images": 90, "of": 90, "groups": groups, "few": few} for row in rows], index=["old", "new"]
    )
    return Drift(blocks, scores, "gini", 0, "runs/old")


def test_the_text_says_how_many_of_the_images_were_compared():
    every = table_drift()
    assert "The features of 90 validation images of runs/old (40 groups) and 90 new images (40 groups) do" in every.text
    assert "At most 400" not in every.text
    some = dataclasses.replace(every, scores=every.scores.assign(of=[1225, 90]))
    assert "of 90 of the 1,225 validation images of runs/old (40 groups) and 90 new images (40 groups) do" in some.text
    assert "At most 400 images of each were compared, in whole groups drawn at random." in some.text


def test_what_follows_from_the_figures():
    """A fallen score asks for training; a drift alone does not, and few groups tell nothing."""
    fallen = table_drift(new=(0.5, 0.4, 0.6))
    assert fallen.score_gap[0] == pytest.approx(-0.3)
    assert fallen.score_gap[2] == pytest.approx(-0.3 + np.hypot(0.1, 0.05))
    assert fallen.retrain == "yes"
    assert "lower: 0.800 then, 0.500 now (-30.0 points" in fallen.text
    assert table_drift(new=(0.5, 0.4, 0.6), few="2 groups").retrain == "no"
    assert table_drift(p=0.01).retrain == "drifted"
    assert table_drift(p=0.01, new=(0.95, 0.94, 0.96)).retrain == "drifted"
    assert table_drift().retrain == "no"
    assert table_drift(groups=6).retrain == "unknown"
    assert table_drift(p=np.nan).retrain == "unknown"
    assert "of the new images there are only 2 groups" in table_drift(few="2 groups").text


def test_images_too_few_to_be_split_are_all_compared(demo, run, faint, tmp_path):
    assert measure_drift(run, demo, faint).scores.loc["new", "images"] < len(faint)
    table = pd.read_csv(faint.config.path)
    rare = table[table["label"] != demo.class_names[0]]
    rare = pd.concat([rare, table[table["label"] == demo.class_names[0]].head(1)])
    rare.to_csv(tmp_path / "list.csv", index=False)
    data = ImageData.from_csv(tmp_path / "list.csv", image_size=(32, 32))
    drift = measure_drift(run, demo, data)
    assert (drift.scores.loc["new", "images"], drift.known) == (len(rare), 0)
    assert "of the new images there are only 1 group in the smallest class" in drift.text


def test_lighting_and_missing_classes_are_named():
    darker = dataclasses.replace(table_drift(), grey=(80.0, 40.0), missing=("crack",), new_classes={"fissure": 9})
    assert "Their mean grey value is 40, and was 80: look at the lighting first." in darker.text
    assert (
        "These images lack crack, so the accuracy is that of the other classes. A class that was only renamed"
        in darker.text
    )
    assert "grey value" not in table_drift().text


def test_advice_for_training_again(demo, run, faint, tmp_path):
    """It rests on the run's weights, and its folder tells runs apart that have the same ones."""
    advice = advise_freeze(faint, model=run.path, runs_dir=tmp_path)
    assert advice.method == "features"
    assert advice.retrain == "unknown"
    assert advice.headline.startswith("Too few images to tell drift. If you train the model again, do it")
    assert advice.weights == load_backbone(run.path).digest
    assert {"drift.csv", "drift.png"} <= {path.name for path in advice.path.iterdir()}
    identity = json.loads((advice.path / "config.json").read_text())["identity"]
    assert len(identity["retrained"]) == 16


def test_what_cannot_be_compared_is_refused(demo, run, faint, tmp_path):
    larger = ImageData.from_csv(faint.config.path, image_size=(48, 48))
    with pytest.raises(ConfigError, match="must be 32x32"):
        advise_freeze(larger, model=run.path, runs_dir=tmp_path / "runs")
    strangers = copied(demo, tmp_path / "other", rename={name: f"new {name}" for name in demo.class_names})
    with pytest.raises(DataError, match="knows none of these classes"):
        advise_freeze(strangers, model=run, runs_dir=tmp_path / "runs")
    again = ImageData.from_folder(demo.root, groups=demo.config.groups, image_size=(32, 32), split_seed=1)
    with pytest.raises(DataError, match="are among the training, validation and test images of"):
        advise_freeze(again, model=run, runs_dir=tmp_path / "runs")
    with pytest.raises(ConfigError, match="take a finished run that was trained on other images"):
        advise_freeze(demo, model=run, method="features", runs_dir=tmp_path / "runs")
    for change, message in (
        ({"state": "diverged"}, "diverged: it has no model"),
        ({"config": TrainConfig(head="blocks", freeze_through=5, head_blocks="best")}, "Give a run of all five blocks"),
    ):
        with pytest.raises(ConfigError, match=message):
            comparable_data(dataclasses.replace(run, **change), faint)
    assert not (tmp_path / "runs").exists()
    assert comparable_data(run, faint).fingerprint == demo.fingerprint
