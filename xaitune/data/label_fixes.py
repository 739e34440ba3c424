"""Corrections of labels from a CSV, such as the one that `data-check --labels` writes; no image file is changed."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from xaitune._names import plural
from xaitune.data.listing import Listing, file_key, nfc, read_text_csv
from xaitune.errors import DataError, nearest

ACTIONS = ("keep", "relabel", "drop")
SHOWN_CLASSES = 20  # in a message

Fix = tuple[str, str]  # an action and, for relabel, the new class


def apply_label_fixes(listing: Listing, path: Path) -> list[int]:
    """Correct a listing as the CSV `file,action[,new_class]` says; returns the positions of the files that are left.

    relabel gives an image the class in `new_class`, drop leaves it out, keep and an empty action change nothing; other
    columns are not read. Adds a note that counts the changes. Raises DataError for an unknown file, action or class, and
    for two different actions on one file.
    """
    fixes = _read_fixes(listing, path)
    relabelled = {i: new for i, (_, new) in fixes.items() if new and new != listing.classes_of[i]}
    for i, new in relabelled.items():
        listing.classes_of[i] = new
    kept = [i for i in range(len(listing.files)) if fixes.get(i, ("", ""))[0] != "drop"]
    dropped = len(listing.files) - len(kept)
    if not kept:
        raise DataError(f"{path} drops all {plural(dropped, 'image')}. Leave some of them in.")
    listing.keep(kept)
    listing.notes.append(f"Label fixes: {plural(len(relabelled), 'image')} relabelled, {dropped:,} left out ({path}).")
    return kept


def _read_fixes(listing: Listing, path: Path) -> dict[int, Fix]:
    """Position in the listing -> fix, of the files that have an action."""
    table = read_text_csv(path, ("file", "action"))
    positions = {nfc(file): i for i, file in enumerate(listing.files)}
    fixes: dict[int, Fix] = {}
    for number, row in enumerate(table.to_dict("records"), start=2):
        place = f"{path}, row {number} ({row['file']})"
        action = row["action"].lower()
        if not action:
            continue
        if action not in ACTIONS:
            known = f"action must be {', '.join(ACTIONS)}, or empty"
            raise DataError(f"{place}: {known}. Received: {row['action']!r}.{nearest(action, ACTIONS)}")
        position = _position(positions, row["file"], place, listing)
        fix = (action, _new_class(row, place, listing.classes) if action == "relabel" else "")
        if fixes.setdefault(position, fix) != fix:
            both = " and ".join(" ".join(filter(None, f)) for f in (fixes[position], fix))
            raise DataError(f"{place}: this file has two different actions, {both}. Keep one row.")
    return fixes


def _position(positions: Mapping[str, int], file: str, place: str, listing: Listing) -> int:
    key = file_key(file)
    if key not in positions:
        raise DataError(
            f"{place}: no such image in the data.{nearest(key, positions)} File paths must be relative to {listing.root}."
        )
    return positions[key]


def _new_class(row: Mapping[str, str], place: str, classes: list[str]) -> str:
    new = nfc(row.get("new_class", ""))
    if new not in classes:
        known = ", ".join(classes[:SHOWN_CLASSES]) + (" ..." if len(classes) > SHOWN_CLASSES else "")
        raise DataError(
            f"{place}: new_class must be a class of the data ({known}). Received: {new!r}.{nearest(new, classes)}"
        )
    return new


def may_hold_actions(path: Path) -> bool:
    """Whether a file with the column `action` has one filled in, or cannot be read well enough to tell that it has none."""
    if not path.is_file():
        return False
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="replace")
    except ValueError:  # pandas's own errors are kinds of it
        return True
    return "action" not in table or bool((table["action"].str.strip() != "").any())
