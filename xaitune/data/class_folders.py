"""Listing of class folders: root/<class>/ or root/<split>/<class>/, and what to do where the images lie elsewhere."""

import itertools
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from xaitune._names import listed, plural
from xaitune.data.images import IMAGE_SUFFIXES, is_image_name
from xaitune.data.listing import Listing, names_masks, nfc, split_name
from xaitune.data.masks import leave_out_masks
from xaitune.data.walk import counted, endings, entries, escaped, leads_back, require_utf8, walk_files
from xaitune.errors import DataError

_SHOWN = 3  # names listed in a message
_LOOKED_AT = 200_000  # files, to say where the images are


@dataclass
class _Besides:
    """What the folders of one class hold besides the images that are read: files by ending, images further down, masks."""

    files: Counter[str] = field(default_factory=Counter)
    deeper: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        below = f"{plural(len(self.deeper), 'image')} in subfolders (--recursive reads them)" if self.deeper else ""
        files = f"files of other kinds ({counted(self.files)})" if self.files else ""
        return " and ".join(filter(None, (files, below)))


def list_folder(root: Path, masks: Path | None, *, recursive: bool = False) -> Listing:
    """The images of root/<class>/ or root/<split>/<class>/, sorted by name. Raises DataError.

    A class folder whose images all lie in its only subfolder (but for one of masks) is read from there; `recursive` reads
    images at any depth below a class folder. `masks`: the mask folder, which is no class. Masks among the images are left out.
    """
    require_utf8(root)
    listing = Listing(root, [], [], [], [], [])
    besides: dict[str, _Besides] = defaultdict(_Besides)
    folders = _folders(root)
    splits = _splits(folders)
    for folder in folders if splits else ():
        if folder in splits:
            _add_classes(listing, besides, folder, splits[folder], masks, recursive)
        elif masks is None or folder.resolve() != masks.resolve():
            held = plural(sum(map(is_image_name, walk_files(folder))), "image")
            listing.notes.append(
                f"The folder {escaped(folder.name)} ({held}) is next to train but is not a split, so it was ignored."
            )
    if not splits:
        _refuse_splits_without_classes(folders)
        _add_classes(listing, besides, root, "", masks, recursive)
    if not listing.files and masks is not None:
        _add_flat(listing, root, masks)
    if not listing.files:
        raise DataError(f"No images in the class folders of {root}. {_hint(root, masks)}")
    listing.classes = sorted(set(listing.classes))
    listing.notes += _passed_over(besides)
    listing.passed_over = {name: str(held) for name, held in besides.items() if str(held)}
    listing.keep(sorted(range(len(listing.files)), key=lambda i: (nfc(listing.files[i]), listing.files[i])))
    for file in listing.files:
        require_utf8(root / file)
    leave_out_masks(listing)
    return listing


def _add_flat(listing: Listing, root: Path, masks: Path) -> None:
    """Images directly in a folder, with masks in another one, as for a segmentation: all of one class, named after the folder."""
    images = _images(root) if masks.resolve() != root.resolve() else []
    listing.files += [path.relative_to(root).as_posix() for path in images]
    listing.classes = [nfc(root.name)] if images else []
    listing.classes_of += [nfc(root.name)] * len(images)
    listing.splits += [""] * len(images)
    listing.groups += [""] * len(images)
    listing.notes = [note for note in listing.notes if "belong to no class" not in note]


def _splits(folders: list[Path]) -> dict[Path, str]:
    """Folder -> split, if there are ready-made splits: a folder named train, or the like, with class folders in it."""
    named = {folder: split for folder in folders if (split := split_name(folder.name))}
    train = [f for f, split in named.items() if split == "train" and _folders(f) and not _images(f)]
    if not train:
        return {}
    named = {folder: split for folder, split in named.items() if _folders(folder)}  # others hold images without classes
    for split in ("train", "validation", "test"):
        if len(same := [f.name for f in named if named[f] == split]) > 1:
            names = listed([escaped(name) for name in same])
            raise DataError(
                f"The folders {names} of {train[0].parent} are all named after the split {split}. Put their images into one "
                "of them, or rename one: train, validation and test are known."
            )
    return named


def _refuse_splits_without_classes(folders: list[Path]) -> None:
    """Raise DataError for train/*.png and test/*.png: a model would learn which split an image is from."""
    named = {split_name(f.name) for f in folders}
    if "train" in named and len(named) > 1 and "" not in named and all(map(_images, folders)):
        raise DataError(
            f"The folders {listed([f.name for f in folders])} of {folders[0].parent} are splits, but hold images without "
            "classes. Put the images of each into one folder per class, or list them in a CSV file,label,split."
        )


