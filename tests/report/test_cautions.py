"""What the page warns of: leaks, the worst class, labels to look at."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from xaitune.report.cautions import class_sentence, leak_warnings, suspects_section, worst_class


class Check:
    """A DataCheck's problems and proposed groups."""

    def __init__(self, kinds, groups):
        rows = [["warning", kind, ("a.png", "b.png"), "text"] for kind in kinds]
        self.problems = pd.DataFrame(rows, columns=["level", "kind", "files", "message"])
        self.proposed_groups = pd.DataFrame() if groups else None


def test_leaks_are_said_with_what_mends_them():
    (warning,) = leak_warnings(Check(["leakage: duplicates across splits", "small class"], groups=True))
    assert "probably too high: 2 images" in warning
    assert "groups.csv" in warning
    (warning,) = leak_warnings(Check(["leakage: groups across splits"], groups=False))
    assert "Fix the given splits" in warning
    assert leak_warnings(Check(["small class"], groups=True)) == []
    assert leak_warnings(None) == []


def test_a_model_is_set_beside_the_commonest_answer():
    counts = np.array([[90, 0, 0], [12, 0, 0], [3, 0, 5]]).tolist()
    text = class_sentence(counts, ["free", "crack", "hole"])
    assert "86 % are classified correctly; always answering free would be right on 82 %." in text
    assert text.endswith("Less than half is found of crack (0 of 12).")
    assert "crack" not in class_sentence(counts, ["free", "crack", "hole"], 1)  # the page has named it
    assert class_sentence(None, ["a", "b"]) == ""


def test_the_worst_class_and_why():
    counts = [[90, 0, 2], [9, 0, 3], [1, 1, 6]]
    suspects = {"pairs": [{"given": "crack", "count": 4}, {"given": "free", "count": 9}]}
    worst = worst_class(counts, ["free", "crack", "hole"], [500, 40, 60], [100, 5, 9], suspects)
    assert (worst["number"], worst["name"]) == (1, "crack")
    assert worst["text"] == (
        "The class that is recognised worst is crack (F1 0.000): none of its 12 test images is found; 9 are taken for free and 3 "
        "for hole. 1 other image is taken for crack: 1 of hole. There are only 40 images of crack, in 5 groups; free, the "
        "commonest class, has 500. 4 labels of crack are doubtful: look at these first."
    )
    text = worst_class([[4, 0], [4, 4]], ["burst", "flake"], (), (), None)[
        "text"
    ]  # of equal F1 the one that is found less
    assert text.endswith("flake (F1 0.667): 4 of its 8 test images are found; 4 are taken for burst.")
    even = worst_class([[4, 0], [4, 4]], ["burst", "flake"], (50, 50), (9, 9), None)["text"]
    assert even.endswith("There are 50 images of flake, in 9 groups.")
    common = worst_class([[4, 0], [4, 4]], ["burst", "flake"], (50, 500), (9, 99), None)["text"]
    assert common.endswith("There are 500 images of flake, in 99 groups.")
    assert worst_class([[3, 0], [0, 2]], ["a", "b"], (), (), None) is None
    assert worst_class(None, ["a", "b"], (), (), None) is None


def test_doubtful_labels_of_these_images_are_listed(tmp_path):
    file, data = tmp_path / "labels.csv", SimpleNamespace(files=["a/1.png", "a/2.png", "a/3.png", "b/2.png"])
    kept = {"class": "a", "suggested": "b", "split": "train", "probability": 0.1, "suggested_probability": 0.8}
    rows = [{"file": f"a/{i}.png"} | kept for i in (1, 3)] + [
        {**kept, "file": "b/2.png", "class": "b", "suggested": "a"}
    ]
    pd.DataFrame(rows).to_csv(file, index=False, encoding="utf-8-sig")
    section = suspects_section(file, data, ["a", "b"])
    assert section["rows"][0] == ("a/1.png", "train", "a (10 %)", "b (80 %)", "")
    assert section["cells"] == {(0, 1): 2, (1, 0): 1}
    assert section["pairs"][0] == {
        "id": "pair-0-1",
        "given": "a",
        "suggested": "b",
        "count": 2,
        "files": ["a/1.png", "a/3.png"],
    }
    assert section["files"]["b/2.png"] == "a (80 %)"
    assert suspects_section(file, SimpleNamespace(files=["other.png"]), ["a", "b"]) is None
    assert suspects_section(file, data, ["a", "c"]) is None
    assert suspects_section(tmp_path / "none.csv", data, ["a", "b"]) is None
    file.write_text("nothing")
    assert suspects_section(file, data, ["a", "b"]) is None


def test_a_picture_stands_beside_a_doubtful_label(tmp_path, demo):
    row = {"file": demo.files[0], "class": demo.class_names[0], "suggested": demo.class_names[1], "split": "test"}
    pd.DataFrame([row | {"probability": 0.1, "suggested_probability": 0.8}]).to_csv(
        tmp_path / "labels.csv", index=False
    )
    section = suspects_section(tmp_path / "labels.csv", demo, demo.class_names)
    assert section["rows"][0][-1].startswith("data:image/jpeg;base64,")
