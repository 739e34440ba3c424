"""A classifier with its class names, and images at its input size, in whatever form a user passes them."""

import dataclasses
import html
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from xaitune.config.choices import PREPROCESSINGS
from xaitune.config.rules import require_choice
from xaitune.data.images import expand_images, read_image
from xaitune.data.resize import resize_image
from xaitune.errors import ModelError, XaituneWarning, nearest, unknown_class
from xaitune.explain.arrays import as_arrays
from xaitune.models.backend import keras
from xaitune.models.flatten import as_classifier, has_labels
from xaitune.models.keras_private import origin_name
from xaitune.models.model_files import load_model
from xaitune.models.preprocess import scales_its_input, with_preprocessing
from xaitune.models.unet import is_unet, region_classifier
from xaitune.training.folder import is_finished
from xaitune.training.run import Run, load_run

Images = Any  # a path, paths, a folder, or images in memory; see `arrays.as_arrays`


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A model that takes raw RGB 0..255 and returns logits, its class names, and how images are resized.

    `labels`: the classes are labels of which any number may hold (sigmoids), not classes that compete (a softmax).
    `preprocess`: what is done to the images before the model, one of config.choices.PREPROCESSINGS. `scaled`: whether
    anything scales them, in the model or before it. `bit_depth`: see `data.images.read_image`. `segmenter`: the model that gives
    the logits of every pixel, of which `model` makes a score for each class (`unet.RegionScores`); None of a classifier.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    resize: str = "stretch"
    name: str = "model"
    labels: bool = False
    preprocess: str = "none"
    scaled: bool = True
    bit_depth: int | None = None
    segmenter: keras.Model | None = None

    def _repr_html_(self) -> str:
        height, width = self.image_size
        names = ", ".join(self.class_names[:20]) + (", ..." if len(self.class_names) > 20 else "")
        what = "labels" if self.labels else "classes"
        text = f"images of {height} x {width} pixels, {len(self.class_names)} {what}: {names}"
        return f"<b>{html.escape(self.name)}</b>: {html.escape(text)}"

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

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Logits (n, classes) -> probabilities: a softmax, or a sigmoid for labels, which do not add up to 1.

        Raises ModelError for NaN or infinity, which have no top class.
        """
        logits = self.require_finite(logits).astype(np.float64)
        return expit(logits) if self.labels else softmax(logits, axis=1)

    def require_finite(self, logits: np.ndarray) -> np.ndarray:
        """The logits (n, classes) unchanged. Raises ModelError for NaN or infinity, which have no top class."""
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.name} returns NaN or infinity. It has diverged: train it again with a lower --learning-rate."
            )
        return logits

    def read(self, images: Images) -> tuple[np.ndarray, tuple[str, ...]]:
        """Images (n, h, w, 3) in 0..255 at the model's input size, and their names. Raises ImageError."""
        images = list(images) if isinstance(images, Iterator) else images  # it is looked at more than once
        arrays = as_arrays(images)
        if arrays is None:
            paths = expand_images(images)
            return self.read_paths(paths), tuple(str(p) for p in paths)
        resized = np.stack([resize_image(array, self.image_size, self.resize) for array in arrays])
        return resized, tuple(f"image {i}" for i in range(len(arrays)))

    def read_paths(self, paths: Sequence[Path]) -> np.ndarray:
        """Images (n, h, w, 3) in 0..255 at the model's input size. Raises ImageError."""
        return np.stack([resize_image(read_image(p, self.bit_depth), self.image_size, self.resize) for p in paths])


def open_classifier(
    model: Any, *, preprocess: str = "auto", output: str | None = None, class_names: Sequence[str] | None = None
) -> Classifier:
    """The classifier from a Run, the path of a run's folder, of a .keras file or of a whole model in an .h5, or a keras.Model.

    A model that contains other models or ends in a softmax or sigmoid is explained by a flat copy that ends in logits; a
    single unit becomes two classes. For a model that xaitune did not train: `preprocess` says what was done to images
    0..255 outside the model (rescale: / 255, symmetric: to -1..1, imagenet: Keras's preprocess_input for VGG and ResNet,
    torch: torchvision's, none), `output` which of several outputs is explained, `class_names` its classes. With 'auto'
    images stay as they are, with a warning where the model does not scale them itself. Raises ModelError for anything
    that is not a classifier or cannot be copied in this way.

    Examples:
        >>> classifier = open_classifier("pets.keras", preprocess="imagenet", class_names=["cat", "dog"])  # doctest: +SKIP
        >>> gradcam_blocks(classifier, "photos")  # doctest: +SKIP
    """
    require_choice("preprocess", preprocess, PREPROCESSINGS)
    if isinstance(model, Classifier):
        return model
    if isinstance(model, str | Path):
        path = Path(model)
        is_run = path.is_dir() and not (path / "saved_model.pb").is_file()
        loaded = load_run(path) if is_run else load_model(path)
        if isinstance(loaded, keras.Model) and is_finished(path.parent):
            run = load_run(path.parent)
            return _of_run(dataclasses.replace(run, path=path), loaded)
        if isinstance(loaded, keras.Model):
            return _foreign(loaded, str(path), preprocess, output, class_names)
        model = loaded
    if isinstance(model, Run):
        if model.state != "finished":
            raise ModelError(f"{model.path} {model.state}: it has no model. Train again with a lower --learning-rate.")
        return _of_run(model, model.model)
    if isinstance(model, keras.Model):
        return _foreign(model, model.name, preprocess, output, class_names)
    raise ModelError(f"A model must be a Run, a path or a keras.Model. Received: {type(model).__name__}.")


