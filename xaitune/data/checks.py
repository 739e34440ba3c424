"""What is wrong with a data set, or worth knowing before training on it: `check_data(data) -> DataCheck`."""

import html
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from xaitune._progress import Progress
from xaitune.data.duplicates import LEAST_IMAGES, MOST_IMAGES, NearDuplicates, connected, find_near_duplicates
from xaitune.data.images import ImageHeader, image_header
from xaitune.data.listing import by_name
from xaitune.data.splits import SPLITS

FEW_GROUPS = 10  # a class below it has 2 groups or so in the test split: its score is a matter of luck
LEVELS = ("error", "warning", "note")
_SHOWN = 3


class LabelledImages(Protocol):
    """What is needed of ImageData; data.py imports this module, not the other way round."""

    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> np.ndarray: ...
    @property
    def split(self) -> np.ndarray: ...
    @property
    def masks(self) -> tuple[Path | None, ...] | None: ...
    @property
    def skipped(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def digests(self) -> tuple[str, ...]: ...
    @property
    def headers(self) -> tuple[ImageHeader, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def counts(self) -> pd.DataFrame: ...
    def paths(self) -> list[Path]: ...


@dataclass(frozen=True)
class Problem:
    """One finding. `level`: 'error' (training would be meaningless), 'warning' (its figures would mislead) or
    'note'."""

    level: str
    kind: str
    files: tuple[str, ...]
    message: str


@dataclass(frozen=True, eq=False)
class DataCheck:
    """The findings of `check_data`.

    `counts`: images and groups of each class and split. `frequencies`: each class's share of the images, 0..1, and
    how many times rarer than the most frequent it is. `sizes`: one row for each mode and format with the range of
    sizes in pixels. `problems`: level, kind, files (a tuple), message; errors first. `proposed_groups`: file, group
    for a groups CSV, or None where the groups in use already hold the duplicates together. `image_worth`: what one
    test image of the smallest class is worth (points, 0..100). `near_duplicates`: the pairs, None if not searched.
    """

    counts: pd.DataFrame
    frequencies: pd.DataFrame
    sizes: pd.DataFrame
    problems: pd.DataFrame
    proposed_groups: pd.DataFrame | None
    image_worth: dict[str, float | int | str]
    near_duplicates: NearDuplicates | None

    @property
    def ok(self) -> bool:
        """Whether training is meaningful: no problem of level 'error'."""
        return not (self.problems["level"] == "error").any()

    def to_dataframe(self) -> pd.DataFrame:
        """The problems, one row each, with the number of files and the files joined by ' | '."""
        table = self.problems.copy()
        table.insert(2, "count", [len(f) for f in table["files"]])
        table["files"] = [" | ".join(f) for f in table["files"]]
        return table

    def _repr_html_(self) -> str:
        lines = "".join(
            f"<li><b>{html.escape(level)}</b> {html.escape(message)}</li>"
            for level, message in zip(self.problems["level"], self.problems["message"], strict=True)
        )
        return f"{self.counts.to_html()}<ul>{lines}</ul>"


def check_data(data: LabelledImages, progress: Progress | None = None, *, near_duplicates: bool = True) -> DataCheck:
    """Look for what would make training meaningless or its figures misleading; nothing is changed.

    Near-duplicates are searched by content, which reads every image (`progress(done, count, what)`); about a second for
    200 images. Sets of more than MOST_IMAGES are not searched, which is noted.
    """
    found = trainability(data)
    found += _unreadable_and_notes(data) + _small_classes(data) + _mask_problems(data)
    exact = _pairs_of_equal(data.digests)
    near = None
    if near_duplicates and len(data.files) > MOST_IMAGES:
        message = f"Near-duplicates were not searched: {len(data.files)} images, the limit is {MOST_IMAGES}."
        found.append(Problem("note", "not searched", (), message))
    elif near_duplicates and len(data.files) >= LEAST_IMAGES:
        near = find_near_duplicates(data.paths(), progress)
    pairs = np.concatenate([exact, near.pairs]) if near is not None else exact
    found += _duplicate_problems(data, exact, pairs) + _group_leakage(data)
    found.sort(key=lambda p: LEVELS.index(p.level))
    columns = ["level", "kind", "files", "message"]
    return DataCheck(
        counts=data.counts(),
        frequencies=_frequencies(data),
        sizes=_sizes(data),
        problems=pd.DataFrame([[p.level, p.kind, p.files, p.message] for p in found], columns=columns),
        proposed_groups=_proposed_groups(data, pairs),
        image_worth=_image_worth(data),
        near_duplicates=near,
    )


def trainability(data: LabelledImages) -> list[Problem]:
    """The problems of level 'error': one class, or a class that is empty, has fewer groups than there are splits, or
    has no image in a split."""
    found = []
    if len(data.class_names) < 2:
        message = f"There is only one class, {data.class_names[0]}: add images of a second one."
        found.append(Problem("error", "one class", (), message))
    for name, row in data.counts().iterrows():
        absent = [s for s in SPLITS if row[s] == 0]
        if row["images"] == 0:
            message = f"Class {name} has no images: fill its folder or remove it."
            found.append(Problem("error", "empty class", (), message))
        elif row["groups"] < len(SPLITS):
            message = (
                f"Class {name} has fewer groups ({row['groups']}) than there are splits ({len(SPLITS)}): "
                "add images of other parts, or remove it."
            )
            found.append(Problem("error", "too few groups", (), message))
        elif absent:
            message = f"Class {name} has no images in {' and '.join(absent)}: change the splits or add images."
            found.append(Problem("error", "absent from a split", (), message))
    return found


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _unreadable_and_notes(data: LabelledImages) -> list[Problem]:
    found = [Problem("note", "passed over", (), note) for note in data.notes]
    if data.skipped:
        names = tuple(file for file, _ in data.skipped)
        message = f"{len(names)} unreadable images are skipped: {_listed(names)}. The first: {data.skipped[0][1]}"
        found.append(Problem("warning", "unreadable", names, message))
    return found


def _small_classes(data: LabelledImages) -> list[Problem]:
    found = []
    for name, row in data.counts().iterrows():
        if len(SPLITS) <= row["groups"] < FEW_GROUPS:
            message = (
                f"Class {name} has {row['images']} images of {row['groups']} groups, {row['test']} images of "
                f"{row['test_groups']} in test: its score there is very uncertain."
            )
            found.append(Problem("warning", "small class", (), message))
    worth = _image_worth(data)
    if worth:
        message = (
            f"One test image of the smallest class, {worth['class']} ({worth['test_images']} images), is worth "
            f"{worth['recall_points']:.1f} points of its recall and about {worth['f1_macro_points']:.1f} of macro F1."
        )
        found.append(Problem("note", "one image's worth", (), message))
    return found


def _image_worth(data: LabelledImages) -> dict[str, float | int | str]:
    """Points that one test image of the smallest class decides: 100 / n of its recall, a share of that in macro F1.

    The F1 figure is the loss from a perfect score, F1 = 2 (n - 1) / (2 n - 1), over the number of classes.
    """
    test = data.counts()["test"]
    test = test[test > 0]
    if test.empty:
        return {}
    name, n = test.idxmin(), int(test.min())
    return {
        "class": str(name),
        "test_images": n,
        "recall_points": 100 / n,
        "f1_macro_points": 100 / (2 * n - 1) / len(data.class_names),
    }


def _mask_problems(data: LabelledImages) -> list[Problem]:
    if data.masks is None:
        return []
    absent, unequal = [], []
    for file, mask, header in zip(data.files, data.masks, data.headers, strict=True):
        if mask is None:
            absent.append(file)
            continue
        try:
            shape = image_header(mask)
        except ValueError:
            unequal.append(file)
            continue
        if (shape.height, shape.width) != (header.height, header.width):
            unequal.append(file)
    found = []
    if absent:
        message = f"{len(absent)} of {len(data.files)} images have no mask: {_listed(absent)}."
        found.append(Problem("note", "no mask", tuple(absent), message))
    if unequal:
        message = f"{len(unequal)} masks cannot be read or differ from their image in size: {_listed(unequal)}."
        found.append(Problem("warning", "mask unusable", tuple(unequal), message))
    return found


def _pairs_of_equal(digests: tuple[str, ...]) -> np.ndarray:
    """(m, 2) each file with the first one of the same content."""
    pairs = [(same[0], i) for same in by_name(digests).values() for i in same[1:]]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def _duplicate_problems(data: LabelledImages, exact: np.ndarray, pairs: np.ndarray) -> list[Problem]:
    """Exact duplicates, near-duplicates in different groups, and either across splits or classes."""
    found = []

    def add(level: str, kind: str, chosen: np.ndarray, text: str) -> None:
        if len(chosen):
            names = tuple(data.files[i] for i in np.unique(chosen))
            example = " and ".join(data.files[i] for i in chosen[0])
            message = text.format(pairs=len(chosen), images=len(names)) + f" The first: {example}."
            found.append(Problem(level, kind, names, message))

    def apart(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
        return chosen[values[chosen[:, 0]] != values[chosen[:, 1]]]

    add("note", "exact duplicates", exact, "{images} images have the same content as another.")
    add("warning", "equal images, two classes", apart(exact, data.labels), "{pairs} equal images have two classes.")
    add(
        "warning",
        "near-duplicates in different groups",
        apart(pairs, data.groups),
        "{pairs} pairs ({images} images) seem to show the same thing but are in different groups: "
        "use the proposed groups.",
    )
    add(
        "warning",
        "leakage: duplicates across splits",
        apart(pairs, data.split),
        "{pairs} pairs of duplicates or near-duplicates ({images} images) stand in different splits, "
        "so that the test score would be too high: use the proposed groups.",
    )
    return found


def _group_leakage(data: LabelledImages) -> list[Problem]:
    """Groups that given splits divide, and groups of several classes."""
    found = []
    members = by_name(data.groups.tolist())
    divided = [g for g, at in members.items() if len(set(data.split[at])) > 1]
    if divided:
        files = tuple(data.files[i] for g in divided for i in members[g])
        message = f"{len(divided)} groups are divided by the given splits: {_listed(divided)}. Mend the splits."
        found.append(Problem("warning", "leakage: groups across splits", files, message))
    mixed = [g for g, at in members.items() if len(set(data.labels[at])) > 1]
    if mixed:
        files = tuple(data.files[i] for g in mixed for i in members[g])
        message = f"{len(mixed)} groups have images of several classes (they are kept together): {_listed(mixed)}."
        found.append(Problem("note", "groups of several classes", files, message))
    return found


def _proposed_groups(data: LabelledImages, pairs: np.ndarray) -> pd.DataFrame | None:
    """The groups in use, joined where duplicates connect them; named after the first file's group."""
    if not len(pairs) or (data.groups[pairs[:, 0]] == data.groups[pairs[:, 1]]).all():
        return None
    known = [(at[0], i) for at in by_name(data.groups.tolist()).values() for i in at[1:]]
    joined = connected(len(data.files), np.concatenate([pairs, np.array(known, dtype=int).reshape(-1, 2)]))
    first = np.unique(joined, return_index=True)[1]
    return pd.DataFrame({"file": data.files, "group": data.groups[first[joined]]})


def _frequencies(data: LabelledImages) -> pd.DataFrame:
    images = data.counts()["images"]
    rarer = images.max() / images.where(images > 0)
    return pd.DataFrame({"images": images, "share": images / images.sum(), "times_rarer": rarer})


def _sizes(data: LabelledImages) -> pd.DataFrame:
    rows = []
    kinds = Counter((h.mode, h.format, h.bits) for h in data.headers)
    for kind, count in kinds.most_common():
        sides = np.array([(h.height, h.width) for h in data.headers if (h.mode, h.format, h.bits) == kind])
        low, middle, high = sides.min(axis=0), np.median(sides, axis=0).astype(int), sides.max(axis=0)
        rows.append([*kind, count, *(f"{v[0]} x {v[1]}" for v in (low, middle, high))])
    return pd.DataFrame(rows, columns=["mode", "format", "bits", "images", "smallest", "median", "largest"])
