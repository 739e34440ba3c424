"""Listing of a data set: its files with their labels, splits and groups; `class_folders` lists folders, this a CSV.

Names are compared in Unicode's composed form (NFC), since macOS stores Korean file names decomposed.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from xaitune._machine import usable_cores
from xaitune._progress import Progress
from xaitune.data.walk import require_utf8
from xaitune.errors import DataError

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
MASK_FOLDERS = (
    *("mask", "masks", "seg", "segmentation", "segmentations", "gt", "ground_truth", "groundtruth"),
    *("label", "labels", "annotation", "annotations"),
)
THREADS = min(8, usable_cores())


@dataclass
class Listing:
    """The files of a folder or CSV.

    `files`: relative to `root`; `classes_of`, `splits` and `groups`: one name per file, '' for an unknown split or
    group. `classes`: all class names, also of empty classes. `notes`: what was ignored, and what was read from an unusual
    place. `passed_over`: class -> what its folder holds besides. `masks_beside`: masks found among the images, left out.
    """

    root: Path
    files: list[str]
    classes_of: list[str]
    splits: list[str]
    groups: list[str]
    classes: list[str]
    notes: list[str] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    masks_beside: list[str] = field(default_factory=list)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the files at these positions, in this order."""
        for name in ("files", "classes_of", "splits", "groups"):
            values = getattr(self, name)
            setattr(self, name, [values[i] for i in rows])


def nfc(text: str) -> str:
    """The composed Unicode form of a name."""
    return unicodedata.normalize("NFC", text)


def file_key(text: str) -> str:
    """The name of a file in a CSV, as names are compared.

    Examples:
        >>> file_key(".\\\\crack\\\\1.png")
        'crack/1.png'
    """
    return nfc(text.replace("\\", "/").removeprefix("./"))


def split_name(folder: str) -> str:
    """The split that a folder or a row of a CSV is named after: 'train', 'validation' or 'test', '' for none.

    Examples:
        >>> [split_name(name) for name in ("Training", "val", "test_set", "eval", "training course")]
        ['train', 'validation', 'test', 'validation', '']
    """
    plain = re.sub(r"[ _-]?(set|data|split|images|imgs)$", "", nfc(folder).strip().lower())
    return SPLIT_NAMES.get(plain, "")


def names_masks(folder: str) -> bool:
    """Whether a folder is named as one of masks is.

    Examples:
        >>> [names_masks(name) for name in ("masks", "Ground-Truth", "images")]
        [True, True, False]
    """
    return re.sub(r"[ -]", "_", folder.lower()) in MASK_FOLDERS


# ---- CSV


def list_csv(path: Path) -> Listing:
    """The rows of a CSV `file,label[,split][,group]`, files relative to it, sorted by name. Raises DataError."""
    require_utf8(path)
    table = read_text_csv(path, ("file", "label"))
    table["file"] = [t.replace("\\", "/").removeprefix("./") for t in table["file"]]
    for column in ("file", "label"):
        if (blank := table[column] == "").any():
            raise DataError(f"{path}: row {int(np.argmax(blank)) + 2} has no {column}. Fill it in.")
    names = pd.Series([nfc(f) for f in table["file"]])
    if (repeated := names.duplicated()).any():
        raise DataError(f"{path} lists {names[repeated].iloc[0]} twice. Keep one row per file.")
    table = table.iloc[np.argsort(names.to_numpy(dtype=str), kind="stable")]
    labels = [nfc(t) for t in table["label"]]
    splits = [""] * len(table)
    if "split" in table:
        splits = [split_name(t) for t in table["split"]]
        if "" in splits:
            row = splits.index("")
            raise DataError(
                f"{path}: the split of {table['file'].iloc[row]} must be train, validation or test. "
                f"Received: {table['split'].iloc[row]!r}."
            )
    groups = [nfc(t) for t in table["group"]] if "group" in table else [""] * len(table)
    root = path.parent
    return Listing(root, [_on_disk(root, f) for f in table["file"]], labels, splits, groups, sorted(set(labels)))


