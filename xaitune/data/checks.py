"""Checks of a data set before training: duplicates, leakage between splits, small classes, unusable files."""

import html
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from xaitune._names import plural
from xaitune._progress import Progress
from xaitune.config.settings import DataConfig
from xaitune.data.duplicates import MAX_IMAGES, MIN_IMAGES, NearDuplicates, connected, find_near_duplicates
from xaitune.data.images import ImageHeader, image_header
from xaitune.data.listing import positions_by_value
from xaitune.data.splits import SPLITS

SMALL_CLASS_GROUPS = 10  # a class with fewer has about 2 groups in the test split: its score is mostly chance
LARGE_COMPONENT = 0.05  # a larger share of the images connected by near-duplicates is suspicious
LEVELS = ("error", "warning", "note")
COLOURS = {  # Pillow's mode -> what people call it
    **dict.fromkeys(("L", "I", "I;16", "I;16B", "F"), "grey"),
    **{"RGB": "colour", "P": "colour palette", "1": "black and white", "CMYK": "colour (CMYK)"},
    **{"RGBA": "colour with transparency", "LA": "grey with transparency"},
}
_HALF_BRIGHT = 32767  # 16-bit values that stay below lack at least one bit
_SHOWN = 3  # file names listed in a message


class LabelledImages(Protocol):
    """The part of ImageData that the checks use; a protocol, since dataset.py imports this module."""

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
    @property
    def passed_over(self) -> Mapping[str, str]: ...
    @property
    def values_used(self) -> tuple[int, int] | None: ...
    @property
    def config(self) -> DataConfig: ...
    def counts(self) -> pd.DataFrame: ...
    def paths(self) -> list[Path]: ...


@dataclass(frozen=True)
class Problem:
    """One finding, of level 'error' (training would be meaningless), 'warning' (scores would mislead) or 'note'."""

    level: str
    kind: str
    files: tuple[str, ...]
    message: str


