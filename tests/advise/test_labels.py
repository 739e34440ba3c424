"""Doubtful labels: planted wrong ones are found, each figure is what it says, and what is written is read back as fixes."""

import dataclasses
import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
from driving import xaitune
from scipy.special import softmax

from xaitune.advise.contrast import Contrast
from xaitune.advise.held_out import HeldOut
from xaitune.advise.labels import LabelCheck, doubtful_labels, judge_labels
from xaitune.advise.leak import load_leak
from xaitune.data.dataset import ImageData
from xaitune.errors import ConfigError, InputError
from xaitune.models.vgg import build_vgg16
from xaitune.training.linear import LinearHead

OPTIONS = {"weights": "slim", "precision": "float32"}
needs_cleanlab = pytest.mark.skipif(importlib.util.find_spec("cleanlab") is None, reason="needs xaitune[labels]")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def planted(demo):
    """32 drawn scans of three classes in a CSV, which calls one of the inclusions a centre line; and its file."""
    table = demo.to_dataframe().rename(columns={"class": "label"})[["file", "label", "group"]]
    table = table[table["label"].isin(["centre_line", "inclusion", "lamination"])].set_index("file")
    wrong = table.index[table["label"] == "inclusion"][2]
    table.loc[wrong, "label"] = "centre_line"
    table.reset_index().to_csv(demo.root / "planted.csv", index=False)
    return ImageData.from_csv(demo.root / "planted.csv", image_size=(32, 32)), wrong


@pytest.fixture(scope="module")
def check(planted, cache):
    return doubtful_labels(planted[0], count=3, cache_dir=cache, **OPTIONS)


def held_out_of(seed=0, flipped=()):
    """Three classes of 40 images, two to a group, in 12 dimensions; some with the label of the next class."""
    rng = np.random.default_rng(seed)
    true = np.repeat(np.arange(3), 40)
    features = (rng.normal(0, 2, (3, 12))[true] + rng.normal(0, 1, (120, 12))).astype(np.float32)
    labels = true.copy()
    labels[list(flipped)] = (labels[list(flipped)] + 1) % 3
    return HeldOut(features, labels, np.arange(120) // 2, 3, "f1_macro")


def test_probabilities_are_of_heads_that_have_not_seen_the_group():
    held_out = held_out_of()
    probabilities = held_out.probabilities()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    for fold, test in enumerate(held_out.folds):
        assert (held_out.fold_of[test] == fold).all()
        assert not set(held_out.groups[test]) & set(held_out.groups[held_out.fold_of != fold])
        head = held_out.fitted(fold)
        logits = (held_out.features[test] - head.mean) / np.sqrt(head.variance) @ head.kernel + head.bias
        np.testing.assert_allclose(probabilities[test], softmax(logits, axis=1))
    changed = held_out_of()
    changed.labels[:2] = 2  # what the group is called has no part in its own probabilities
    same = held_out.fold_of == held_out.fold_of[0]
    np.testing.assert_array_equal(changed.probabilities()[same], probabilities[same])
    assert (changed.probabilities()[~same] != probabilities[~same]).any()


def test_what_one_group_alone_shows_does_not_decide():
    """A channel that is noise but in one group: by the other images' scale it would be thousands of deviations away."""
    plain = held_out_of()
    channel = np.random.default_rng(1).normal(0, 1e-3, (120, 1)).astype(np.float32)
    channel[:2] = 5
    features = np.concatenate([plain.features, channel], axis=1)
    wide = HeldOut(features, plain.labels, plain.groups, 3, "f1_macro")
    np.testing.assert_allclose(wide.probabilities()[:2], plain.probabilities()[:2], atol=0.02)


def test_the_most_similar_image_is_of_the_class_and_of_another_group():
    held_out = held_out_of()
    held_out.features[1] = held_out.features[0]  # of the same group: never taken
    for row, label in ((0, 0), (0, 2), (77, 1)):
        one, others = held_out.standard[row], held_out.standard
        cosine = others @ one / np.linalg.norm(others, axis=1) / np.linalg.norm(one)
        cosine[(held_out.labels != label) | (held_out.groups == held_out.groups[row])] = -2
        assert held_out.nearest(row, label) == cosine.argmax()


@needs_cleanlab
def test_flipped_labels_are_the_most_doubtful():
    flipped = [3, 30, 50, 71, 90, 118]
    held_out = held_out_of(flipped=flipped)
    quality, issue = judge_labels(held_out.labels, held_out.probabilities())
    assert sorted(np.argsort(quality)[:6]) == flipped
    assert set(np.flatnonzero(issue)) <= set(np.argsort(quality)[:8])
    assert issue[flipped].sum() >= 4


@needs_cleanlab
def test_the_quality_is_cleanlabs_confidence_weighted_entropy():
    """log(1 + c) / c, where c is the entropy, as a share of the highest, over the probability of the given class."""
    probabilities = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.05, 0.05, 0.9], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]])
    labels = np.array([0, 1, 2, 1, 2])
    entropy = -(probabilities * np.log(probabilities)).sum(axis=1) / np.log(3)
    ratio = entropy / probabilities[np.arange(5), labels]
    quality, _ = judge_labels(labels, probabilities)
    np.testing.assert_allclose(quality, np.log1p(ratio) / ratio)
    assert quality.argsort().tolist()[:2] == [4, 1]


