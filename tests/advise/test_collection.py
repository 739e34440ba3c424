"""What to collect next: held-out predictions against scikit-learn, drawn features with a known answer, and the folder."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from xaitune.advise import collection
from xaitune.advise.collection import CollectionAdvice, advise_collection, load_collection
from xaitune.advise.held_out import HeldOut
from xaitune.errors import ConfigError, RunError


def drawn(counts, overlap=(), seed=0, width=12):
    """Features of classes of so many groups of two images; those in `overlap` lie close together."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 2.0, (len(counts), width))
    for a, b in overlap:
        centres[a] = centres[b] + 0.15
    labels = np.repeat(np.arange(len(counts)), [2 * n for n in counts])
    groups = np.arange(len(labels)) // 2
    features = centres[labels] + rng.normal(0, 1, (len(labels), width))
    return features.astype(np.float32), labels, groups


def held_out_of(*args, **options):
    features, labels, groups = drawn(*args, **options)
    return HeldOut(features, labels, groups, int(labels.max()) + 1, "f1_macro")


def test_predictions_are_those_of_ridge_regression_without_the_images_group():
    """With the penalty of the fold's own cross-validation, and every class at the weight it has among all images."""
    held_out = held_out_of([8, 10, 6])
    keep = np.random.default_rng(1).random(len(held_out.labels)) < 0.7
    for part in (None, keep):
        expected = np.empty(len(held_out.labels), int)
        for fold, test in enumerate(held_out.folds):
            outside = np.ones(len(held_out.labels), bool)
            outside[test] = False
            chosen = outside if part is None else outside & part
            labels = held_out.labels[chosen]
            weights = (np.bincount(held_out.labels[outside]) / np.bincount(labels))[labels]
            model = Ridge(alpha=held_out.fitted(fold).penalty * len(labels))
            model.fit(held_out.standard[chosen], np.eye(3)[labels], sample_weight=weights / weights.mean())
            expected[test] = model.predict(held_out.standard[test]).argmax(axis=1)
        np.testing.assert_array_equal(held_out.predict(part), expected)
    for test in held_out.folds:
        assert not set(held_out.groups[test]) & set(np.delete(held_out.groups, test))
    predicted = held_out.predict()
    for fold, test in enumerate(held_out.folds):
        head = held_out.fitted(fold)
        logits = (held_out.features[test] - head.mean) / np.sqrt(head.variance) @ head.kernel + head.bias
        np.testing.assert_array_equal(logits.argmax(axis=1), predicted[test])


def test_noise_and_uneven_classes_need_no_more_images_of_one_class():
    """Six classes without any information; and two that differ in number, where the curve is flat."""
    found = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        labels, groups = np.repeat(np.arange(6), 40), np.arange(240)
        held_out = HeldOut(rng.normal(size=(240, 30)).astype(np.float32), labels, groups, 6, "f1_macro")
        classes = collection._classes(held_out, held_out.predict(), tuple("abcdef"), "f1_macro", None)
        found += bool((classes["gain_low"] > 0).any())
    assert found <= 2
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [400, 80])
    features = (rng.normal(size=(480, 2)) + 1.5 * labels[:, None]).astype(np.float32)
    held_out = HeldOut(features, labels, np.arange(480), 2, "f1_macro")
    uneven = collection._classes(held_out, held_out.predict(), ("many", "rare"), "f1_macro", None)
    assert not (uneven["gain_low"] > 0).any()
    assert uneven["gain"].abs().max() < 0.05


