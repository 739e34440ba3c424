"""Listing of a data set: its files with their labels, splits, groups and masks.

Names are compared in Unicode's composed form (NFC), since macOS stores Korean file names decomposed.
"""

import hashlib
import os
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
from xaitune.data.images import IMAGE_SUFFIXES, is_image_name
from xaitune.errors import DataError

SPLIT_NAMES = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
THREADS = min(8, usable_cores())


@dataclass
class Listing:
    """The files of a folder or CSV.

    `files`: relative to `root`; `classes_of`, `splits` and `groups`: one name per file, '' for an unknown split or
    group. `classes`: all class names, also of empty classes. `notes`: what was ignored.
    """

    root: Path
    files: list[str]
    classes_of: list[str]
    splits: list[str]
    groups: list[str]
    classes: list[str]
    notes: list[str] = field(default_factory=list)


def nfc(text: str) -> str:
    """The composed Unicode form of a name."""
    return unicodedata.normalize("NFC", text)


# ---- listing


def list_folder(root: Path, masks: Path | None) -> Listing:
    """The images of root/<class>/ or root/<split>/<class>/, sorted by name. Raises DataError."""
    folders = _folders(root)
    train = [f for f in folders if SPLIT_NAMES.get(f.name.lower()) == "train"]
    listing = Listing(root, [], [], [], [], [])
    if train and _folders(train[0]) and not _images(train[0]):
        for folder in folders:
            split = SPLIT_NAMES.get(folder.name.lower())
            if split:
                _add_classes(listing, folder, split, masks)
            else:
                listing.notes.append(
                    f"The folder {folder.name} is next to train but is not a split, so it was ignored."
                )
    else:
        _add_classes(listing, root, "", masks)
    if not listing.files:
        raise DataError(f"No images in the class folders of {root}. {_hint(root, listing)}")
    listing.classes = sorted(set(listing.classes))
    order = sorted(range(len(listing.files)), key=lambda i: (nfc(listing.files[i]), listing.files[i]))
    for name in ("files", "classes_of", "splits", "groups"):
        values = getattr(listing, name)
        setattr(listing, name, [values[i] for i in order])
    return listing


def _add_classes(listing: Listing, folder: Path, split: str, masks: Path | None) -> None:
    if loose := _images(folder):
        listing.notes.append(f"{len(loose)} images directly in {folder} belong to no class and were ignored.")
    for class_folder in _folders(folder):
        if masks is not None and class_folder.resolve() == masks.resolve():
            continue
        images = _images(class_folder)
        listing.classes.append(nfc(class_folder.name))
        for path in images:
            listing.files.append(path.relative_to(listing.root).as_posix())
            listing.classes_of.append(nfc(class_folder.name))
            listing.splits.append(split)
            listing.groups.append("")


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".")]
    except FileNotFoundError:
        raise DataError(f"No image folder at {folder}. Check the path.") from None
    except NotADirectoryError:
        raise DataError(f"{folder} is a file, but a folder of class folders (or a .csv) is needed.") from None
    except OSError as error:
        raise DataError(f"Cannot list {folder}: {error.strerror or error}.") from None


def _folders(folder: Path) -> list[Path]:
    return sorted((Path(e.path) for e in _entries(folder) if e.is_dir()), key=lambda p: nfc(p.name))


def _images(folder: Path) -> list[Path]:
    return [Path(e.path) for e in _entries(folder) if is_image_name(Path(e.name)) and e.is_file()]


def _hint(root: Path, listing: Listing) -> str:
    for deeper in _folders(root):
        if any(_images(f) for f in _folders(deeper)):
            return f"Did you mean {deeper}?"
    if _images(root):
        return "It contains images directly: put them into one folder per class."
    return f"Expected {root.name}/<class>/*{'|'.join(IMAGE_SUFFIXES)}."


def list_csv(path: Path) -> Listing:
    """The rows of a CSV `file,label[,split][,group]`, files relative to it, sorted by name. Raises DataError."""
    table = _read_csv(path, ("file", "label"))
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
        splits = [SPLIT_NAMES.get(t.lower(), "?") for t in table["split"]]
        if "?" in splits:
            row = splits.index("?")
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


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
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


# ---- groups and masks


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
    table = _read_csv(path, ("file", "group"))
    known: dict[str, str] = {}
    for file, group in zip(table["file"], table["group"], strict=True):
        key = nfc(file.replace("\\", "/").removeprefix("./"))
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


def find_masks(listing: Listing, folder: Path) -> list[Path | None]:
    """The mask of every file, or None; masks have the stem of their image.

    They are looked up in the subfolder with the file's own relative path, then in <masks>/<class>/, then in <masks>/
    itself. Raises DataError if the folder is missing or no mask fits an image.
    """
    if not folder.is_dir():
        raise DataError(f"No mask folder at {folder}. Check the path.")
    known: dict[tuple[str, str], Path] = {}
    for path in sorted(p for p in folder.rglob("*") if is_image_name(p.relative_to(folder))):
        parent = nfc(path.parent.relative_to(folder).as_posix())
        known.setdefault((parent, nfc(path.stem)), path)
    masks: list[Path | None] = []
    for file, label in zip(listing.files, listing.classes_of, strict=True):
        own = Path(nfc(file))
        places = (own.parent.as_posix(), label, ".")
        masks.append(next((known[p, own.stem] for p in places if (p, own.stem) in known), None))
    if not any(masks):
        raise DataError(
            f"No mask in {folder} fits an image. Expected {folder.name}/<class>/<stem>.png, such as "
            f"{listing.classes_of[0]}/{Path(listing.files[0]).stem}.png."
        )
    return masks


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
