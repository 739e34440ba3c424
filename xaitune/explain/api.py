"""Explanations of images by the method of a given name."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._progress import PartProgress
from xaitune.config.explain_settings import ExplainOptions, LimeOptions
from xaitune.errors import ModelError
from xaitune.explain.cam import cam_mapper
from xaitune.explain.classifier import Classifier, Images, open_classifier
from xaitune.explain.gradcam import BlockMapper, as_heatmaps, model_for_maps
from xaitune.explain.heatmaps import BlockHeatmaps
from xaitune.explain.lime.explain import explain_superpixels, sample_bar
from xaitune.explain.lime.result import Superpixels

CHUNK = 32  # images in memory at once
Explanation = BlockHeatmaps | Superpixels


def explain_images(
    model: Any,
    images: Images,
    *,
    method: str = "gradcam",
    blocks: Any = "all",
    layers: Sequence[str] | str | None = None,
    class_name: str | None = None,
    rule: str = "gradcam",
    num_samples: int = 1000,
    segmenter: Any = "quickshift",
    fill: Any = "mean",
    exact: bool = False,
    seed: int = 0,
    precision: str = "auto",
) -> Explanation:
    """Explain images by 'gradcam' (`blocks` or `layers`, `rule`), 'cam', or 'lime' (the arguments of `lime_superpixels`).

    The other arguments are those of `gradcam_blocks`. For thousands of images use `iter_explanations`, which holds only
    CHUNK images in memory. Raises ModelError, ImageError, ConfigError.

    Examples:
        >>> explanation = explain_images("runs/first", "images/crack", method="lime", seed=1)  # doctest: +SKIP
        >>> explanation.plot(image=0)  # doctest: +SKIP
    """
    named = layers if isinstance(layers, str | None) else ",".join(layers)
    options = ExplainOptions(method, blocks, named, class_name, rule, precision)
    lime = LimeOptions(num_samples, segmenter, fill, exact, seed)
    classifier = open_classifier(model)
    array, files = classifier.read(images)
    return make_explainer(classifier, options, lime)(array, files)


def make_explainer(
    classifier: Classifier,
    options: ExplainOptions | None = None,
    lime: LimeOptions | None = None,
    progress: PartProgress | None = None,
) -> "HeatmapExplainer | LimeExplainer":
    """An explainer of one batch after another: (images at the model's input size, their names) -> explanation.

    For LIME, `progress` is called with a file's name, the samples done, their maximum number, and 'samples'.
    """
    options = options or ExplainOptions()
    options.check_blocks(None)
    if options.method == "lime":
        return LimeExplainer(classifier, options, lime or LimeOptions(), progress)
    return HeatmapExplainer(classifier, options)


class HeatmapExplainer:
    """Grad-CAM or CAM of batches of images; the forward and backward pass is compiled once."""

    def __init__(self, classifier: Classifier, options: ExplainOptions) -> None:
        self.classifier, self.options = classifier, options
        self.index = classifier.class_index(options.class_name)
        try:
            model, self.precision = model_for_maps(classifier.model, options.precision)
            cam = options.method == "cam"
            self.mapper: Any = (
                cam_mapper(model) if cam else BlockMapper(model, options.blocks, options.rule, options.layers)
            )
        except ModelError as error:
            raise ModelError(f"{classifier.name}: {error}") from None

    def __call__(self, images: np.ndarray, files: tuple[str, ...]) -> BlockHeatmaps:
        raw, logits, *more = self.mapper(images, np.full(len(images), self.index, np.int32))
        options = (self.index, self.options.rule, self.precision)
        made = as_heatmaps(self.classifier, self.options.method, raw, logits, images, files, *options, *more)
        return dataclasses.replace(made, layers=self.mapper.layers) if self.options.layers else made


class LimeExplainer:
    """LIME explanations of batches of images."""

    def __init__(
        self, classifier: Classifier, options: ExplainOptions, lime: LimeOptions, progress: PartProgress | None
    ) -> None:
        self.classifier, self.options, self.lime, self.progress = classifier, options, lime, progress
        classifier.class_index(options.class_name)  # raises ModelError for an unknown class

    def __call__(self, images: np.ndarray, files: tuple[str, ...]) -> Superpixels:
        def report_samples(number: int, done: int, total: int) -> None:
            assert self.progress
            self.progress(Path(files[number]).name, done, total, "samples")

        class_name, precision = self.options.class_name, self.options.precision
        report = report_samples if self.progress else sample_bar(len(images))
        superpixels = explain_superpixels(self.classifier, images, self.lime, class_name, precision, report)
        return dataclasses.replace(superpixels, files=files)


def mapper_of(model: Any, maps: BlockHeatmaps) -> Any:
    """What makes further maps like these of a keras.Model: (images, classes) -> (block -> raw maps, logits, ...).

    The method, rule, blocks or layers, and precision are those of `maps`. Raises ModelError.
    """
    model, _ = model_for_maps(model, maps.precision)
    if maps.method == "cam":
        return cam_mapper(model)
    layers = [maps.layers[block] for block in maps.blocks] if maps.layers else None
    return BlockMapper(model, "all" if layers else maps.blocks, maps.rule, layers)


def iter_explanations(
    classifier: Classifier, paths: list[Path], explain: HeatmapExplainer | LimeExplainer, size: int = CHUNK
) -> Iterator[Explanation]:
    """Explanations of many files, with at most `size` images in memory at a time."""
    for start in range(0, len(paths), size):
        chunk = paths[start : start + size]
        yield explain(classifier.read_paths(chunk), tuple(str(p) for p in chunk))
