"""What a reader must know beside the verdict: leaks, the classes that are found worst and why, and labels to look at."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xaitune._names import listed, plural
from xaitune.data.images import read_image
from xaitune.errors import XaituneError
from xaitune.plots.overlays import to_height
from xaitune.report.texts import percent_text
from xaitune.report.viewer import picture_uri

WORST = 3  # classes that are named
SHOWN_LABELS = 12
SHOWN_FILES = 4  # of each kind of doubt
THUMBNAIL = 72  # pixels of a picture's height
POOR = 0.5  # share of its images found, below which a class is named
FEW = 0.25  # of the mean number of images of a class, below which a class has few


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
        f"(see Data check). {mend}"
    ]


def class_sentence(counts: Sequence[Sequence[int]] | None, class_names: Sequence[str], named: int | None = None) -> str:
    """What a confusion matrix (C, C) of test images says, in words: accuracy beside the commonest class's, the worst classes.

    `named`: the number of a class of which the page says already how many are found.
    """
    matrix = np.array(counts if counts is not None else [])
    if not matrix.size or not matrix.sum():
        return ""
    images, hits = matrix.sum(axis=1), np.diagonal(matrix)
    common = int(images.argmax())
    right, always = hits.sum() / images.sum(), images[common] / images.sum()
    text = (
        f"Of {plural(int(images.sum()), 'test image')} {percent_text(right)} are classified correctly; always answering "
        f"{class_names[common]} would be right on {percent_text(always)}."
    )
    share = np.divide(hits, images, out=np.ones(len(images)), where=images > 0)
    poor = [int(c) for c in np.argsort(share, kind="stable") if share[c] < POOR and c != named][:WORST]
    if poor:
        also = "" if named is None else "also "
        text += f" Less than half is {also}found of {listed([f'{class_names[c]} ({hits[c]} of {images[c]})' for c in poor])}."
    return text


def worst_class(
    counts: Sequence[Sequence[int]] | None,
    class_names: Sequence[str],
    images: Sequence[int],
    groups: Sequence[int],
    suspects: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """The class with the lowest F1 on test images and why, in words; None without test images.

    `counts`: a confusion matrix (C, C). `images`, `groups`: how many there are of each class in all splits; () where unknown.
    """
    matrix = np.array(counts if counts is not None else [])
    if not matrix.size or not matrix.sum():
        return None
    hits, support, claimed = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    score = np.where(support > 0, 2 * hits / np.maximum(support + claimed, 1), np.inf)
    worst = int(np.lexsort((hits / np.maximum(support, 1), score))[0])  # of equal ones that of which less is found
    if score[worst] == 1:
        return None
    name = class_names[worst]
    said = [
        f"The class that is recognised worst is {name} (F1 {score[worst]:.3f}): {_found(matrix, worst, class_names)}"
    ]
    if len(images):
        few, most = images[worst] < FEW * float(np.mean(images)), int(np.argmax(images))
        than = (
            f"; {class_names[most]}, the commonest class, has {images[most]:,}" if images[worst] < images[most] else ""
        )
        said.append(
            f"There {'are only' if few else 'are'} {plural(int(images[worst]), 'image')} of {name}, in "
            f"{plural(int(groups[worst]), 'group')}{than}."
        )
    doubtful = sum(pair["count"] for pair in suspects["pairs"] if pair["given"] == name) if suspects else 0
    if doubtful:
        said.append(
            f"{plural(doubtful, 'label')} of {name} {'is' if doubtful == 1 else 'are'} doubtful: look at these first."
        )
    return {"number": worst, "name": name, "text": " ".join(said)}


def _found(matrix: np.ndarray, number: int, class_names: Sequence[str]) -> str:
    """How many test images of a class are found, what the others are taken for, and what is taken for the class."""
    hits, support = int(matrix[number, number]), int(matrix[number].sum())
    many = "all" if hits == support > 1 else hits or "none"
    text = f"{many} of its {plural(support, 'test image')} {'are' if hits > 1 else 'is'} found"
    lost, taken = matrix[number].copy(), matrix[:, number].copy()
    lost[number] = taken[number] = 0
    if order := _largest(lost):
        first, *rest = order
        verb = "is" if lost[first] == 1 else "are"
        others = [f"{lost[c]} for {class_names[c]}" for c in rest]
        text += f"; {listed([f'{lost[first]} {verb} taken for {class_names[first]}', *others])}"
    text += "."
    if sources := _largest(taken):
        count = int(taken.sum())
        named = listed([f"{taken[c]} of {class_names[c]}" for c in sources])
        text += (
            f" {plural(count, 'other image')} {'is' if count == 1 else 'are'} taken for {class_names[number]}: {named}."
        )
    return text


def _largest(counts: np.ndarray) -> list[int]:
    """The classes with the largest counts above 0, WORST at most."""
    return [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]][:WORST]


def suspects_section(file: Path, data: Any, class_names: Sequence[str]) -> dict[str, Any] | None:
    """The doubtful labels in a labels.csv that `data-check --labels` wrote for the images of `data`; None where there is none.

    `rows`: the most doubtful ones, with pictures where the images can be read. `pairs`: one entry per given and suggested class.
    `cells`: (given, suggested) class numbers -> how many. `files`: file -> what is said of it.
    """
    files = getattr(data, "files", None)
    if files is None or not file.is_file():
        return None
    try:
        table = pd.read_csv(file, dtype={"file": str, "class": str, "suggested": str}, encoding="utf-8-sig")
        table = table[["file", "split", "class", "suggested", "probability", "suggested_probability"]]
    except (KeyError, ValueError, OSError):
        return None
    number = {str(name): i for i, name in enumerate(class_names)}
    named = set(table["class"]) | set(table["suggested"])
    if not len(table) or not set(table["file"]) <= set(files) or not named <= set(number):  # of other data
        return None
    shown = table.head(SHOWN_LABELS)
    rows = [
        (f, split, _sure(given, p), _sure(other, q), _thumbnail(data, f))
        for f, split, given, other, p, q in shown.itertuples(index=False)
    ]
    pairs = [
        {
            "id": f"pair-{number[given]}-{number[other]}",
            "given": given,
            "suggested": other,
            "count": len(part),
            "files": part["file"].head(SHOWN_FILES).tolist(),
        }
        for (given, other), part in table.groupby(["class", "suggested"], sort=False)
    ]
    return {
        "rows": rows,
        "pairs": sorted(pairs, key=lambda pair: -pair["count"]),
        "cells": {(number[pair["given"]], number[pair["suggested"]]): pair["count"] for pair in pairs},
        "files": {f: _sure(other, q) for f, other, q in table[["file", "suggested", "suggested_probability"]].values},
        "count": len(table),
        "file": file,
    }


def _sure(name: str, probability: float) -> str:
    return f"{name} ({percent_text(probability)})"


def _thumbnail(data: Any, file: str) -> str:
    """A small picture of an image as a data URI; '' where it cannot be read."""
    with contextlib.suppress(XaituneError, AttributeError):
        (path,) = data.paths([list(data.files).index(file)])
        return picture_uri(to_height(read_image(path, data.config.bit_depth), THUMBNAIL))
    return ""
