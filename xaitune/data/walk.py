"""The files below a folder, as every listing sees them: links followed, hidden entries left out, names checked.

`ImageData` and `expand_images` (explain, predict) share it, so that what is trained on can be explained.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from xaitune.errors import DataError, InputError

_JUNK = ("thumbs.db", "desktop.ini")  # what Windows leaves in every folder of pictures
_FolderId = tuple[int, int]


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, in order of name, without hidden entries and macOS's __MACOSX. Raises OSError."""
    with os.scandir(folder) as found:
        kept = [e for e in found if not e.name.startswith(".") and e.name != "__MACOSX"]
    return sorted(kept, key=lambda e: e.name)


def walk_files(folder: Path, error: type[InputError] = DataError) -> Iterator[Path]:
    """All files below a folder, at any depth; raises `error` for a folder that cannot be listed.

    Links are followed. A link to a folder that contains it is not: that would not end, and would bring the images of other
    folders in.
    """
    yield from _walk(folder, _ids_above(folder), error)


def leads_back(entry: os.DirEntry[str], folder: Path) -> bool:
    """Whether an entry of `folder` is a link to that folder or to one above it."""
    return entry.is_symlink() and entry.is_dir() and _id(entry.stat()) in _ids_above(folder)


def _walk(folder: Path, above: frozenset[_FolderId], error: type[InputError]) -> Iterator[Path]:
    try:
        inside = entries(folder)
    except OSError as problem:
        raise error(f"Cannot list {escaped(folder)}: {problem.strerror or problem}.") from None
    for entry in inside:
        if not entry.is_dir():
            yield Path(entry.path)
        elif (own := _id(entry.stat())) not in above:
            yield from _walk(Path(entry.path), above | {own}, error)


def _id(stat: os.stat_result) -> _FolderId:
    return stat.st_dev, stat.st_ino


def _ids_above(folder: Path) -> frozenset[_FolderId]:
    """The identity of a folder and of all folders that contain it, links resolved."""
    own = folder.resolve()
    return frozenset(_id(f.stat()) for f in (own, *own.parents))


# ---- names


def escaped(path: str | os.PathLike[str]) -> str:
    r"""A path as it can be printed: in a name that is not UTF-8, every byte beyond ASCII as \xb1."""
    return "/".join(map(_escaped_name, os.fsencode(path).split(b"/")))


def _escaped_name(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        # Some of the bytes may be UTF-8 by chance: they would read as a letter of another script.
        return name.decode("ascii", "backslashreplace")


def require_utf8(path: str | os.PathLike[str], error: type[InputError] = DataError) -> None:
    """Raise `error` for a path with a name that is not UTF-8: no table, JSON or CSV could name it.

    Such names come from archives that were packed on another system, such as a Korean Windows.
    """
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        folder = escaped(Path(path).parent)
        raise error(
            f"The name of {escaped(path)} is not UTF-8. Rename it (for Korean names: convmv -r -f cp949 -t utf8 --notest "
            f"'{folder}'), or unpack the archive again with its encoding (unzip -O cp949)."
        ) from None


# ---- what was not read


def endings(paths: Iterable[Path]) -> Counter[str]:
    """How many files have each ending, in lower case ('' for none); the files that systems leave behind do not count."""
    return Counter(p.suffix.lower() for p in paths if p.name.lower() not in _JUNK)


def counted(found: Counter[str]) -> str:
    """Such as '8 .heic, 1 without an ending', the most frequent first."""
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {escaped(ending) or 'without an ending'}" for ending, count in ordered)
