"""Drift: no difference is found where there is none, and the kind of change that was made is found and named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xaitune.advise.drift import comparable_data, measure_drift, two_samples
from xaitune.advise.recommend import advise_freeze
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, DataError
from xaitune.models.weights import load_backbone

RNG_SEED = 7


def drawn(rng, groups=30, per_group=3, shift=0.0, classes=("a", "b"), shares=(0.5, 0.5)):
    """Features whose groups differ more than their images do, with class names and groups."""
    labels = rng.choice(classes, groups, p=shares)
    centres = rng.normal(0, 1, (groups, 4)) + 3 * (labels == classes[0])[:, None]
    features = np.repeat(centres, per_group, axis=0) + rng.normal(0, 0.1, (groups * per_group, 4)) + shift
    return features, np.repeat(labels, per_group), np.repeat(np.arange(groups), per_group)


def compared(old, new):
    classes, groups = ({"old": old[i], "new": new[i]} for i in (1, 2))
    return two_samples([(old[0], new[0]), (old[0], old[0].mean() + 0 * new[0])], classes, groups)


def test_no_difference_is_found_more_often_than_promised():
    """Groups of like images, and other shares of the classes, are no drift: about 5 % of 60 p-values are below .05."""
    rng = np.random.default_rng(RNG_SEED)
    found = []
    for _ in range(60):
        old, new = drawn(rng, groups=16), drawn(rng, groups=16, shares=(0.8, 0.2))
        classes, groups = ({"old": old[i], "new": new[i]} for i in (1, 2))
        found.append(two_samples([(old[0], new[0])], classes, groups)["p"].item() <= 0.05)
    assert np.mean(found) < 0.15


def test_a_shift_is_found_in_the_features_that_have_it():
    rng = np.random.default_rng(RNG_SEED)
    old, new, shifted = drawn(rng), drawn(rng), drawn(rng, shift=1.5)
    classes, groups = {"old": old[1], "new": shifted[1]}, {"old": old[2], "new": shifted[2]}
    noise_old, noise_new = (rng.normal(size=x.shape) for x in (old[0], shifted[0]))
    table = two_samples([(noise_old, noise_new), (old[0], shifted[0])], classes, groups)
    assert table["p"].tolist() == [pytest.approx(table["p"][1]), 0.001]
    assert table["p"][1] > 0.05
    assert table["distance"][2] > table["usual"][2]
    same = two_samples([(old[0], old[0])], {"old": old[1], "new": old[1]}, {"old": old[2], "new": old[2]})
    assert same["distance"][1] == pytest.approx(0, abs=1e-12)
    assert same["p"][1] == 1
    assert compared(old, new)["p"].between(0, 1).all()


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


def test_brighter_images_have_drifted_and_new_classes_are_named(demo, run, tmp_path):
    brighter = measure_drift(run, demo, copied(demo, tmp_path / "bright", lambda image: image + 70))
    assert brighter.p <= 0.05
    assert brighter.found
    assert "differ in Block 1" in brighter.text
    assert (
        brighter.blocks[["distance", "usual", "p", "empty_old", "empty_new", "maps_old", "maps_new"]]
        .notna()
        .all(axis=None)
    )
    renamed = measure_drift(run, demo, copied(demo, tmp_path / "new", rename={demo.class_names[0]: "unheard of"}))
    assert renamed.new_classes.keys() == {"unheard of"}
    assert renamed.found
    assert "does not know the class unheard of" in renamed.text


def test_advice_for_training_again(demo, run, tmp_path):
    """The same images listed anew have not drifted: keep the model; the advice rests on its weights."""
    data, notes = copied(demo, tmp_path / "same"), []
    advice = advise_freeze(data, model=run.path, runs_dir=tmp_path / "runs", notes=notes.append)
    assert advice.method == "features"
    assert advice.drift
    assert advice.keep == advice.headline.startswith("Keep the model.")
    assert advice.weights == load_backbone(run.path).digest
    assert {"drift.csv", "drift.png"} <= {path.name for path in advice.path.iterdir()}
    identity = json.loads((advice.path / "config.json").read_text())["identity"]
    assert identity["retrained"] == run.fingerprint


def test_what_cannot_be_compared_is_refused(demo, run, tmp_path):
    copied(demo, tmp_path / "same")
    larger = ImageData.from_csv(tmp_path / "same" / "list.csv", image_size=(48, 48))
    with pytest.raises(ConfigError, match="must be 32x32"):
        advise_freeze(larger, model=run, runs_dir=tmp_path / "runs")
    strangers = copied(demo, tmp_path / "other", rename={name: f"new {name}" for name in demo.class_names})
    with pytest.raises(DataError, match="knows none of these classes"):
        advise_freeze(strangers, model=run, runs_dir=tmp_path / "runs")
    with pytest.raises(ConfigError, match="take a finished run that was trained on other images"):
        advise_freeze(demo, model=run, method="features", runs_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    assert comparable_data(run, demo).fingerprint == demo.fingerprint
