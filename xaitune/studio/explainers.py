"""Explanations for the page: models and their compiled passes stay open between requests, and one is asked at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xaitune.config.choices import METHODS, RULES
from xaitune.config.explain_settings import LimeOptions
from xaitune.config.rules import require_choice
from xaitune.data.resize import resize_image
from xaitune.studio.views import data_uri, fit_picture, heatmap_panels, pixel_panel, superpixel_panels
from xaitune.training.run import Run

KEPT = 3  # models in memory
LISTED = 5  # classes whose probabilities are given, besides that of the explained class
Answer = dict[str, Any]
SampleProgress = Callable[[int, int], None]  # samples done, their maximum number


@dataclass
class _Opened:
    """A run's classifier, and the passes that were compiled for it."""

    classifier: Any
    passes: dict[str, Any] = field(default_factory=dict)

    def pass_of(self, name: str, make: Callable[[], Any]) -> Any:
        """The pass of that name, made on first use."""
        if name not in self.passes:
            self.passes[name] = make()
        return self.passes[name]


class Explainers:
    """Explains images by runs. Each call waits until the one before it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: OrderedDict[int, tuple[Run, _Opened]] = OrderedDict()

    def heatmaps(self, run: Run, pixels: np.ndarray, method: str, rule: str, class_name: str | None) -> Answer:
        """Maps of all blocks by 'gradcam' or 'cam', and of a segmentation the class of every pixel. Raises InputError."""
        _require_maps(method, rule)
        with self._lock:
            opened = self._open(run)
            image = _at_input_size(opened.classifier, pixels)
            return _mapped(run, opened, image, fit_picture(pixels), _maps(opened, image, method, rule, class_name))

    def checked_heatmaps(
        self, run: Run, pixels: np.ndarray, method: str, rule: str, class_name: str | None, progress: SampleProgress
    ) -> Answer:
        """`heatmaps` with the checks of `evaluate.reliability`.

        `progress` is called with the forward passes that have been made, and may raise to stop it.
        """
        from xaitune.evaluate.reliability import MAP_COST, MapChecker, MapsLike, check_calls, randomised_maps

        _require_maps(method, rule)
        with self._lock:
            opened = self._open(run)
            image = _at_input_size(opened.classifier, pixels)
            maps = _maps(opened, image, method, rule, class_name)
            total = check_calls(1, len(maps.blocks), 1)
            explained = maps.class_names[int(maps.classes[0])]
            done, make = 0, MapsLike(maps)

            def counted(model: Any, images: np.ndarray, classes: np.ndarray) -> dict[int, np.ndarray]:
                nonlocal done
                progress(done, total)  # which may stop the checks before the next maps are made
                done = min(done + MAP_COST * len(images), total)
                return make(model, images, classes)

            randomised = randomised_maps(opened.classifier, maps, maps.images, explained, explain=counted)
            make = MapsLike(maps, maps.precision)
            checks = MapChecker(opened.classifier, maps, randomised, 1, explain=counted)(maps)
            progress(total, total)
            return _mapped(run, opened, image, fit_picture(pixels), maps.with_checks(checks))

    def superpixels(self, run: Run, pixels: np.ndarray, class_name: str | None, progress: SampleProgress) -> Answer:
        """LIME; `progress` is called after every batch of masks, and may raise to stop it. Raises InputError."""
        from xaitune.explain.lime.explain import explain_superpixels

        with self._lock:
            progress(0, LimeOptions().num_samples)
            classifier = self._open(run).classifier
            image = _at_input_size(classifier, pixels)

            def report(_: int, done: int, total: int) -> None:
                progress(done, total)

            found = explain_superpixels(classifier, image, LimeOptions(), class_name, "auto", report)
        picture = fit_picture(pixels)
        answer = _answer(run, picture, found.explained(0), found.probabilities[0])
        return answer | {"panels": superpixel_panels(found, picture)}

    def _open(self, run: Run) -> _Opened:
        """The run's model, opened on first use; the one that was not used for longest is closed."""
        from xaitune.explain.classifier import open_classifier  # loads Keras

        if id(run) not in self._opened:  # the run is kept beside it, so its id is its own
            self._opened[id(run)] = (run, _Opened(open_classifier(run)))
        self._opened.move_to_end(id(run))
        while len(self._opened) > KEPT:
            _, (closed, _) = self._opened.popitem(last=False)
            closed.__dict__.pop("model", None)  # the cached property
        return self._opened[id(run)][1]


def _require_maps(method: str, rule: str) -> None:
    """Raise InputError for anything but a method that makes heatmaps and a known rule."""
    require_choice("method", method, [name for name in METHODS if name != "lime"])
    require_choice("rule", rule, RULES)


def _mapped(run: Run, opened: _Opened, image: np.ndarray, picture: np.ndarray, maps: Any) -> Answer:
    """What the page shows of one image's heatmaps, and of a segmentation's pixels."""
    panels = heatmap_panels(maps, picture)
    answer = _answer(run, picture, maps.explained(0), maps.probabilities[0])
    if not run.config.segments:
        return answer | {"panels": panels}
    labels = _pixel_classes(opened, image)
    shares = np.bincount(labels.ravel(), minlength=len(run.class_names)) / labels.size
    top = int(shares[1:].argmax()) + 1 if shares[1:].any() else 0
    first = pixel_panel(labels, run.class_names, picture, maps.resize)
    shown = {"panels": [first, *panels], "predicted": run.class_names[top], "of": "share of the pixels"}
    return answer | shown | {"probabilities": _listed(run, shares, maps.explained(0))}


def _at_input_size(classifier: Any, pixels: np.ndarray) -> np.ndarray:
    """(1, h, w, 3)"""
    return resize_image(pixels, classifier.image_size, classifier.resize)[None]


def _maps(opened: _Opened, image: np.ndarray, method: str, rule: str, class_name: str | None) -> Any:
    """BlockHeatmaps of one image; all rules come from one compiled pass, so that changing the rule compiles nothing."""
    from xaitune.explain.cam import cam_mapper
    from xaitune.explain.gradcam import RulesMapper, as_heatmaps, model_for_maps

    classifier = opened.classifier
    index = classifier.class_index(class_name)
    model, precision = model_for_maps(classifier.model)
    make = {"gradcam": lambda: RulesMapper(model), "cam": lambda: cam_mapper(model)}[method]
    maps, logits, *more = opened.pass_of(method, make)(image, np.full(1, index, np.int32))
    raw = maps[rule] if method == "gradcam" else maps
    return as_heatmaps(classifier, method, raw, logits, image, ("image",), index, rule, precision, *more)


def _pixel_classes(opened: _Opened, image: np.ndarray) -> np.ndarray:
    """(h, w) uint8 class numbers at the model's input size."""
    from xaitune.models.predict import Predictor

    predict = opened.pass_of("pixels", lambda: Predictor(opened.classifier.segmenter))
    return predict(image.astype(np.float32))[0].argmax(axis=-1).astype(np.uint8)


def _answer(run: Run, picture: np.ndarray, explained: str, probabilities: np.ndarray) -> Answer:
    return {
        "image": data_uri(picture),
        "explained": explained,
        "predicted": run.class_names[int(probabilities.argmax())],
        "of": "probability",
        "probabilities": _listed(run, probabilities, explained),
    }


def _listed(run: Run, values: np.ndarray, explained: str) -> list[tuple[str, float]]:
    """The classes with the highest values, and the explained one."""
    order = [(run.class_names[i], float(values[i])) for i in np.argsort(-values, kind="stable")]
    return [(name, value) for place, (name, value) in enumerate(order) if place < LISTED or name == explained]
