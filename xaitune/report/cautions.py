"""What stands at the top of the page beside the verdict: leaks, classes that are not found, and labels to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._names import listed, plural

WORST = 3  # classes that are named
SHOWN_LABELS = 12
POOR = 0.5  # share of its images found, below which a class is named


def leak_warnings(data_check: Any) -> list[str]:
    """A warning where things in several splits make the test scores too high; `data_check` is a DataCheck or None."""
    problems = getattr(data_check, "problems", None)
    if problems is None:
        return []
    leaks = problems[problems["kind"].str.startswith("leakage")]
    if leaks.empty:
        return []
    images = len({file for files in leaks["files"] for file in files})
    mend = "Fix the given splits, then train again."
    if data_check.proposed_groups is not None:
        mend = "Run xaitune data-check, give the groups.csv that it writes as --groups, and train again."
    return [
        f"The test scores on this page are probably too high: {plural(images, 'image')} look like images in another split "
        f"(see The data). {mend}"
    ]


def class_sentence(counts: Sequence[Sequence[int]] | None, class_names: Sequence[str]) -> str:
    """What a confusion matrix (C, C) of test images says, in words: accuracy beside the commonest class's, the worst classes."""
    matrix = np.array(counts if counts is not None else [])
    if not matrix.size or not matrix.sum():
        return ""
    images, hits = matrix.sum(axis=1), np.diagonal(matrix)
    common = int(images.argmax())
    right, always = hits.sum() / images.sum(), images[common] / images.sum()
    text = (
        f"Of {plural(int(images.sum()), 'test image')} {right:.0%} are classified correctly; always answering "
        f"{class_names[common]} would be right on {always:.0%}."
    )
    share = np.divide(hits, images, out=np.ones(len(images)), where=images > 0)
    poor = [int(c) for c in np.argsort(share, kind="stable") if share[c] < POOR][:WORST]
    if poor:
        text += f" Found least: {listed([f'{class_names[c]} ({hits[c]} of {images[c]})' for c in poor])}."
    return text


def suspects_section(file: Path, files: Sequence[str] | None) -> dict[str, Any] | None:
    """The most doubtful labels of a labels.csv that `data-check --labels` wrote for these images; None where there is none."""
    if files is None or not file.is_file():
        return None
    try:
        table = pd.read_csv(file, dtype={"file": str, "class": str, "suggested": str}, encoding="utf-8-sig")
        shown = table[["file", "class", "suggested", "probability", "suggested_probability"]]
    except (KeyError, ValueError, OSError):
        return None
    if not len(shown) or not set(shown["file"]) <= set(files):  # of other data
        return None
    rows = [
        (r[0], f"{r[1]} ({r[3]:.0%})", f"{r[2]} ({r[4]:.0%})") for r in shown.head(SHOWN_LABELS).itertuples(index=False)
    ]
    return {"rows": rows, "count": len(shown), "file": file.name}