@dataclass(frozen=True, eq=False)
class DataCheck:
    """The findings of `check_data`.

    `counts`: images and groups per class and split. `frequencies`: each class's share of the images, 0..1, and how
    many times rarer it is than the most frequent class. `sizes`: one row per kind of file (JPEG, grey, 8 bits), with
    the smallest, median and largest height x width in pixels, each side by itself.
    `problems`: level, kind, files (a tuple), message; errors first. `proposed_groups`: file and group for
    a groups CSV, or None if the current groups already keep duplicates together. `image_worth`: how much one test
    image of the smallest class counts (points, 0..100). `near_duplicates`: the pairs, or None if not searched.
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
    """Look for anything that would make training meaningless or its scores misleading; changes nothing.

    Near-duplicates are searched for by content, which reads every image and calls `progress(done, count, what)`; this
    takes about a second for 200 images. Sets of more than MAX_IMAGES are not searched; a note says so.
    """
    problems = trainability(data)
    problems += _unreadable(data) + remarks(data) + _small_classes(data) + _mask_problems(data)
    exact = _identical_pairs(data.digests)
    near = None
    if near_duplicates and len(data.files) > MAX_IMAGES:
        message = f"Near-duplicates were not searched for: {len(data.files)} images, the limit is {MAX_IMAGES}."
        problems.append(Problem("note", "not searched", (), message))
    elif near_duplicates and len(data.files) >= MIN_IMAGES:
        near = find_near_duplicates(data.paths(), progress)
    pairs = np.concatenate([exact, near.pairs]) if near is not None else exact
    problems += _duplicate_problems(data, exact, pairs) + _group_leakage(data)
    problems += _large_components(data, connected(len(data.files), pairs))
    problems.sort(key=lambda p: LEVELS.index(p.level))
    columns = ["level", "kind", "files", "message"]
    return DataCheck(
        counts=data.counts(),
        frequencies=_frequencies(data),
        sizes=_sizes(data),
        problems=pd.DataFrame([[p.level, p.kind, p.files, p.message] for p in problems], columns=columns),
        proposed_groups=_proposed_groups(data, pairs),
        image_worth=_image_worth(data),
        near_duplicates=near,
    )


def trainability(data: LabelledImages) -> list[Problem]:
    """The problems of level 'error'.

    There is only one class, or a class is empty, has fewer groups than there are splits, or has no images in a split.
    """
    problems = []
    if len(data.class_names) < 2:
        message = f"There is only one class, {data.class_names[0]}: add images of a second one."
        problems.append(Problem("error", "one class", (), message))
    for name, row in data.counts().iterrows():
        absent = [s for s in SPLITS if row[s] == 0]
        if row["images"] == 0:
            held = data.passed_over.get(str(name), "")
            message = f"Class {name} has no images: fill its folder or remove it."
            if held:
                advice = "" if "--recursive" in held else " Convert them to PNG, or remove the class."
                message = f"Class {name} has no images that are read, but {held}.{advice}"
            problems.append(Problem("error", "empty class", (), message))
        elif row["groups"] < len(SPLITS):
            message = (
                f"Class {name} has fewer groups ({row['groups']}) than there are splits ({len(SPLITS)}): "
                "add images of other parts, or remove the class."
            )
            problems.append(Problem("error", "too few groups", (), message))
        elif absent:
            message = f"Class {name} has no images in {' and '.join(absent)}: change the splits or add images."
            problems.append(Problem("error", "absent from a split", (), message))
    return problems


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def remarks(data: LabelledImages) -> list[Problem]:
    """What was passed over or read from an unusual place, and grey values that fill a small part of their 16 bits."""
    return [Problem("note", "passed over", (), note) for note in data.notes] + _grey_values(data)


def _grey_values(data: LabelledImages) -> list[Problem]:
    if data.values_used is None:
        return []
    low, high = data.values_used
    if data.config.bit_depth is not None:
        message = f"The 16-bit images hold values {low} to {high}; bit_depth {data.config.bit_depth} makes "
        message += f"{(1 << data.config.bit_depth) - 1} white."
        return [Problem("note", "grey values", (), message)]
    message = unused_bits(low, high, inverted=any(h.depth.inverted for h in data.headers))
    return [Problem("warning", "grey values", (), message)] if message else []


def unused_bits(low: int, high: int, *, inverted: bool = False) -> str:
    """What to say of 16-bit images with values `low` to `high`, if they do not reach half of the range; '' otherwise."""
    if high > _HALF_BRIGHT:
        return ""
    bits = max(high.bit_length(), 9)
    return (
        f"The 16-bit images hold values {low} to {high} of 0 to 65535, so they are read as nearly "
        f"{'white' if inverted else 'black'}: give --bit-depth {bits}, which makes {(1 << bits) - 1} white."
    )


def _unreadable(data: LabelledImages) -> list[Problem]:
    if not data.skipped:
        return []
    names = tuple(file for file, _ in data.skipped)
    message = f"{len(names)} unreadable images are skipped: {_listed(names)}. The first: {data.skipped[0][1]}"
    return [Problem("warning", "unreadable", names, message)]


def _small_classes(data: LabelledImages) -> list[Problem]:
    problems = []
    for name, row in data.counts().iterrows():
        if len(SPLITS) <= row["groups"] < SMALL_CLASS_GROUPS:
            message = (
                f"Class {name} has {plural(row['images'], 'image')} in {plural(row['groups'], 'group')}, of which "
                f"{plural(row['test'], 'image')} in {plural(row['test_groups'], 'group')} are in the test split: "
                "its test score is very uncertain."
            )
            problems.append(Problem("warning", "small class", (), message))
    worth = _image_worth(data)
    if worth:
        message = (
            f"One test image of the smallest class, {worth['class']} ({worth['test_images']} images), is worth "
            f"{worth['recall_points']:.1f} points of its recall and about {worth['f1_macro_points']:.1f} of macro F1."
        )
        problems.append(Problem("note", "one image's worth", (), message))
    return problems


def _image_worth(data: LabelledImages) -> dict[str, float | int | str]:
    """Points that depend on one test image of the smallest class: 100 / n of its recall, and a part of macro F1.

    For macro F1 it is the loss from a perfect score, F1 = 2 (n - 1) / (2 n - 1), divided by the number of classes.
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
    without_mask, unusable = [], []
    for file, mask, header in zip(data.files, data.masks, data.headers, strict=True):
        if mask is None:
            without_mask.append(file)
            continue
        try:
            mask_header = image_header(mask)
        except ValueError:
            unusable.append(file)
            continue
        if (mask_header.height, mask_header.width) != (header.height, header.width):
            unusable.append(file)
    problems = []
    if without_mask:
        message = f"{len(without_mask)} of {len(data.files)} images have no mask: {_listed(without_mask)}."
        problems.append(Problem("note", "no mask", tuple(without_mask), message))
    if unusable:
        message = f"{len(unusable)} masks cannot be read or differ from their image in size: {_listed(unusable)}."
        problems.append(Problem("warning", "mask unusable", tuple(unusable), message))
    return problems


