"""What the advice rests on: a probe's heatmaps of validation images at all five blocks, and how each is measured."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from xaitune import evaluate
from xaitune._progress import Progress
from xaitune.config.schema import TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.data.geometry import map_to_image
from xaitune.errors import ConfigError, DataError
from xaitune.evaluate import maps
from xaitune.evaluate.table import unit_maps
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.gradcam import BlockMapper
from xaitune.explain.heatmaps import unit_view
from xaitune.explain.probabilities import Probabilities
from xaitune.models import blocks, vgg, weights
from xaitune.models.backend import keras
from xaitune.models.precision import resolve_precision
from xaitune.training.features import FeatureCache
from xaitune.training.folder import is_finished
from xaitune.training.head import trained_head
from xaitune.training.run import load_run

BLOCK_NUMBERS = (1, 2, 3, 4, 5)
MASKED_IMAGES = 120  # at most that many validation images with a mask
MEASURES = ("faithfulness", "agreement", "concentration", "stability")
WEIGHTS = np.array([3.0, 1.0, 1.0, 1.0]) / 6  # faithfulness counts as much as the three others together
STEPS = 5  # of deletion and insertion: more images tell more than finer curves
MIN_IMAGES = 5  # that insertion and deletion must at least see
MAP_CALLS = 6  # an image: forward and backward, for its maps and those of its two changed copies


def masks_digest(data: ImageData) -> str | None:
    """12 hex digits over the validation images' masks: a corrected mask asks for new advice."""
    if data.masks is None:
        return None
    found = hashlib.sha256()
    for row in data.indices("validation"):
        path = data.masks[row]
        found.update(path.read_bytes() if path else b"-")
    return found.hexdigest()[:12]


class Probe:
    """The model that is looked into: VGG16 all frozen with a head for each seed, or a given model as it is."""

    def __init__(self, data: ImageData, config: TrainConfig, model: Any, head_seeds: int, cache: FeatureCache) -> None:
        self.data, self.head_epochs = data, config.head_epochs + config.epochs
        self.config = replace_fields(config, {"freeze_through": 5, "head_epochs": self.head_epochs})
        self.cache = cache
        self.trains = model is None
        self.seeds = tuple(range(head_seeds)) if self.trains else (0,)
        self.explained: str | None = None  # the given model's name
        if model is None:
            self.backbone = weights.load_backbone(config.weights)
            self.weights = self.backbone.digest
            self.classifier = Classifier(self._built(config.seed), data.class_names, data.config.resize, "probe")
        else:
            self.classifier = open_classifier(model)
            if self.classifier.class_names != data.class_names or self.classifier.image_size != tuple(data.image_size):
                raise DataError(
                    f"The model's classes or input size {self.classifier.image_size} are not those of the data "
                    f"({', '.join(data.class_names)}; {data.image_size}). Advise on the data it was trained on."
                )
            self.weights, self.explained = _base_weights(self.classifier), self.classifier.name

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of Block 1 to 5."""
        model = self.classifier.model
        return tuple(model.get_layer(names[-1]).output.shape[-1] for names in blocks.require_blocks(model).values())

    def _built(self, seed: int) -> keras.Model:
        return vgg.build_vgg16(
            len(self.data.class_names),
            image_size=self.data.image_size,
            head=self.config.head,
            weights=self.backbone,
            seed=seed,
        )

    def use(self, seed: int, report: Callable[[str], None]) -> None:
        """Put the head of a seed into the model, trained from that seed's own start."""
        if not self.trains:
            return
        start = self._built(seed)
        for layer in self.classifier.model.layers:
            if isinstance(layer, keras.layers.Dense):
                layer.set_weights(start.get_layer(layer.name).get_weights())
        config = replace_fields(self.config, {"seed": seed})
        precision, _ = resolve_precision(config.precision)
        head = trained_head(self.classifier.model, self.data, config, precision, self.cache, report)
        for layer, arrays in head["weights"].items():
            self.classifier.model.get_layer(layer).set_weights(arrays)


def _base_weights(classifier: Classifier) -> str:
    """The digest of the pretrained weights that a run began with; another model's name."""
    path = Path(classifier.name)
    folder = path if path.is_dir() else path.parent
    return str(load_run(folder).metadata["weights_digest"]) if is_finished(folder) else classifier.name


def measure_blocks(
    data: ImageData, probe: Probe, budget: tuple[int, int], progress: Progress | None
) -> tuple[dict[str, np.ndarray], np.ndarray, int, str]:
    """(measure -> (seeds, images, blocks), the images' groups, network calls, the measure that decides)."""
    validation = data.indices("validation")
    masked = [i for i in validation if data.masks is not None and (m := data.mask(int(i))) is not None and m.any()]
    by_masks = len(np.unique(data.groups[masked])) >= 5 if masked else False
    unmasked, masked_limit = budget
    limit = masked_limit if by_masks else unmasked
    rows = choose_images(data, np.array(masked) if by_masks else validation, limit)
    images, classes = data.load(rows).astype(np.float32), data.labels[rows]
    mapper = BlockMapper(probe.classifier.model, BLOCK_NUMBERS)
    found: list[dict[str, np.ndarray]] = []
    calls = 0
    for step, seed in enumerate(probe.seeds):
        report = _step_report(progress, step, len(probe.seeds))
        probe.use(seed, report)
        raw, _ = mapper(images, classes)
        maps = unit_maps(raw, data.image_size)  # (n, 5, h, w)
        scores = {
            "zero": (maps.max(axis=(2, 3)) <= 0).astype(float),
            "concentration": evaluate.map_concentration(maps).gini,
        }
        scores["agreement"] = _agreement(maps)
        rng = np.random.default_rng([seed, 11])
        stable = evaluate.input_stability(
            lambda x: unit_maps(mapper(x, classes)[0], data.image_size), images, rng, maps=maps
        )
        scores["stability"] = np.nan_to_num(stable)
        calls += MAP_CALLS * len(rows)
        rng = np.random.default_rng([seed, 7])
        if by_masks:
            scores |= _localisation(raw, data, rows, rng)
        else:
            predict = Probabilities(probe.classifier)
            faithful, used = _faithfulness(predict, images, raw, classes, rng)
            scores |= faithful
            calls += used
        found.append(scores)
        if progress:
            progress(step + 1, len(probe.seeds), f"heatmaps of {len(rows)} validation images, head seed {seed}")
    together = {key: np.stack([s[key] for s in found]) for key in found[0]}
    together["score"] = together["localisation"] if by_masks else _mean_rank(together)
    return together, data.groups[rows], calls, "localisation" if by_masks else "mean rank"


