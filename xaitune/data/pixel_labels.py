"""The classes of pixels, read from masks: what a segmentation is trained and scored on."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from xaitune._names import plural
from xaitune.config.choices import IGNORED
from xaitune.data.checks import DataCheck
from xaitune.data.dataset import ImageData
from xaitune.data.listing import run_threaded
from xaitune.data.mask_values import BACKGROUND, require_countable, values_of_masks
from xaitune.data.problems import LEVELS, Problem, named
from xaitune.data.resize import resize_values
from xaitune.data.splits import SPLITS
from xaitune.errors import DataError, ImageError

IN_MEMORY_BYTES = 2e9  # larger sets of masks are read from disk batch by batch


class PixelLabels:
    """The pixel classes of every image of a data set with masks; `class_names` begins with 'background'.

    With `pixel_classes` None, marked pixels are of their image's class; a class none of whose masks marks anything, or
    that has no masks, is background. Every mask is read once: `counts` (n, C) are its pixels of each class at the file's own
    size, and `digest` stands for all of them. Raises DataError without masks. What is wrong with them, such as a mask of another
    size than its image, with unknown values, that cannot be read, or missing where others of its class have one, is found by
    `find_problems`, and raised by `labels_of_pixels`.

    Examples:
        >>> labels = PixelLabels(ImageData.from_folder("images", masks="masks"))  # doctest: +SKIP
        >>> labels.load([0]).shape  # doctest: +SKIP
        (1, 224, 224)
    """

    def __init__(self, data: ImageData) -> None:
        if data.masks is None:
            raise DataError(f"A segmentation needs masks, and {data.config.path} has none. Give --masks FOLDER.")
        self.data = data
        self._values = values_of_masks(data.config.pixel_classes)
        names = self._values.names or ("background", *data.class_names)
        require_countable(names)
        height, width = data.image_size
        self._all: np.ndarray | None = None
        if len(data) * height * width <= IN_MEMORY_BYTES:
            self._all = np.zeros((len(data), height, width), np.uint8)
        counts, hashes, self.unusable = self._read_all(len(names))
        kept = np.arange(len(names))
        if data.config.pixel_classes is None:
            kept = np.flatnonzero((counts.sum(0) > 0) | (kept == BACKGROUND))
        self.class_names = tuple(names[c] for c in kept)
        self._number = np.full(256, IGNORED, np.uint8)  # of a class as it is read
        self._number[kept] = np.arange(len(kept))
        self.counts = counts[:, kept]
        if self._all is not None:
            self._all = self._number[self._all]
        self.digest = hashlib.sha256("".join([*hashes, *self.class_names]).encode()).hexdigest()[:16]

    def load(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(n, h, w) uint8 class numbers at the data set's image size; IGNORED for padding and for ignored pixels."""
        rows = np.asarray(indices, int)
        if self._all is not None:
            return self._all[rows]
        out = np.empty((len(rows), *self.data.image_size), np.uint8)

        def load_one(n: int) -> None:
            out[n] = self._resized(self.read(int(rows[n])))

        run_threaded(load_one, len(rows), None)
        return out

    def read(self, index: int) -> np.ndarray:
        """(h, w) uint8 class numbers of one image at the file's own size. Raises ImageError and DataError."""
        return self._number[self._read(index)]

    def shares(self) -> pd.DataFrame:
        """One row per pixel class: its share of the pixels, the images that have it, in all and in each split, and groups."""
        has = self.counts > 0
        table = pd.DataFrame(
            {
                "pixels": self.counts.sum(0),
                "share": self.counts.sum(0) / max(self.counts.sum(), 1),
                "images": has.sum(0),
                "groups": [len(np.unique(self.data.groups[column])) for column in has.T],
            },
            index=pd.Index(self.class_names, name="class"),
        )
        for split in SPLITS:
            table[split] = has[self.data.split == split].sum(0)
        return table

    def find_problems(self) -> list[Problem]:
        """What keeps a segmentation from being trained ('error'), or its scores from meaning much ('warning', 'note')."""
        if self.unusable:
            return self.unusable
        problems = []
        if len(self.class_names) < 2 or not self.counts[:, 1:].any():
            message = (
                "All masks are background: no pixel is marked. Check the masks, or name their values (--pixel-classes)."
            )
            return [Problem("error", "no marked pixels", (), message)]
        table = self.shares()
        for name, row in table.iterrows():
            absent = [split for split in SPLITS if row[split] == 0]
            if row["images"] == 0:
                message = (
                    f"The pixel class {name} is in no mask. Leave it out of --pixel-classes, or add masks that have it."
                )
                problems.append(Problem("error", "empty pixel class", (), message))
            elif "train" in absent:
                message = f"No training image has a pixel of class {name}: change the splits or add images."
                problems.append(Problem("error", "pixel class not in train", (), message))
            elif absent:
                message = f"No image in {' and '.join(absent)} has a pixel of class {name}, so it has no score there."
                problems.append(Problem("warning", "pixel class absent from a split", (), message))
        share = table["share"].iloc[1:]
        message = (
            f"Marked pixels are {share.sum():.1%} of all: a model that answers background everywhere is right on "
            f"{table['share'].iloc[0]:.1%} of the pixels. Compare IoU, not accuracy."
        )
        return [*problems, Problem("note", "pixel shares", (), message)]

    def require_trainable(self) -> None:
        """Raise DataError if training a segmentation would be meaningless."""
        if messages := [problem.message for problem in self.find_problems() if problem.level == "error"]:
            raise DataError(f"Training on {self.data.config.path} would be meaningless. {' '.join(messages[:2])}")

    def _resized(self, labels: np.ndarray) -> np.ndarray:
        return resize_values(labels, self.data.image_size, self.data.config.resize, IGNORED)

    def _read(self, index: int) -> np.ndarray:
        """Class numbers before classes without pixels are left out. Raises ImageError and DataError."""
        masks, header = self.data.masks, self.data.headers[index]
        path = masks[index] if masks is not None else None
        if path is None:
            return np.zeros((header.height, header.width), np.uint8)
        found = self._values.numbers(path, int(self.data.labels[index]) + 1)
        if found.shape != (header.height, header.width):
            raise _SizeError(f"{found.shape[0]} x {found.shape[1]} for {header.height} x {header.width}")
        return found

    def _read_all(self, classes: int) -> tuple[np.ndarray, list[str], list[Problem]]:
        """Pixels of each class (n, classes), a hash of each mask, and the problems, each with the files that have it."""
        counts, hashes = np.zeros((len(self.data), classes), np.int64), [""] * len(self.data)
        wrong: dict[int, Exception] = {}

        def read_one(index: int) -> None:
            try:
                found = self._read(index)
            except (ImageError, DataError) as error:
                wrong[index] = error
                return
            counts[index] = np.bincount(found.ravel(), minlength=256)[:classes]
            if self._all is not None:
                self._all[index] = self._resized(found)
            hashes[index] = hashlib.sha256(found.tobytes()).hexdigest()[:32]

        run_threaded(read_one, len(self.data), None)
        return counts, hashes, [*self._missing(), *self._wrong(wrong)]

    def _wrong(self, wrong: dict[int, Exception]) -> list[Problem]:
        problems = []

        def kind_of(error: Exception) -> type:
            return next(kind for kind in kinds if isinstance(error, kind))

        kinds = {
            _SizeError: ("mask of another size", "with another size than the image (height x width: {first})"),
            DataError: ("mask with unknown values", "with unknown values. The first: {first}"),
            ImageError: ("mask unreadable", "that cannot be read. The first: {first}"),
        }
        for kind, (name, text) in kinds.items():
            files = tuple(self.data.files[i] for i in sorted(wrong) if kind_of(wrong[i]) is kind)
            if files:
                first = next(str(wrong[i]) for i in sorted(wrong) if kind_of(wrong[i]) is kind)
                message = f"{plural(len(files), 'mask')} {text.format(first=first)}: {named(files)}."
                problems.append(Problem("error", name, files, message))
        return problems

    def _missing(self) -> list[Problem]:
        """Images without a mask whose class and folder have masks: whether they are background is not known."""
        has = np.array([mask is not None for mask in self.data.masks or ()])
        folders = np.array([Path(file).parent.as_posix() for file in self.data.files])  # labels may have been corrected
        some = np.isin(self.data.labels, self.data.labels[has]) & np.isin(folders, folders[has])
        files = tuple(self.data.files[i] for i in np.flatnonzero(~has & some))
        if not files:
            return []
        message = (
            f"{plural(len(files), 'image')} without a mask, while others of the class have one: {named(files)}. "
            "Add an all-black mask where nothing is to be marked, or remove the image."
        )
        return [Problem("error", "mask missing", files, message)]


def segmentation_check(check: DataCheck, labels: PixelLabels) -> DataCheck:
    """The check of data for a segmentation: with the problems of its masks in place of those of training on image classes."""
    found = [[p.level, p.kind, p.files, p.message] for p in labels.find_problems()]
    rows = pd.DataFrame(found, columns=list(check.problems))
    every = pd.concat([rows, check.problems[check.problems["level"] != "error"]], ignore_index=True)
    every = every.sort_values("level", key=lambda level: level.map(LEVELS.index), kind="stable", ignore_index=True)
    return dataclasses.replace(check, problems=every)


class _SizeError(DataError):
    """A mask of another size than its image."""


@functools.lru_cache(maxsize=2)
def labels_of_pixels(data: ImageData) -> PixelLabels:
    """The pixel labels of a data set, whose masks are read once. Raises DataError without masks, or if any cannot be used."""
    labels = PixelLabels(data)
    if labels.unusable:
        raise DataError(" ".join(problem.message for problem in labels.unusable[:2]))
    return labels
