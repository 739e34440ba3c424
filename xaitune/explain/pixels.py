"""The segmentation of images: the class that a model predicts for every pixel."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from xaitune._files import writing
from xaitune._names import plural, short_file
from xaitune._notebook import table_html
from xaitune._progress import Progress
from xaitune.data.dataset import ImageData
from xaitune.data.images import expand_images, read_image
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.data.resize import map_to_image, resize_image
from xaitune.data.sample import choose_images
from xaitune.errors import ModelError
from xaitune.explain.arrays import as_arrays
from xaitune.explain.rows import ReadsImages
from xaitune.plots.pictures import label_sheet
from xaitune.stats.segmentation import largest_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xaitune.explain.classifier import Classifier, Images

CHUNK = 32  # images in memory at a time
SHOWN = 8  # images on a sheet


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of every pixel of some images.

    `images`: each as it was read, RGB 0..255. `labels`: for each (h, w) uint8 class numbers, indices into `class_names`, in the
    image's own size; class 0 is the background.
    """

    files: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    labels: tuple[np.ndarray, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per image: file, the class of its largest region ('background' for none), and each class's share of pixels."""
        rows = []
        for file, labels in zip(self.files, self.labels, strict=True):
            counts = np.bincount(labels.ravel(), minlength=len(self.class_names))
            top = int(largest_class(counts[None])[0])
            shares = {f"share({n})": c / labels.size for n, c in zip(self.class_names, counts, strict=True)}
            rows.append({"file": file, "predicted": self.class_names[top], **shares})
        return pd.DataFrame(rows)

    def plot(
        self, ax: "Axes | None" = None, *, truth: Sequence[np.ndarray] | None = None, images: int = SHOWN
    ) -> "Axes":
        """The first `images` beside their predicted classes, and with `truth` beside the true classes and the errors."""
        chosen = slice(images)
        return label_sheet(
            self.images[chosen],
            self.labels[chosen],
            self.class_names,
            truth=None if truth is None else truth[chosen],
            names=[short_file(file).replace("/", "/\n") for file in self.files[chosen]],
            ax=ax,
        )

    def _repr_html_(self) -> str:
        return f"<p>{plural(len(self), 'image')}</p>{table_html(self.to_dataframe())}"


def segment_images(model: Any, images: "Images") -> Segmentation:
    """The class of every pixel of some images, in their own size.

    `model`: a Run with the task 'segment', or the path of its folder. `images`: a path, paths, a folder, or images in memory.
    Raises ModelError for a model that classifies images, ImageError.

    Examples:
        >>> segment_images("runs/freeze4-nag-seed0", "photos").plot()  # doctest: +SKIP
    """
    from xaitune.explain.classifier import open_classifier

    classifier = open_classifier(model)
    images = list(images) if isinstance(images, Iterator) else images
    given = as_arrays(images)
    if given is None:
        made = list(iter_segmentations(classifier, PixelLabels(classifier), expand_images(images)))
        files, found = (
            tuple(itertools.chain(*parts)) for parts in zip(*((m.files, m.labels) for m in made), strict=True)
        )
        originals = tuple(itertools.chain(*(part.images for part in made)))
        return Segmentation(files, originals, found, classifier.class_names)
    arrays, files = classifier.read(given)
    found = _at_own_size(PixelLabels(classifier)(arrays), given, classifier)
    return Segmentation(files, tuple(given), found, classifier.class_names)


def sample_sheet(run: Any, data: ImageData) -> "Axes":
    """A few test images of a run with the task 'segment', their truth, prediction and error, as many classes as possible.

    Images with marked pixels come first. Raises ModelError, DataError.
    """
    labels, test = labels_of_pixels(data), data.indices("test")
    marked = test[labels.counts[test, 1:].sum(1) > 0]
    rows = choose_images(data, marked if len(marked) else test, SHOWN)
    made = segment_images(run, data.paths(rows))
    return made.plot(truth=[labels.read(int(row)) for row in rows], images=SHOWN)


def iter_segmentations(
    model: ReadsImages,
    predict: Callable[[np.ndarray], np.ndarray],
    paths: Sequence[Path],
    progress: Progress | None = None,
) -> Iterator[Segmentation]:
    """The segmentations of many files, CHUNK images at a time; `predict`: as `PixelLabels`."""
    for start in range(0, len(paths), CHUNK):
        files = paths[start : start + CHUNK]
        originals = [read_image(path, model.bit_depth) for path in files]
        labels = predict(np.stack([resize_image(o, model.image_size, model.resize) for o in originals]))
        found = _at_own_size(labels, originals, model)
        yield Segmentation(tuple(map(str, files)), tuple(originals), found, model.class_names)
        if progress:
            progress(start + len(files), len(paths), "")


def _at_own_size(labels: np.ndarray, originals: Sequence[np.ndarray], model: ReadsImages) -> tuple[np.ndarray, ...]:
    """Class numbers at the model's input size, brought to the size of each image."""
    pairs = zip(labels, originals, strict=True)
    return tuple(map_to_image(a, o.shape, a.shape, model.resize, nearest=True) for a, o in pairs)


def write_labels(labels: np.ndarray, path: Path) -> Path:
    """Write class numbers (h, w) as a grey PNG, which `pixel_classes` 0=background,1=... reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as part, part.open("wb") as file:
        Image.fromarray(labels.astype(np.uint8)).save(file, format="PNG")
    return path


class PixelLabels:
    """Images (n, h, w, 3) -> class numbers (n, h, w) uint8. Raises ModelError for a model that classifies images."""

    def __init__(self, classifier: "Classifier") -> None:
        from xaitune.models.predict import Predictor

        if classifier.segmenter is None:
            raise ModelError(
                f"{classifier.name} classifies images and says nothing of pixels. Train one with --task segment."
            )
        self.predict = Predictor(classifier.segmenter)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.predict(np.asarray(images, np.float32)).argmax(axis=-1).astype(np.uint8)