def image_limits(data: ImageData, channels: Sequence[int], seeds: int, max_calls: int | None) -> tuple[int, int]:
    """(images without masks, images with masks) for at most `max_calls` network calls.

    By default about 3e13 multiply-adds, within 2,400 and 8,000 calls. Raises ConfigError where that is not enough for MIN_IMAGES.
    """
    if max_calls is None:
        per_image = sum(blocks.multiply_adds(data.image_size, channels).values())
        max_calls = int(np.clip(3e13 / per_image, 2400, 8000))
    # An image's maps (forward and backward, three times), its two ends, and the steps between of ten maps, both ways.
    per_image_calls = seeds * (MAP_CALLS + 2 + 2 * len(BLOCK_NUMBERS) * 2 * (STEPS - 1))
    if max_calls < MIN_IMAGES * per_image_calls:
        raise ConfigError(
            f"max_calls must be at least {MIN_IMAGES * per_image_calls}, for {MIN_IMAGES} images with {seeds} head "
            f"seeds. Received: max_calls={max_calls}."
        )
    return max_calls // per_image_calls, min(MASKED_IMAGES, max_calls // (seeds * MAP_CALLS))


def _step_report(progress: Progress | None, step: int, steps: int) -> Callable[[str], None]:
    """Tells what is done within a step of `progress`."""
    return lambda what: progress(step, steps, what) if progress else None


def choose_images(data: ImageData, rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the rows, classes in turn and a new group before a second image of one."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(rows)
    frame = pd.DataFrame({"row": rows, "class": data.labels[rows], "group": data.groups[rows]})
    frame["again"] = frame.groupby(["class", "group"]).cumcount()
    frame = frame.sort_values("again", kind="stable")
    frame["turn"] = frame.groupby("class").cumcount()
    return np.sort(frame.sort_values("turn", kind="stable")["row"].to_numpy()[:limit])


def _agreement(maps: np.ndarray) -> np.ndarray:
    """(n, blocks): mean Spearman of a block's map with those of the other blocks; 0 where a map is constant."""
    blocks = range(maps.shape[1])
    pairs = np.zeros((len(maps), len(blocks), len(blocks)))
    for a in blocks:
        for b in range(a):
            pairs[:, a, b] = pairs[:, b, a] = np.nan_to_num(evaluate.map_agreement(maps[:, a], maps[:, b]).spearman)
    return pairs.sum(axis=2) / (len(blocks) - 1)


def _localisation(
    raw: dict[int, np.ndarray], data: ImageData, rows: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Average precision for the mask in the file's own geometry, less that of the same map put elsewhere."""
    view = {b: unit_view(raw[b]) for b in sorted(raw)}
    placed = {b: maps.random_like(v, rng) for b, v in view.items()}
    out = {key: np.zeros((len(rows), len(view))) for key in ("localisation", "average_precision", "mass_inside")}
    for i, row in enumerate(rows):
        mask = data.mask(int(row))
        assert mask is not None  # only images with a mask were chosen
        where = (mask.shape, data.image_size, data.config.resize)
        maps = np.stack([map_to_image(v[i], *where) for v in view.values()])
        nulls = np.stack([map_to_image(v[i], *where) for v in placed.values()])
        masks = np.broadcast_to(mask, maps.shape)
        out["average_precision"][i] = evaluate.average_precision(maps, masks)
        out["mass_inside"][i] = evaluate.mass_inside(maps, masks)
        out["localisation"][i] = out["average_precision"][i] - evaluate.average_precision(nulls, masks)
    return out


def _faithfulness(
    predict: Any,
    images: np.ndarray,
    raw: dict[int, np.ndarray],
    classes: np.ndarray,
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], int]:
    """Insertion minus deletion area of each block's map, less that of the same map put elsewhere; and the calls."""
    size = images.shape[1:3]
    placed = {b: maps.random_like(unit_view(m), rng) for b, m in raw.items()}
    both = np.concatenate([unit_maps(raw, size), unit_maps(placed, size)], axis=1)  # (n, 10, h, w)
    made = evaluate.deletion_insertion(predict, images, both, classes, steps=STEPS)
    gain = np.asarray(made.insertion) - np.asarray(made.deletion)
    blocks = len(raw)
    found = {"faithfulness": gain[:, :blocks] - gain[:, blocks:]}
    found |= {"insertion": np.asarray(made.insertion)[:, :blocks], "deletion": np.asarray(made.deletion)[:, :blocks]}
    return found, int(made.calls)


def _mean_rank(scores: dict[str, np.ndarray]) -> np.ndarray:
    """(seeds, images, blocks) in 0..1: the weighted mean rank of a block among the five over MEASURES."""
    ranks = np.stack([(rankdata(scores[m], axis=-1) - 1) / (len(BLOCK_NUMBERS) - 1) for m in MEASURES])
    return np.tensordot(WEIGHTS, ranks, axes=1)