@needs_cleanlab
def test_a_planted_label_is_found(planted, check):
    data, wrong = planted
    row = check.table.set_index("file").loc[wrong]
    assert row["rank"] <= 2
    assert (row["class"], row["suggested"]) == ("centre_line", "inclusion")
    assert row["split"] == data.split[data.files.index(wrong)]
    assert row["issue"]
    assert check.images == len(data) == 32


@needs_cleanlab
def test_the_table(planted, check):
    data, _ = planted
    table = check.to_dataframe()
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    assert table["quality"].is_monotonic_increasing
    assert (table["issue"] | (table["suggested_probability"] > table["probability"])).all()
    assert (table["class"] != table["suggested"]).all()
    known = data.to_dataframe().set_index("file")
    for row in table.to_dict("records"):
        assert known.loc[row["file"], ["class", "group", "split"]].tolist() == [
            row["class"],
            row["group"],
            row["split"],
        ]
        for like, column in (("like_class", "class"), ("like_suggested", "suggested")):
            assert known.loc[row[like], "class"] == row[column]
            assert known.loc[row[like], "group"] != row["group"]
    assert len(check.rows) == min(3, len(table[["group", "class"]].drop_duplicates()))
    assert check.headline.startswith(f"{len(table)} of 32 labels are doubtful")
    assert "doubtful" in check._repr_html_()


@needs_cleanlab
def test_what_is_written_is_read_back_as_fixes(planted, check, tmp_path):
    data, wrong = planted
    korean = dataclasses.replace(check, table=check.table.replace({"centre_line": "균열", "inclusion": "<기공>"}))
    csv, png, leak = korean.write(tmp_path)
    assert (csv.name, png.name, leak.name) == ("labels.csv", "labels.png", "leak.json")
    assert load_leak(tmp_path, data.fingerprint) == check.leak
    assert check.leak.premium.images == 32
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert csv.read_bytes()[:3] == b"\xef\xbb\xbf"  # a byte order mark
    assert {"균열", "<기공>"} <= set(pd.read_csv(csv)["class"])
    check.write(tmp_path)
    table = pd.read_csv(csv, dtype=str, keep_default_na=False)
    assert (table["action"] == "").all()
    assert (table["new_class"] == table["suggested"]).all()
    table.loc[table["file"] == wrong, "action"] = "relabel"
    table.loc[table.index[-1], "action"] = "drop"
    table.to_csv(tmp_path / "answers.csv", index=False)
    fixed = ImageData.from_csv(data.config.path, image_size=(32, 32), label_fixes=tmp_path / "answers.csv")
    assert fixed.class_names[fixed.labels[fixed.files.index(wrong)]] == "inclusion"
    assert set(data.files) - set(fixed.files) == {table["file"].iloc[-1]}


def test_nothing_is_doubtful(tmp_path):
    for name in ("labels.png", "leak.json"):
        (tmp_path / name).write_text("of other data")
    empty = LabelCheck(pd.DataFrame(columns=["file", "suggested", "issue"]), 40, "f", "w", ())
    assert empty.headline == "None of 40 labels is doubtful."
    assert empty.write(tmp_path) == [tmp_path / "labels.csv"]
    assert [file.name for file in tmp_path.iterdir()] == ["labels.csv"]
    with pytest.raises(InputError, match="nothing to draw"):
        empty.plot()