def _add_classes(
    listing: Listing, besides: dict[str, _Besides], folder: Path, split: str, masks: Path | None, recursive: bool
) -> None:
    if loose := _images(folder):
        listing.notes.append(f"{len(loose)} images directly in {folder} belong to no class and were ignored.")
    in_subfolder = []
    for class_folder in _folders(folder):
        if masks is not None and class_folder.resolve() == masks.resolve():
            continue
        require_utf8(class_folder)
        label = nfc(class_folder.name)
        images, below = _images(class_folder), _folders(class_folder)
        plain = [] if names_masks(label) else [f for f in below if not names_masks(f.name)]
        if recursive:
            images = [p for p in walk_files(class_folder) if is_image_name(p)]
        elif not images and len(plain) == 1 and (images := _images(plain[0])):
            in_subfolder.append(f"{class_folder.name}/{plain[0].name}")
        if names_masks(label) and below and not images:
            held = plural(sum(map(is_image_name, walk_files(class_folder))), "image")
            listing.notes.append(
                f"The folder {class_folder.name} ({held}) was taken for one of masks and is no class: name it as --masks."
            )
            continue
        read = set(images)
        others = [p for p in (walk_files(class_folder) if below else _plain_files(class_folder)) if p not in read]
        for path in filter(is_image_name, others):
            in_masks = any(map(names_masks, path.relative_to(class_folder).parts[:-1]))
            (besides[label].masks if in_masks else besides[label].deeper).append(path)
        besides[label].files += endings(p for p in others if not is_image_name(p))
        listing.classes.append(label)
        listing.files += [path.relative_to(listing.root).as_posix() for path in images]
        listing.classes_of += [label] * len(images)
        listing.splits += [split] * len(images)
        listing.groups += [""] * len(images)
    if in_subfolder:
        listing.notes.append(
            f"The images of {plural(len(in_subfolder), 'class')} were read from the only subfolder: {_first(in_subfolder)}."
        )


def _passed_over(besides: dict[str, _Besides]) -> list[str]:
    """Notes on what the class folders hold besides the images that are read."""
    notes = []
    files = sum((held.files for held in besides.values()), Counter[str]())
    if files:
        notes.append(
            f"{plural(files.total(), 'file')} passed over in class folders, as their endings are not read: {counted(files)}."
        )
    deeper = [path for held in besides.values() for path in held.deeper]
    if deeper:
        notes.append(
            f"{plural(len(deeper), 'image')} passed over in subfolders of class folders ({_places(deeper)}): --recursive reads "
            "them."
        )
    masks = [path for held in besides.values() for path in held.masks]
    if masks:
        notes.append(
            f"{plural(len(masks), 'file')} passed over in mask folders of class folders ({_places(masks)}): --masks with the "
            "image folder itself uses them."
        )
    return notes


def _places(paths: list[Path]) -> str:
    return _first(sorted({f"{p.parent.parent.name}/{p.parent.name}" for p in paths}))


def _first(names: list[str]) -> str:
    return ", ".join(map(escaped, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return entries(folder)
    except FileNotFoundError:
        raise DataError(f"No image folder at {folder}. Check the path.") from None
    except NotADirectoryError:
        raise DataError(f"{folder} is a file, but a folder of class folders (or a .csv) is needed.") from None
    except OSError as error:
        raise DataError(f"Cannot list {escaped(folder)}: {error.strerror or error}.") from None


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, without links that lead back to it or above it."""
    found = [Path(e.path) for e in _entries(folder) if e.is_dir() and not leads_back(e, folder)]
    return sorted(found, key=lambda p: nfc(p.name))


def _plain_files(folder: Path) -> list[Path]:
    return [Path(e.path) for e in _entries(folder) if not e.is_dir()]


def _images(folder: Path) -> list[Path]:
    """The images in a folder, also links that lead nowhere: those are named as unreadable later."""
    return [p for p in _plain_files(folder) if is_image_name(p)]


def _hint(root: Path, masks: Path | None) -> str:
    """Where the images are, if not in class folders. Following it leaves no image behind."""
    inside = list(itertools.islice(walk_files(root), _LOOKED_AT))
    if len(inside) == _LOOKED_AT:  # perhaps a whole disk: what it holds would not tell where the images are
        return "Give the folder whose subfolders are the classes."
    if masks is not None and masks.resolve() != root.resolve():
        inside = [p for p in inside if not p.is_relative_to(masks)]
    images = [p for p in inside if is_image_name(p)]
    images = [p for p in images if not any(map(names_masks, p.relative_to(root).parts))] or images
    if not images:
        held = f"It holds {counted(endings(inside))}. " if inside else ""
        return f"{held}Expected {root.name}/<class>/*{'|'.join(IMAGE_SUFFIXES)}."
    places = sorted({p.parent for p in images})
    if len(places) == 1:
        where = "It contains images directly" if places == [root] else f"All images are in {escaped(places[0])}"
        return f"{where}: put them into one folder per class."
    named = {f.name: split for f in _folders(root) if (split := split_name(f.name)) and _folders(f)}
    if named and "train" not in named.values():
        return f"It holds splits ({', '.join(named)}), but none for training: name the folder of the training images train."
    common = Path(os.path.commonpath(places))
    if common != root:
        return f"Did you mean {escaped(common)}?"
    shown = _first([p.relative_to(root).as_posix() for p in places])
    return (
        f"Images are further down ({shown}): give the folder whose subfolders are the classes, or --recursive to read all "
        "of them as the classes of the first level."
    )