def _of_run(run: Run, model: keras.Model) -> Classifier:
    data = run.data_config
    if is_unet(model):
        names, about = run.class_names, {"bit_depth": data.bit_depth, "segmenter": model}
        return Classifier(region_classifier(model), names, data.resize, str(run.path), **about)
    flat = _flat(model, str(run.path))
    return Classifier(flat, run.class_names, data.resize, str(run.path), bit_depth=data.bit_depth)


def _foreign(
    model: keras.Model, name: str, preprocess: str, output: str | None, class_names: Sequence[str] | None
) -> Classifier:
    """The classifier of a model that xaitune did not train. Raises ModelError."""
    model = _one_output(model, name, output)
    if is_unet(model) and any(
        layer.name == "preprocess" for layer in model.layers
    ):  # the model of a run, without its folder
        names = tuple(class_names or (f"class {i}" for i in range(model.output_shape[-1])))
        return Classifier(region_classifier(model), names, name=name, segmenter=model)
    _require_images_and_scores(model, name)
    labels = has_labels(model)
    flat = _flat(with_preprocessing(model, preprocess), name)
    scaled = (preprocess != "auto" and preprocess != "none") or scales_its_input(flat)
    count = flat.output_shape[-1]
    if class_names is not None and len(class_names) != count:
        raise ModelError(
            f"{name} has {count} classes, but {len(class_names)} names are given: {', '.join(class_names)}."
        )
    names = tuple(class_names or (f"class {i}" for i in range(count)))
    if preprocess == "auto" and not scaled:
        warnings.warn(
            f"{name} does not scale its images, and gets them as 0..255. If they were preprocessed outside the model in "
            "training, name how: open_classifier(model, preprocess='rescale' | 'symmetric' | 'imagenet' | 'torch'), "
            "or 'none'.",
            XaituneWarning,
            stacklevel=3,
        )
    return Classifier(flat, names, name=name, labels=labels, preprocess=preprocess, scaled=scaled)


def _one_output(model: keras.Model, name: str, output: str | None) -> keras.Model:
    """The model with the output of that name, or its only one. Raises ModelError."""
    outputs = list(getattr(model, "outputs", None) or ())
    if len(outputs) < 2 and output is None:
        return model
    named = dict(zip(_output_names(model), outputs, strict=True))
    if output is None or output not in named:
        received = "" if output is None else f" Received: {output!r}.{nearest(output, named)}"
        how = "--output NAME, or open_classifier(model, output=NAME)"
        count = "several outputs" if len(named) > 1 else "one output"
        raise ModelError(f"{name} has {count}. Name one of {', '.join(named)}: {how}.{received}")
    return keras.Model(model.inputs, named[output], name=model.name)


def _output_names(model: keras.Model) -> list[str]:
    """The names of a model's outputs: the keys of a dict, or the names of the layers that they come from."""
    structure = getattr(model, "output", None)
    if isinstance(structure, dict):
        return list(keras.tree.flatten({key: key for key in structure}))
    return [origin_name(tensor) for tensor in model.outputs]


def _require_images_and_scores(model: keras.Model, name: str) -> None:
    """Raise ModelError, with the line that mends it, for a model that does not take images and return scores of classes."""
    shapes: list[Any] = [getattr(model, "input_shape", None), getattr(model, "output_shape", None)]
    wants = f"{name} is not an image classifier: it must take (n, height, width, 3) of a fixed size and return (n, classes)."
    received = f"Received: {shapes[0]} -> {shapes[1]}."
    if isinstance(shapes[0], list) or (isinstance(shapes[0], tuple) and len(shapes[0]) != 4):
        raise ModelError(f"{wants} {received}")
    if shapes[0] is None or shapes[1] is None:
        raise ModelError(
            f"{wants} {received} Build a subclassed model as keras.Model(inputs, outputs), and begin a Sequential with "
            "keras.Input."
        )
    channels = shapes[0][-1]
    if None in shapes[0][1:3] and channels in (1, 3):
        raise ModelError(
            f"{name} takes images of any size. Give it one: "
            f"keras.Sequential([keras.Input((224, 224, {channels})), model]). {received}"
        )
    if channels not in (1, 3) or len(shapes[1]) != 2 or shapes[1][-1] is None:
        raise ModelError(f"{wants} {received}")


def _flat(model: keras.Model, name: str) -> keras.Model:
    """The model made flat and ending in logits. Raises ModelError."""
    try:
        return as_classifier(model)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