def test_evidence_changes_its_sign_with_the_classes():
    model = build_vgg16(3, image_size=(32, 32), head="blocks", weights="slim")
    rng = np.random.default_rng(0)
    width = model.get_layer("pooled").output.shape[-1]
    kernel = rng.normal(size=(width, 3)).astype(np.float32)
    head = LinearHead(*np.float32([np.zeros(width), np.ones(width)]), kernel, np.zeros(3, np.float32), 1.0, 0.5)
    image, contrast = rng.uniform(0, 255, (1, 32, 32, 3)).astype(np.float32), Contrast(model)
    one, other = contrast(head, image, 2, 1), contrast(head, image, 1, 2)
    assert one.shape == (32, 32)
    np.testing.assert_allclose(one, -other, atol=1e-4 * np.abs(one).max())
    assert np.abs(contrast(head, image, 0, 0)).max() == 0


def test_bad_calls(demo, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"count must be at least 1\. Received: count=0"):
        doubtful_labels(demo, count=0)
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(ConfigError, match=r"pip install 'xaitune\[labels\]'"):
        doubtful_labels(demo, **OPTIONS)
    answer = xaitune(tmp_path, "data-check", demo.root, "--labels")
    assert (answer.status, answer.out) == (2, "")
    assert "xaitune[labels]" in answer.error


@needs_cleanlab
def test_networks_without_frozen_blocks_are_refused(demo, cache):
    with pytest.raises(ConfigError, match=r"need a pretrained VGG, such as architecture vgg16\. Received: lenet5-tanh"):
        doubtful_labels(
            demo, cache_dir=cache, architecture="lenet5-tanh", weights="random", freeze_through=0, head_epochs=0
        )


@needs_cleanlab
def test_the_command(planted, tmp_path):
    """It writes both files, keeps filled-in answers, applies fixes with a note, and refuses options without --labels."""
    data, wrong = planted
    (tmp_path / "fixes.csv").write_text(f"file,action,new_class\n{data.files[0]},drop,\n", encoding="utf-8")
    call = ["data-check", data.config.path, "--image-size", "32x32", "--label-fixes", "fixes.csv"]
    labels = ["--labels", "--weights", "slim", "--precision", "float32", "--label-count", "2"]
    answer = xaitune(tmp_path, *call, *labels, "--json")
    assert answer.status == 0, answer.err
    found = answer.json
    assert wrong in [row["file"] for row in found["doubtful_labels"][:2]]
    assert "of 31 labels are doubtful" in found["labels"]
    assert (
        "fill in the column action of runs/data-check/labels.csv (keep, relabel or drop), and add its rows to fixes.csv."
        in answer.err
    )
    assert "│ issue" not in answer.err
    row = found["doubtful_labels"][0]
    assert f"{row['suggested']} {row['suggested_probability']:.0%}" in answer.err
    assert found["next"].startswith(f"xaitune train {data.config.path} ")
    assert " --label-fixes fixes.csv" in found["next"]
    folder = tmp_path / "runs" / "data-check"
    assert {"runs/data-check/labels.csv", "runs/data-check/labels.png"} <= set(found["wrote"])
    assert "Label fixes: 0 images relabelled, 1 left out" in answer.err
    assert "Label fixes: 0 images relabelled, 1 left out" in (folder / "problems.csv").read_text(encoding="utf-8")
    table = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    table.loc[0, "action"] = "drop"
    table.to_csv(folder / "labels.csv", index=False)
    answer = xaitune(tmp_path, *call, *labels)
    assert answer.status == 2
    assert "has actions that you filled in, and would be replaced. Move or rename it first." in answer.error
    assert pd.read_csv(folder / "labels.csv", dtype=str)["action"][0] == "drop"
    for option in (["--weights", "slim"], ["--label-count", "3"]):
        answer = xaitune(tmp_path, *call, *option)
        assert (answer.status, answer.error.startswith(f"Error: {option[0]} only applies with --labels")) == (
            2,
            True,
        )
