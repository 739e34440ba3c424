"""Masks: the file that marks the defect in an image, in a folder of its own or among the images themselves."""

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from xaitune.data.images import decode_image, is_image_name, read_bytes
from xaitune.data.listing import Listing, names_masks, nfc, run_threaded
from xaitune.data.walk import require_utf8, walk_files
from xaitune.errors import DataError, ImageError

# x_mask.png is a mask of x.png or x.jpg; a number tells apart several masks of one image
_MASK_ENDING = re.compile(r"[ _-](mask|seg|segmentation|gt|label)(_?\d+)?$", re.IGNORECASE)

DRAWN_COLOURS, DRAWN_EDGE, DRAWN_SHARE = 16, 16, 0.95  # see `_is_drawn`
_MASKS = "*"  # in a key, stands for a folder named masks or the like


def image_stem(stem: str) -> str:
    """The stem of the image that a mask's stem names; '' for a stem without an ending such as _mask.

    Examples:
        >>> image_stem("part_mask"), image_stem("part-GT"), image_stem("part")
        ('part', 'part', '')
    """
    found = _MASK_ENDING.search(stem)
    return stem[: found.start()] if found else ""


def masks_among(paths: Sequence[Path]) -> list[Path]:
    """Those of some image files that `leave_out_masks` takes for masks."""
    full = [path.absolute() for path in paths]
    root = Path(os.path.commonpath([path.parent for path in full]))
    files = [path.relative_to(root).as_posix() for path in full]
    blank = [""] * len(files)
    listing = Listing(root, files, [nfc(path.parent.name) for path in full], blank, blank, [])
    leave_out_masks(listing)
    masks = set(listing.masks_beside)
    return [path for path, file in zip(paths, files, strict=True) if file in masks]


def leave_out_masks(listing: Listing) -> None:
    """Take the masks among the images out of a listing, with a note, and keep them in its `masks_beside`.

    A file is a mask if an image in the same folder has its stem without an ending such as _mask, -mask, _seg, _GT or
    _label, and it is drawn (`_is_drawn`), not a photograph. It is one, too, if it has at most two values and shares its stem
    with an image that is beside it with another ending (x.png beside x.jpg) and has more values, or that it mirrors from a
    folder named masks or the like (class/masks/x.png to class/images/x.png, masks/class/x.png to class/x.png).
    """
    by_stem: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, file in enumerate(listing.files):
        path = Path(nfc(file))
        by_stem[path.parent.as_posix(), path.stem].append(i)
    named = [i for (folder, stem), rows in by_stem.items() if (folder, image_stem(stem)) in by_stem for i in rows]
    masks = {i for i, drawn in zip(named, _checked(listing, named, _is_drawn), strict=True) if drawn}
    masks |= _two_valued_twins(listing, [rows for rows in by_stem.values() if len(rows) > 1])
    mirrored = _in_mask_folders(by_stem)
    masks |= {i for i, two in zip(mirrored, _two_valued(listing, mirrored), strict=True) if two}
    if not masks:
        return
    listing.masks_beside = [listing.files[i] for i in sorted(masks)]
    emptied = {c for c in listing.classes_of if names_masks(c)}
    listing.keep([i for i in range(len(listing.files)) if i not in masks])
    emptied -= set(listing.classes_of)
    listing.classes = [c for c in listing.classes if c not in emptied]
    were = "mask among the images was" if len(masks) == 1 else "masks among the images were"
    listing.notes.append(
        f"{len(masks):,} {were} left out (the first: {listing.masks_beside[0]}): --masks with the image folder itself uses "
        "them."
    )


def _in_mask_folders(by_stem: dict[tuple[str, str], list[int]]) -> list[int]:
    """The files in folders named masks or the like whose stem is that of an image elsewhere."""
    elsewhere = {key for key in by_stem if not any(map(names_masks, Path(key[0]).parts))}
    beside = {(Path(folder).parent.as_posix(), stem) for folder, stem in elsewhere}
    found = []
    for (folder, stem), rows in by_stem.items():
        parts = Path(folder).parts
        place = next((n for n, part in enumerate(parts) if names_masks(part)), None)
        if place is None:
            continue
        above, mirrored = Path(*parts[:place]).as_posix(), Path(*parts[:place], *parts[place + 1 :]).as_posix()
        of = (stem, image_stem(stem))
        if any((mirrored, s) in elsewhere or (place == len(parts) - 1 and (above, s) in beside) for s in of):
            found += rows
    return found


