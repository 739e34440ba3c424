"""The file formats of an export: their names, suffixes, the packages that they need, and where their metadata is."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from xaitune._names import listed
from xaitune.errors import ConfigError

KEY = "xaitune"  # of the metadata inside ONNX and OpenVINO files
ABOUT, PROOF = (
    ".json",
    ".proof.json",
)  # added to the file's name: metadata beside it, where the format has no place; the proof


@dataclass(frozen=True)
class Format:
    """A file format. `writes`, `runs`: the packages that are needed to write it and to run it, which `extra` installs."""

    title: str
    suffix: str
    writes: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    about_inside: bool = False
    extra: str = ""


FORMATS = {
    "onnx": Format("ONNX", ".onnx", ("onnx", "tf2onnx"), ("onnxruntime",), about_inside=True, extra="export-onnx"),
    "openvino": Format("OpenVINO", ".xml", ("openvino",), ("openvino",), about_inside=True, extra="export-openvino"),
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


def require_writable(name: str, backend: str) -> None:
    """Raise ConfigError if a file of this format cannot be written here: Keras has another backend, or packages are missing."""
    form = FORMATS[name]
    if backend != "tensorflow" and name != "keras":
        raise ConfigError(
            f"Exporting to {form.title} needs Keras's TensorFlow backend, also for a run that was trained with {backend}: give "
            f"KERAS_BACKEND=tensorflow. --to keras works with both. Received: KERAS_BACKEND={backend}."
        )
    _require(form, tuple(dict.fromkeys((*form.writes, *form.runs))), f"Exporting to {form.title}")


def require_runnable(name: str, what: str) -> None:
    """Raise ConfigError if packages are missing that `what`, done with a file of this format, needs."""
    _require(FORMATS[name], FORMATS[name].runs, what)


def _require(form: Format, packages: tuple[str, ...], what: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        one = len(missing) == 1
        raise ConfigError(
            f"{what} needs {listed(missing)}, which {'is' if one else 'are'} not installed. "
            f"Install {'it' if one else 'them'}: pip install 'xaitune[{form.extra}]'."
        )
