"""DICOM files, read by pydicom (the extra `dicom`): grey values as the file says that they are to be shown.

The values are rescaled (modality LUT, or slope and intercept), cut by the file's first window, else by its VOI LUT, else
shown over the whole range of the stored bits; MONOCHROME1 is inverted. Of several frames the first is read.
"""

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xaitune.errors import ImageError

DICOM_SUFFIXES = (".dcm", ".dicom")
_PREAMBLE = 128  # bytes before the letters DICM


class DicomHeader(NamedTuple):
    """`height` and `width` in pixels, the photometric interpretation, and the stored bits per channel."""

    height: int
    width: int
    photometric: str
    bits: int


def is_dicom(data: bytes, name: str | os.PathLike[str]) -> bool:
    """Whether a file is DICOM, by its content, or by its ending where it lacks the preamble."""
    return data[_PREAMBLE : _PREAMBLE + 4] == b"DICM" or Path(name).suffix.lower() in DICOM_SUFFIXES


def dicom_header(data: bytes, name: str | os.PathLike[str]) -> DicomHeader:
    """The header of a DICOM file's bytes. Raises ImageError without pydicom, and for a file without an image."""
    return _header(_dataset(data, name, pixels=False), name)


def dicom_pixels(data: bytes, name: str | os.PathLike[str]) -> np.ndarray:
    """RGB 0..255, (h, w, 3): uint8 for up to 8 stored bits, else float32. Raises ImageError."""
    dataset = _dataset(data, name, pixels=True)
    bits = _header(dataset, name).bits
    try:
        shown = _shown(dataset)
    except Exception as error:  # pydicom raises any kind of exception
        reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
        raise ImageError(
            f"The pixels of {os.fspath(name)} cannot be decoded: {reason}. "
            "Copy it again, or save it uncompressed (for compressed ones: pip install pylibjpeg pylibjpeg-libjpeg)."
        ) from None
    shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
    return np.round(shown).astype(np.uint8) if bits <= 8 else shown.astype(np.float32)


def _dataset(data: bytes, name: str | os.PathLike[str], *, pixels: bool) -> Any:
    try:
        import pydicom
    except ImportError:
        raise ImageError(
            f"{os.fspath(name)} is a DICOM file, which needs pydicom: pip install 'xaitune[dicom]'."
        ) from None
    try:
        # force: files without the preamble are common in old archives
        return pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=not pixels)
    except Exception:  # pydicom raises any kind of exception
        raise ImageError(f"{os.fspath(name)} is not a readable DICOM file. Copy it again.") from None


def _header(dataset: Any, name: str | os.PathLike[str]) -> DicomHeader:
    try:
        bits = int(dataset.get("BitsStored", dataset.BitsAllocated))
        return DicomHeader(int(dataset.Rows), int(dataset.Columns), str(dataset.PhotometricInterpretation), bits)
    except (AttributeError, TypeError, ValueError):
        raise ImageError(f"{os.fspath(name)} is a DICOM file without an image. Remove it.") from None


def _shown(dataset: Any) -> np.ndarray:
    """The first frame as float64 in 0..255, (h, w) or (h, w, 3)."""
    from pydicom import pixels

    values = pixels.pixel_array(dataset, index=0)  # RGB where the file has YCbCr
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        colours = pixels.apply_color_lut(values, dataset)
        return colours * (255 / np.iinfo(colours.dtype).max)
    if not photometric.startswith("MONOCHROME"):
        return values * (255 / ((1 << int(dataset.BitsStored)) - 1))
    grey = _grey(values, dataset)
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _grey(values: np.ndarray, dataset: Any) -> np.ndarray:
    from pydicom import pixels

    rescaled = np.asarray(pixels.apply_modality_lut(values, dataset), np.float64)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        centre, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        return _windowed(rescaled, centre, width, str(dataset.get("VOILUTFunction", "LINEAR")))
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(pixels.apply_voi_lut(rescaled.astype(np.int64), dataset), np.float64) * (
            255 / ((1 << bits) - 1)
        )
    low, high = _stored_range(dataset)
    return (rescaled - low) * (255 / (high - low))


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Values to 0..255 by a window, as DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3 define it."""
    if function == "SIGMOID":
        return 255 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return np.clip(((values - centre) / max(width, 1e-9) + 0.5) * 255, 0, 255)


def _stored_range(dataset: Any) -> tuple[float, float]:
    """The smallest and the largest value that the stored bits can stand for, rescaled."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, float((1 << int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])) - 1)
    bits, signed = int(dataset.BitsStored), bool(dataset.get("PixelRepresentation", 0))
    ends = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    low, high = sorted(slope * end + intercept for end in ends)
    return low, high


def _first(value: Any) -> float:
    """A number, or the first of several, as of several windows."""
    return float(value if isinstance(value, int | float | str) else value[0])