def test_the_class_with_few_images_gains_most():
    """Three classes with weak means in many dimensions, one of which has an eighth of the images."""
    gains = []
    for seed in (3, 4, 5):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(3), [20, 160, 160])
        centres = rng.normal(0, 0.25, (3, 150))
        features = (centres[labels] + rng.normal(0, 1, (len(labels), 150))).astype(np.float32)
        held_out = HeldOut(features, labels, np.arange(len(labels)) // 2, 3, "f1_macro")
        gains.append(collection._classes(held_out, held_out.predict(), ("few", "a", "b"), "f1_macro", None))
        assert gains[-1]["images"].tolist() == [20, 160, 160]
    assert all(table["gain"].idxmax() == "few" for table in gains)
    assert any(table.loc["few", "gain_low"] > 0 for table in gains)


def test_confused_classes_are_named():
    names = ("few", "many", "like many", "other")
    held_out = held_out_of([12, 60, 60, 60], overlap=[(2, 1)], seed=3)
    predicted = held_out.predict()
    pairs = collection._pairs(held_out, predicted, names)
    assert {pairs["class"][0], pairs["predicted"][0]} == {"many", "like many"}
    first = (held_out.labels == names.index(pairs["class"][0])) & (predicted == names.index(pairs["predicted"][0]))
    assert pairs["images"][0] == first.sum()
    assert pairs["groups"][0] == len(set(held_out.groups[first]))
    assert pairs["share"][0] == pytest.approx(first.sum() / 120)
    curve = collection._curve(held_out, predicted, "f1_macro")
    assert curve["images"].is_monotonic_increasing
    assert curve["score"].iloc[-1] > curve["score"].iloc[0]


def test_half_of_a_class_leaves_all_other_images():
    held_out = held_out_of([5, 8])
    keep = collection._half_of(held_out, 0, 0)
    assert keep[held_out.labels == 1].all()
    assert len(set(held_out.groups[keep & (held_out.labels == 0)])) == 3


def advice_of(scores, gain_low=0.01):
    table = pd.DataFrame(
        {"images": [20, 90], "groups": [10, 45], "f1": 0.5, "gain": [0.031, 0.002], "gain_high": [0.06, 0.02]},
        index=pd.Index(["crack", "free"], name="class"),
    ).assign(gain_low=[gain_low, -0.02])
    pairs = pd.DataFrame([{"class": "crack", "predicted": "free", "images": 4, "groups": 3, "share": 0.2}])
    curve = pd.DataFrame({"images": [25.0, 50.0, 100.0, 200.0], "score": scores})
    return CollectionAdvice(table, pairs, curve, pd.DataFrame(), "f1_macro", "f", "w", "now")


def test_the_sentences():
    advice = advice_of([0.2, 0.6, 0.8, 0.9])
    assert advice.headline == "Collect more images of crack."
    assert (
        "crack: with half of its 10 groups macro F1 is 3.1 points lower [+1.0 to +6.0, 95 % for all classes together]"
        in advice.reasons
    )
    said = "Collect images of crack that look like free: 4 images of 3 groups (20% of the class) are taken for it."
    assert said in advice.reasons
    unsure = advice_of([0.2, 0.6, 0.8, 0.9], gain_low=-0.01)
    assert unsure.headline == "No single class is shown to gain from more images."
    assert "not told from none" in unsure.reasons


def test_the_expected_gain_follows_the_errors():
    halved = advice_of([0.2, 0.6, 0.8, 0.9])  # each doubling halves the error
    assert halved.expected_gain == pytest.approx(0.05)
    assert advice_of([0.5, 0.5, 0.5, 0.5]).expected_gain == pytest.approx(0, abs=1e-12)
    assert advice_of([0.9, 0.8, 0.7, 0.6]).expected_gain == pytest.approx(0, abs=1e-12)
    assert advice_of([0.9, 0.95, 0.99, 1.0]).expected_gain == 0
    flat = dataclasses.replace(halved, curve=halved.curve.assign(images=9.0))
    assert np.isnan(flat.expected_gain)
    assert "Twice as many" in halved.reasons
    assert "Twice as many" not in flat.reasons


def test_any_class_name_survives_the_folder(tmp_path):
    advice = advice_of([0.2, 0.6, 0.8, 0.9])
    classes = advice.classes.rename(index={"crack": "None", "free": "007"})
    classes.loc["007", ["gain", "gain_low", "gain_high"]] = np.nan
    pairs = advice.pairs.replace({"crack": "None", "free": "007"})
    wrong = pd.DataFrame([{"file": "1.png", "class": "None", "predicted": "007", "group": "001"}])
    collection._write(dataclasses.replace(advice, classes=classes, pairs=pairs, wrong=wrong), tmp_path)
    loaded = load_collection(tmp_path)
    assert list(loaded.classes.index) == ["None", "007"]
    assert loaded.classes["gain"].isna().tolist() == [False, True]
    assert loaded.pairs[["class", "predicted"]].to_numpy().tolist() == [["None", "007"]]
    assert loaded.wrong["group"].tolist() == ["001"]
    assert "Too few groups to tell what more bring: 007." in loaded.reasons


def test_the_folder(demo, tmp_path):
    """Written once, loaded as it was made, and no test image takes part."""
    advice = advise_collection(demo, weights="slim", runs_dir=tmp_path)
    files = {path.name for path in advice.path.iterdir()}
    assert {"collection.json", "classes.csv", "pairs.csv", "curve.csv", "wrong.csv", "curve.png"} <= files
    assert ("pairs.png" in files) == bool(len(advice.pairs))
    assert advice.classes["images"].sum() == len(demo.indices("train")) + len(demo.indices("validation"))
    tested = {demo.files[i] for i in demo.indices("test")}
    assert not tested & set(advice.wrong["file"])
    notes = []
    again = advise_collection(demo, weights="slim", runs_dir=tmp_path, notes=notes.append)
    assert "already exists" in notes[0]
    assert again.created == advice.created
    loaded = load_collection(advice.path)
    for field in dataclasses.fields(advice):
        one, other = getattr(advice, field.name), getattr(loaded, field.name)
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
        else:
            assert one == other
    assert json.loads((advice.path / "config.json").read_text())["kind"] == "collection"
    (advice.path / "classes.csv").unlink()
    with pytest.raises(RunError, match="is damaged"):
        load_collection(advice.path)
    with pytest.raises(ConfigError, match="Unknown option"):
        advise_collection(demo, weight="slim", runs_dir=tmp_path)
