"""Checks of a data set before training: duplicates, leakage between splits, small classes, unusable files."""

import html
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xaitune._names import plural
from xaitune._progress import Progress
from xaitune.data.duplicates import MAX_IMAGES, MIN_IMAGES, NearDuplicates, connected, find_near_duplicates
from xaitune.data.images import image_header
from xaitune.data.leakage import duplicate_problems, group_leakage, identical_pairs, large_components, proposed_groups
from xaitune.data.problems import LEVELS, LabelledImages, Problem, named
from xaitune.data.splits import SPLITS

SMALL_CLASS_GROUPS = 10  # a class with fewer has about 2 groups in the test split: its score is mostly chance
COLOURS = {  # Pillow's mode -> what people call it
    **dict.fromkeys(("L", "I", "I;16", "I;16B", "F"), "grey"),
    **{"RGB": "colour", "P": "colour palette", "1": "black and white", "CMYK": "colour (CMYK)"},
    **{"RGBA": "colour with transparency", "LA": "grey with transparency"},
}
_HALF_BRIGHT = 32767  # 16-bit values that stay below lack at least one bit


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
    exact = identical_pairs(data.digests)
    near = None
    if near_duplicates and len(data.files) > MAX_IMAGES:
        message = f"Near-duplicates were not searched for: {len(data.files)} images, the limit is {MAX_IMAGES}."
        problems.append(Problem("note", "not searched", (), message))
    elif near_duplicates and len(data.files) >= MIN_IMAGES:
        near = find_near_duplicates(data.paths(), progress)
    pairs = np.concatenate([exact, near.pairs]) if near is not None else exact
    problems += duplicate_problems(data, exact, pairs) + group_leakage(data)
    problems += large_components(data, connected(len(data.files), pairs))
    problems.sort(key=lambda p: LEVELS.index(p.level))
    columns = ["level", "kind", "files", "message"]
    return DataCheck(
        counts=data.counts(),
        frequencies=_frequencies(data),
        sizes=_sizes(data),
        problems=pd.DataFrame([[p.level, p.kind, p.files, p.message] for p in problems], columns=columns),
        proposed_groups=proposed_groups(data, pairs),
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
    message = f"{len(names)} unreadable images are skipped: {named(names)}. The first: {data.skipped[0][1]}"
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
        message = f"{len(without_mask)} of {len(data.files)} images have no mask: {named(without_mask)}."
        problems.append(Problem("note", "no mask", tuple(without_mask), message))
    if unusable:
        message = f"{len(unusable)} masks cannot be read or differ from their image in size: {named(unusable)}."
        problems.append(Problem("warning", "mask unusable", tuple(unusable), message))
    return problems


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
