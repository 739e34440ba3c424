"""An exported file that is open: what it was made from, and its answers on images."""

import dataclasses
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._files import read_json
from xaitune.data.images import read_image
from xaitune.data.resize import resize_image
from xaitune.errors import ModelError, RunError
from xaitune.export.formats import FORMATS, about_beside, format_of
from xaitune.models.batches import images_at_once

Forward = Callable[[np.ndarray], dict[str, np.ndarray]]  # (n, h, w, 3) float32 -> name of an output -> (n, ...)
NEEDED = ("class_names", "image_size", "resize", "task")


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedModel:
    """A file that `export_run` wrote, ready to run.

    `about`: its metadata: xaitune (the version), run, data (the fingerprint), trained_on (how many images, and of which
    folder), task, class_names, image_size (height, width), resize, bit_depth, outputs. Called with images (n, h, w, 3) 0..255
    at the model's input size it returns, by name, float32 `probabilities` and `logits` (n, classes) and, where it was exported
    with them, `heatmaps` (n, classes, h', w'); of a segmentation `probabilities` and `logits` are (n, h, w, classes).
    """

    path: Path
    about: Mapping[str, Any]
    forward: Forward
    bit_depth: int | None = None

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the outputs."""
        return tuple(self.about["class_names"])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        height, width = self.about["image_size"]
        return height, width

    @property
    def resize(self) -> str:
        """How images are brought to that size, as in DataConfig."""
        return str(self.about["resize"])

    @property
    def segments(self) -> bool:
        """Whether it gives the classes of pixels."""
        return bool(self.about["task"] == "segment")

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if images.ndim != 4 or images.shape[1:] != (*self.image_size, 3):
            raise ModelError(
                f"{self.path} takes images of shape {(*self.image_size, 3)}. Received: {images.shape[1:]}."
            )
        if not len(images):
            raise ModelError(f"{self.path} was given no image.")
        size = images_at_once(*self.image_size)
        batches = (images[i : i + size] for i in range(0, len(images), size))
        parts = [self.forward(np.ascontiguousarray(batch, np.float32)) for batch in batches]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """The probabilities as float64, of images as above. Raises ModelError for NaN, which has no top class."""
        values = self(images)["probabilities"].astype(np.float64)
        if not np.isfinite(values).all():
            raise ModelError(f"{self.path} returns NaN or infinity. Export the run again.")
        return values

    def pixel_labels(self, images: np.ndarray) -> np.ndarray:
        """Class numbers (n, h, w) uint8, of a segmentation."""
        return self.probabilities(images).argmax(axis=-1).astype(np.uint8)

    def read_paths(self, paths: Sequence[Path]) -> np.ndarray:
        """Images (n, h, w, 3) in 0..255 at the model's input size. Raises ImageError."""
        return np.stack([resize_image(read_image(p, self.bit_depth), self.image_size, self.resize) for p in paths])

    def _repr_html_(self) -> str:
        height, width = self.image_size
        text = (
            f"images of {height} x {width} pixels, {len(self.class_names)} classes: {', '.join(self.class_names[:20])}"
        )
        return f"<b>{html.escape(self.name)}</b>: {html.escape(text)}"


def open_exported(path: str | Path, *, bit_depth: int | None = None) -> ExportedModel:
    """Open a file that `export_run` wrote: .onnx, .xml (OpenVINO), .keras, or the folder of a SavedModel.

    ONNX and OpenVINO files compute on the processor, with all usable cores, and are opened without TensorFlow. `bit_depth`:
    that of the images, as in `ImageData`; by default that of the run's. Raises ModelError for a damaged file or one that
    `export_run` did not write, ConfigError for a missing package.

    Examples:
        >>> model = open_exported("tiles.onnx")  # doctest: +SKIP
        >>> model(model.read_paths([Path("part.png")]))["probabilities"]  # doctest: +SKIP
    """
    path = Path(path)
    kind = format_of(path)
    if kind is None:
        raise ModelError(
            f"{path} is not an exported file: .onnx, .xml, or a .keras or SavedModel with its {about_beside(path).name}."
        )
    if not path.exists():
        raise ModelError(f"No file at {path}. 'xaitune export RUN' writes one.")
    forward, text = _opened(kind, path)
    about = _checked(path, text)
    return ExportedModel(path, about, forward, bit_depth or about.get("bit_depth"))


def _opened(kind: str, path: Path) -> tuple[Forward, str | None]:
    """What runs a file, and its metadata."""
    if FORMATS[kind].about_inside:
        from xaitune.export.session import OnnxSession, OpenvinoSession

        session = OnnxSession(path) if kind == "onnx" else OpenvinoSession(path)
        return session, session.about
    try:
        text = json.dumps(read_json(about_beside(path)))
    except RunError as error:
        raise ModelError(str(error)) from None
    from xaitune.models.named_outputs import KerasOutputs, SavedModelOutputs

    return (SavedModelOutputs if kind == "savedmodel" else KerasOutputs)(path), text


def _checked(path: Path, text: str | None) -> dict[str, Any]:
    """The metadata. Raises ModelError for a file that has none of ours."""
    try:
        about = json.loads(text or "")
        if set(NEEDED) <= set(about):
            return about
    except (ValueError, TypeError):
        pass
    raise ModelError(
        f"{path} lacks the class names and image size that 'xaitune export' writes into a file. Export the run again."
    )
