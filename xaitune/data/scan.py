"""One pass over the files of a data set: content hash, header, values, and whether the pixels can be decoded."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xaitune.data.deep import FULL
from xaitune.data.images import ImageHeader, check_pixels, parse_header, read_bytes
from xaitune.data.listing import THREADS
from xaitune.errors import DataError, ImageError

DECODE_LIMIT = 5000  # above it, files that end in their format's end mark are not decoded
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


@dataclass(frozen=True)
class Scanned:
    """One file's content hash and header, or the `reason` it cannot be used.

    `values`: the smallest and the largest of a file of 16 bits whose header does not say how many are used.
    """

    digest: str = ""
    header: ImageHeader | None = None
    reason: str = ""
    values: tuple[int, int] | None = None


def scan_files(root: Path, files: Sequence[str], bit_depth: int | None = None) -> list[Scanned]:
    """Read every file once: content hash, header, values, and whether its pixels can be decoded.

    Up to DECODE_LIMIT files are all decoded (JPEG at an eighth of its size). In larger sets a JPEG or PNG of 8 bits that
    ends with its format's end mark counts as complete, and only the other files are decoded.
    """
    decode_all = len(files) <= DECODE_LIMIT

    def scan(file: str) -> Scanned:
        path = root / file
        try:
            data = read_bytes(path)
            header = parse_header(data, path)
            values, complete = None, data.endswith(_END_MARKS.get(header.format, b"\0no mark"))
            if decode_all or header.bits == 16 or not complete:
                values = check_pixels(data, path, bit_depth)
        except ImageError as error:
            return Scanned(reason=str(error))
        return Scanned(_pixel_digest(data, header, bit_depth), header, values=values)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(scan, files))


def _pixel_digest(data: bytes, header: ImageHeader, bit_depth: int | None) -> str:
    """32 hex digits of a file's content, and of what its numbers mean where that is not 0..255 or 0..65535."""
    sha = hashlib.sha256(data)
    white = header.depth.white(bit_depth)
    if header.bits == 16 and header.format != "DICOM" and (white != FULL or header.depth.inverted):
        sha.update(f"white {white} inverted {header.depth.inverted}".encode())
    return sha.hexdigest()[:32]


def unreadable_files(root: Path, files: Sequence[str], scanned: Sequence[Scanned]) -> list[tuple[str, str]]:
    """(file, reason) of the unreadable files. Raises DataError if they are more than max(3, 5 %) of the files, or all."""
    unreadable = [(f, s.reason) for f, s in zip(files, scanned, strict=True) if s.reason]
    if len(unreadable) > max(3, 0.05 * len(files)) or len(unreadable) == len(files):
        first = " ".join(reason.split(". ")[0].rstrip(".") + "." for _, reason in unreadable[:3])
        raise DataError(f"{len(unreadable)} of {len(files)} images in {root} cannot be read. The first: {first}")
    return unreadable