def _on_disk(root: Path, file: str) -> str:
    """The name as spelled on disk, which may be in another Unicode form."""
    for form in ("NFC", "NFD"):
        if not (root / file).exists() and (root / unicodedata.normalize(form, file)).exists():
            return unicodedata.normalize(form, file)
    return file


def read_text_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """All columns as stripped text, blanks as ''. Raises DataError if one of `columns` is missing or there are no rows."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except FileNotFoundError:
        raise DataError(f"No CSV at {path}. Check the path.") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty. It needs the columns {','.join(columns)}.") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise DataError(f"Cannot read {path} as CSV (UTF-8): {reason}.") from None
    table.columns = [str(c).strip().lower() for c in table.columns]
    if missing := [c for c in columns if c not in table]:
        raise DataError(f"{path} lacks the column {missing[0]!r}. It has: {', '.join(table.columns)}.")
    if not len(table):
        raise DataError(f"{path} has no rows below its header.")
    return table.apply(lambda column: column.str.strip())


# ---- groups


def resolve_groups(listing: Listing, rule: str | None) -> list[str]:
    """The group of every file. Raises DataError.

    It comes from `rule` (a CSV `file,group`, or a regular expression whose first capture group is the name), else from
    the listing; a file without a group is a group of its own, with the file's name.
    """
    groups = listing.groups
    if rule and (rule.lower().endswith(".csv") or _is_file(rule)):
        groups = _groups_from_csv(listing, Path(rule))
    elif rule:
        groups = _groups_from_pattern(listing.files, rule)
    return [g or nfc(f) for g, f in zip(groups, listing.files, strict=True)]


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _groups_from_csv(listing: Listing, path: Path) -> list[str]:
    table = read_text_csv(path, ("file", "group"))
    known: dict[str, str] = {}
    for file, group in zip(table["file"], table["group"], strict=True):
        key = file_key(file)
        if known.setdefault(key, nfc(group)) != nfc(group):
            raise DataError(f"{path} assigns two groups to {key}: {known[key]} and {group}. Keep one.")
    missing = [f for f in listing.files if nfc(f) not in known]
    if missing:
        raise DataError(
            f"{path} has no group for {len(missing)} of {len(listing.files)} images, the first is {missing[0]}. "
            f"File paths in it must be relative to {listing.root}."
        )
    return [known[nfc(f)] for f in listing.files]


def _groups_from_pattern(files: Sequence[str], pattern: str) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"groups is neither a CSV nor a regular expression ({error}). Received: {pattern!r}.") from None
    if not compiled.groups:
        raise DataError(
            f"The regular expression for groups needs a capture group in parentheses. Received: {pattern!r}."
        )
    groups = []
    for file in files:
        match = compiled.search(nfc(file.rsplit("/", 1)[-1]))
        if not match or not match.group(1):
            raise DataError(f"The regular expression for groups {pattern!r} does not match {file}.")
        groups.append(match.group(1))
    return groups


# ---- helpers


def digest(parts: Iterable[str]) -> str:
    """16 hex digits that depend on every part and their order."""
    sha = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        sha.update(len(encoded).to_bytes(8, "little") + encoded)
    return sha.hexdigest()[:16]


def run_threaded(work: Callable[[int], None], count: int, progress: Progress | None) -> None:
    """Call work(0) to work(count - 1) in threads; raises the first error.

    `progress(done, count, what)` is called in the caller's thread.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for done, _ in enumerate(pool.map(work, range(count)), start=1):
            if progress is not None:
                progress(done, count, "images")


def positions_by_value(values: Sequence[str]) -> dict[str, list[int]]:
    """The positions of each value, ascending."""
    positions: dict[str, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        positions[value].append(i)
    return dict(positions)
