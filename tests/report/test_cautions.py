"""What the top of the page warns of."""

import numpy as np
import pandas as pd

from xaitune.report.cautions import class_sentence, leak_warnings, suspects_section


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
    assert "86% are classified correctly; always answering free would be right on 82%." in text
    assert text.endswith("Found least: crack (0 of 12).")
    assert class_sentence(None, ["a", "b"]) == ""


def test_doubtful_labels_of_these_images_are_listed(tmp_path):
    file = tmp_path / "labels.csv"
    row = {"file": "a/1.png", "class": "a", "suggested": "b", "probability": 0.1, "suggested_probability": 0.8}
    pd.DataFrame([row]).to_csv(file, index=False, encoding="utf-8-sig")
    assert suspects_section(file, ["a/1.png", "b/2.png"])["rows"] == [("a/1.png", "a (10%)", "b (80%)")]
    assert suspects_section(file, ["other.png"]) is None
    assert suspects_section(tmp_path / "none.csv", ["a/1.png"]) is None
    file.write_text("nothing")
    assert suspects_section(file, ["a/1.png"]) is None
