"""The file formats of an export: their names, suffixes, the packages that they need, and where their metadata is."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xaitune.errors import ConfigError

KEY = "xaitune"  # of the metadata inside ONNX and OpenVINO files
ABOUT, PROOF = (
    ".json",
    ".proof.json",
)  # added to the file's name: metadata beside it, where the format has no place; the proof


@dataclass(frozen=True)
class Format:
    """A file format. `writes`, `runs`: the packages that are needed to write it and to run it, besides xaitune's own."""

    title: str
    suffix: str
    writes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    about_inside: bool = False


FORMATS = {
    "onnx": Format("ONNX", ".onnx", ("onnx", "tf2onnx"), ("onnxruntime",), about_inside=True),
    "openvino": Format("OpenVINO", ".xml", ("openvino",), ("openvino",), about_inside=True),
    "savedmodel": Format("SavedModel", ""),
    "keras": Format("Keras", ".keras"),
}


def format_of(path: Path) -> str | None:
    """The name of an exported file's format; None for anything that `open_exported` does not open.

    ONNX and OpenVINO are told by the suffix; a .keras file or a SavedModel by the metadata beside it.

    Examples:
        >>> format_of(Path("tiles.onnx")), format_of(Path("tiles.png"))
        ('onnx', None)
    """
    for name, about in FORMATS.items():
        if about.about_inside and path.suffix.lower() == about.suffix and not path.is_dir():
            return name
    if about_beside(path).is_file():
        if (path / "saved_model.pb").is_file():
            return "savedmodel"
        if path.suffix.lower() == ".keras":
            return "keras"
    return None


def about_beside(path: Path) -> Path:
    """The file with the metadata of a file whose format has no place for it: tiles.keras -> tiles.keras.json."""
    return path.with_name(path.name + ABOUT)


def require_packages(packages: Sequence[str], what: str) -> None:
    """Raise ConfigError, with the command that installs them, for packages that are missing."""
    missing = [name for name in dict.fromkeys(packages) if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what} needs {' and '.join(missing)}. Install what is missing: pip install 'xaitune[export]'."
        )