def _two_valued_twins(listing: Listing, twins: list[list[int]]) -> set[int]:
    """Of files with one stem, those with at most two values where another has more."""
    rows = [i for same in twins for i in same]
    two_valued = dict(zip(rows, _two_valued(listing, rows), strict=True))
    return {i for same in twins if not all(two_valued[i] for i in same) for i in same if two_valued[i]}


def _two_valued(listing: Listing, rows: list[int]) -> list[bool]:
    """Whether each of these files has at most two values; False for one that cannot be read."""
    return _checked(listing, rows, _is_two_valued)


def _checked(listing: Listing, rows: list[int], holds: Callable[[np.ndarray], bool]) -> list[bool]:
    """Whether something `holds` for the pixels of each of these files; False for one that cannot be read."""
    found = [False] * len(rows)

    def look(n: int) -> None:
        path = listing.root / listing.files[rows[n]]
        with contextlib.suppress(ImageError):
            found[n] = holds(decode_image(read_bytes(path), path, background=0))

    run_threaded(look, len(rows), None)
    return found


def _is_drawn(pixels: np.ndarray) -> bool:
    """Whether an image has few colours, or is nearly black or white nearly everywhere, as a mask saved as JPEG is."""
    if len(np.unique(pixels.reshape(-1, 3)[:: max(pixels.size // 30_000, 1)], axis=0)) <= DRAWN_COLOURS:
        return True
    grey = np.ptp(pixels.astype(np.float32), axis=2).max() < DRAWN_EDGE
    return bool(grey and ((pixels < DRAWN_EDGE) | (pixels > 255 - DRAWN_EDGE)).mean() > DRAWN_SHARE)


def _is_two_valued(pixels: np.ndarray) -> bool:
    other = pixels[(pixels != pixels[0, 0]).any(axis=2)]  # the pixels that differ from the first one
    return not len(other) or bool((other == other[0]).all())


def find_masks(listing: Listing, folder: Path) -> list[Path | None]:
    """The mask of every file, or None; masks have the stem of their image, or that with an ending such as _mask.

    They are looked up in the subfolder with the file's own relative path, then in a folder named masks or the like there or
    beside it, then in <masks>/<class>/, then in <masks>/ itself; an image of the listing is never a mask. Raises DataError
    if the folder is missing or no mask fits an image.
    """
    require_utf8(folder)
    if not folder.is_dir():
        raise DataError(f"No mask folder at {folder}. Check the path.")
    root, inside = listing.root.resolve(), folder.resolve()
    overlap = root.is_relative_to(inside) or inside.is_relative_to(root)
    images = {(root / file).resolve() for file in listing.files} if overlap else set()
    exact: dict[tuple[str, str], Path] = {}
    ending: dict[tuple[str, str], Path] = {}
    for path in walk_files(folder):
        if not is_image_name(path) or (overlap and path.resolve() in images):
            continue
        place, stem = Path(nfc(path.parent.relative_to(folder).as_posix())), nfc(path.stem)
        places = [place, place.parent / _MASKS] if names_masks(place.name) else [place]
        for parent in (p.as_posix() for p in places):
            exact.setdefault((parent, stem), path)
            if own := image_stem(stem):
                ending.setdefault((parent, own), path)
    known = ending | exact
    masks: list[Path | None] = []
    for file, label in zip(listing.files, listing.classes_of, strict=True):
        image = Path(nfc(file))
        own_folder, beside = image.parent, image.parent.parent
        keys = [
            (place.as_posix(), image.stem)
            for place in (own_folder, own_folder / _MASKS, beside / _MASKS, Path(label), Path("."))
        ]
        masks.append(next((known[key] for key in keys if key in known), None))
    if any(masks):
        return masks
    stem = Path(listing.files[0]).stem
    if inside == root:
        raise DataError(
            f"{folder} is the folder of the images, and no masks are beside them. Name the folder of the masks, or put "
            f"them beside the images, such as {stem}_mask.png."
        )
    raise DataError(
        f"No mask in {folder} fits an image. Expected {folder.name}/<class>/<stem>.png, such as "
        f"{listing.classes_of[0]}/{stem}.png (or {stem}_mask.png)."
    )
