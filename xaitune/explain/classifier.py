"""A classifier with its class names, and images at its input size, in whatever form a user passes them."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaitune.data.images import expand_images, read_image
from xaitune.data.resize import resize_image
from xaitune.errors import ImageError, ModelError, unknown_class
from xaitune.models.backend import keras
from xaitune.models.flatten import as_classifier
from xaitune.models.weights import load_model
from xaitune.training.folder import is_finished
from xaitune.training.run import Run, load_run

Images = str | Path | Iterable[str | Path] | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model that takes raw RGB 0..255 and returns logits, its class names, and how images are resized.

    The preprocessing must be inside the model: it is given raw images only.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    resize: str = "stretch"
    name: str = "model"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        return tuple(self.model.input_shape[1:3])

    def class_index(self, class_name: str | None) -> int:
        """The index of the class of that name; for None -1, each image's top class. Raises ModelError."""
        if class_name is None:
            return -1
        if class_name not in self.class_names:
            raise unknown_class(class_name, self.class_names)
        return self.class_names.index(class_name)

    def require_finite(self, logits: np.ndarray) -> np.ndarray:
        """The logits (n, classes) unchanged. Raises ModelError for NaN or infinity, which have no top class."""
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.name} returns NaN or infinity. It has diverged: train it again with a lower --learning-rate."
            )
        return logits

    def read(self, images: Images) -> tuple[np.ndarray, tuple[str, ...]]:
        """Images (n, h, w, 3) in 0..255 at the model's input size, and their names. Raises ImageError."""
        if isinstance(images, np.ndarray):
            return self._from_array(images)
        paths = expand_images(images)
        return self.read_paths(paths), tuple(str(p) for p in paths)

    def read_paths(self, paths: Sequence[Path]) -> np.ndarray:
        """Images (n, h, w, 3) in 0..255 at the model's input size. Raises ImageError."""
        return np.stack([resize_image(read_image(p), self.image_size, self.resize) for p in paths])

    def _from_array(self, images: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        shape = images.shape
        if images.ndim == 3:
            images = images[None]
        if images.ndim != 4 or images.shape[-1] != 3 or not len(images):
            raise ImageError(
                f"An array of images must be (n, height, width, 3) RGB in 0..255. Received: shape {shape}."
            )
        low, high = float(np.min(images)), float(np.max(images))
        if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 255:
            raise ImageError(
                f"An array of images must hold raw values 0..255, not preprocessed ones. Received: {low:.3g}..{high:.3g}."
            )
        if images.dtype not in (np.uint8, np.float32):
            images = images.astype(np.float32)
        resized = np.stack([resize_image(image, self.image_size, self.resize) for image in images])
        return resized, tuple(f"image {i}" for i in range(len(images)))


def open_classifier(model: Any) -> Classifier:
    """The classifier from a Run, the path of a run's folder or of a .keras file, or a keras.Model.

    A model that contains other models or ends in a softmax is explained by a flat copy that ends in logits. Raises
    ModelError for anything that is not a classifier or cannot be copied in this way.
    """
    if isinstance(model, Classifier):
        return model
    if isinstance(model, str | Path):
        path = Path(model)
        if path.is_dir():
            model = load_run(path)
        else:
            if path.suffix in (".h5", ".hdf5"):
                raise ModelError(
                    f"{path} holds weights without a head, so it has no classes. "
                    f"Train on your images first: xaitune train DATA --weights {path}."
                )
            loaded = load_model(path)
            if is_finished(path.parent):
                run = load_run(path.parent)
                return _checked(Classifier(loaded, run.class_names, run.data_config.resize, str(path)))
            return _checked(Classifier(loaded, _numbered_classes(loaded), name=str(path)))
    if isinstance(model, Run):
        if model.state != "finished":
            raise ModelError(f"{model.path} {model.state}: it has no model. Train again with a lower --learning-rate.")
        return _checked(Classifier(model.model, model.class_names, model.data_config.resize, str(model.path)))
    if isinstance(model, keras.Model):
        return _checked(Classifier(model, _numbered_classes(model), name=model.name))
    raise ModelError(f"A model must be a Run, a path or a keras.Model. Received: {type(model).__name__}.")


def _numbered_classes(model: keras.Model) -> tuple[str, ...]:
    shape = getattr(model, "output_shape", None)  # a subclassed model has none
    return tuple(f"class {i}" for i in range((shape[-1] or 0) if isinstance(shape, tuple) else 0))


def _checked(classifier: Classifier) -> Classifier:
    """The classifier with its model made flat and ending in logits. Raises ModelError."""
    model = classifier.model
    shapes: list[Any] = [getattr(model, "input_shape", None), getattr(model, "output_shape", None)]
    ranks_fit = all(isinstance(s, tuple) for s in shapes) and len(shapes[0]) == 4 and len(shapes[1]) == 2
    if not ranks_fit or shapes[0][-1] != 3 or None in shapes[0][1:]:
        advice = " Build a subclassed model as keras.Model(inputs, outputs), and begin a Sequential with keras.Input."
        raise ModelError(
            f"{classifier.name} is not an image classifier: it must take (n, height, width, 3) of a fixed size and return "
            f"(n, classes). Received: {shapes[0]} -> {shapes[1]}.{'' if any(shapes) else advice}"
        )
    try:
        return dataclasses.replace(classifier, model=as_classifier(model))
    except ModelError as error:
        raise ModelError(f"{classifier.name}: {error}") from None
