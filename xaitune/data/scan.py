"""One pass over the files of a data set: content hash, header, and whether the pixels can be decoded."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xaitune.data.images import ImageHeader, check_pixels, parse_header, read_bytes
from xaitune.data.listing import THREADS
from xaitune.errors import DataError, ImageError

DECODE_LIMIT = 5000  # above it, files that end in their format's end mark are not decoded
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


@dataclass(frozen=True)
class Scanned:
    """One file's content hash and header, or the `reason` it cannot be used."""

    digest: str = ""
    header: ImageHeader | None = None
    reason: str = ""


def scan_files(root: Path, files: Sequence[str]) -> list[Scanned]:
    """Read every file once: content hash, header, and whether its pixels can be decoded.

    Up to DECODE_LIMIT files are all decoded (JPEG at an eighth of its size). In larger sets a JPEG or PNG that ends
    with its format's end mark counts as complete, and only the other files are decoded.
    """
    decode_all = len(files) <= DECODE_LIMIT

    def scan(file: str) -> Scanned:
        path = root / file
        try:
            data = read_bytes(path)
            header = parse_header(data, path)
            if decode_all or not data.endswith(_END_MARKS.get(header.format, b"\0no mark")):
                check_pixels(data, path)
        except ImageError as error:
            return Scanned(reason=str(error))
        return Scanned(hashlib.sha256(data).hexdigest()[:32], header)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(scan, files))


def unreadable_files(root: Path, files: Sequence[str], scanned: Sequence[Scanned]) -> list[tuple[str, str]]:
    """(file, reason) of the unreadable files. Raises DataError if they are more than max(3, 5 %) of the files, or all."""
    unreadable = [(f, s.reason) for f, s in zip(files, scanned, strict=True) if s.reason]
    if len(unreadable) > max(3, 0.05 * len(files)) or len(unreadable) == len(files):
        first = " ".join(reason.split(". ")[0] + "." for _, reason in unreadable[:3])
        raise DataError(f"{len(unreadable)} of {len(files)} images in {root} cannot be read. The first: {first}")
    return unreadable