def _large_components(data: LabelledImages, component: np.ndarray) -> list[Problem]:
    """Duplicates that connect so many images that the proposed groups may be wrong."""
    problems = []
    for number in np.flatnonzero(np.bincount(component) > max(LARGE_COMPONENT * len(data.files), MIN_IMAGES)):
        files = tuple(data.files[i] for i in np.flatnonzero(component == number))
        message = (
            f"Near-duplicates connect {len(files)} of {len(data.files)} images ({len(files) / len(data.files):.0%}) to one "
            f"group: either they show one thing, or your images look alike and the proposed groups are wrong. "
            f"Look at a few of them: {_listed(files)}."
        )
        problems.append(Problem("warning", "one large group", files, message))
    return problems


def _identical_pairs(digests: tuple[str, ...]) -> np.ndarray:
    """(m, 2) positions: the first file of each content, paired with every later file of the same content."""
    pairs = [(same[0], i) for same in positions_by_value(digests).values() for i in same[1:]]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def _duplicate_problems(data: LabelledImages, exact: np.ndarray, pairs: np.ndarray) -> list[Problem]:
    """Exact duplicates, also across classes; near-duplicates in different groups; both across splits."""
    problems = []

    def report_pairs(level: str, kind: str, chosen: np.ndarray, text: str) -> None:
        if len(chosen):
            names = tuple(data.files[i] for i in np.unique(chosen))
            example = " and ".join(data.files[i] for i in chosen[0])
            message = text.format(pairs=len(chosen), images=len(names)) + f" The first: {example}."
            problems.append(Problem(level, kind, names, message))

    def differing(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
        return chosen[values[chosen[:, 0]] != values[chosen[:, 1]]]

    report_pairs("note", "exact duplicates", exact, "{images} images have the same content as another image.")
    report_pairs(
        "warning",
        "equal images, two classes",
        differing(exact, data.labels),
        "{pairs} pairs of identical images are in two classes.",
    )
    report_pairs(
        "warning",
        "near-duplicates in different groups",
        differing(pairs, data.groups),
        "{pairs} pairs ({images} images) seem to show the same thing but are in different groups: "
        "use the proposed groups.",
    )
    report_pairs(
        "warning",
        "leakage: duplicates across splits",
        differing(pairs, data.split),
        "{pairs} pairs of duplicates or near-duplicates ({images} images) are in different splits, "
        "so the test score would be too high: use the proposed groups.",
    )
    return problems


def _group_leakage(data: LabelledImages) -> list[Problem]:
    """Groups divided by the given splits, and groups with images of several classes."""
    problems = []
    members = positions_by_value(data.groups.tolist())
    divided = [g for g, positions in members.items() if len(set(data.split[positions])) > 1]
    if divided:
        files = tuple(data.files[i] for g in divided for i in members[g])
        message = f"{len(divided)} groups are divided by the given splits: {_listed(divided)}. Fix the splits."
        problems.append(Problem("warning", "leakage: groups across splits", files, message))
    mixed = [g for g, positions in members.items() if len(set(data.labels[positions])) > 1]
    if mixed:
        files = tuple(data.files[i] for g in mixed for i in members[g])
        message = f"{len(mixed)} groups have images of several classes (they are kept together): {_listed(mixed)}."
        problems.append(Problem("note", "groups of several classes", files, message))
    return problems


def _proposed_groups(data: LabelledImages, pairs: np.ndarray) -> pd.DataFrame | None:
    """The current groups, merged where duplicates connect them; each is named after the group of its first file."""
    if not len(pairs) or (data.groups[pairs[:, 0]] == data.groups[pairs[:, 1]]).all():
        return None
    members = positions_by_value(data.groups.tolist()).values()
    same_group = [(positions[0], i) for positions in members for i in positions[1:]]
    merged = connected(len(data.files), np.concatenate([pairs, np.array(same_group, dtype=int).reshape(-1, 2)]))
    first = np.unique(merged, return_index=True)[1]
    return pd.DataFrame({"file": data.files, "group": data.groups[first[merged]]})


def _frequencies(data: LabelledImages) -> pd.DataFrame:
    images = data.counts()["images"]
    rarer = images.max() / images.where(images > 0)
    return pd.DataFrame({"images": images, "share": images / images.sum(), "times_rarer": rarer})


def _sizes(data: LabelledImages) -> pd.DataFrame:
    rows = []
    kinds = Counter((h.mode, h.format, h.bits) for h in data.headers)
    for kind, count in kinds.most_common():
        sides = np.array([(h.height, h.width) for h in data.headers if (h.mode, h.format, h.bits) == kind])
        smallest, median, largest = sides.min(axis=0), np.median(sides, axis=0).astype(int), sides.max(axis=0)
        mode, form, bits = kind
        named = f"{form}, {COLOURS.get(mode, mode)}, {bits} bits"
        rows.append([named, count, *(f"{height} x {width}" for height, width in (smallest, median, largest))])
    return pd.DataFrame(rows, columns=["files", "images", "smallest", "median", "largest"]).set_index("files")
