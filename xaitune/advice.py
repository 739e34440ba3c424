"""The freeze advisor: a probe's heatmaps at all five blocks, measured on validation images, decide freeze_through."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from xaitune import device, figures, mapscores, overlays, plots, runs, vgg
from xaitune.config import TrainConfig, replace_fields
from xaitune.data import ImageData
from xaitune.device import keras
from xaitune.errors import ConfigError, DataError, RunError
from xaitune.features import FeatureCache, Progress
from xaitune.gradcam import block_mapper
from xaitune.images import map_to_image
from xaitune.results import FreezeAdvice, unit_view
from xaitune.subjects import Subject, open_subject
from xaitune.superpixels import probability_function
from xaitune.training import trained_head

BLOCK_NUMBERS = (1, 2, 3, 4, 5)
METHODS = ("heatmap",)
DRAWS = 2000
MASKED_IMAGES = 120  # at most that many validation images with a mask
MEASURES = ("faithfulness", "agreement", "concentration", "stability")
WEIGHTS = np.array([3.0, 1.0, 1.0, 1.0]) / 6  # faithfulness counts as much as the three others together
STEPS = 5  # of deletion and insertion: more images tell more than finer curves
MIN_IMAGES = 5  # that insertion and deletion must at least see
MAP_CALLS = 6  # an image: forward and backward, for its maps and those of its two changed copies
NOISE, SHIFT = 5.0, 2  # grey values, pixels: the small input changes of the stability measure


def advise_freeze(
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    model: Any = None,
    method: str = "heatmap",
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    head_seeds: int = 3,
    max_calls: int | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    notes: Callable[[str], None] | None = None,
    **options: Any,
) -> FreezeAdvice:
    """Recommend `freeze_through` from what the blocks see, before any fine-tuning.

    A probe (all of VGG16 frozen, a head trained for each of `head_seeds` seeds) explains the true class of validation
    images with Grad-CAM at Block 1 to 5. With masks a block's score is its localisation: the average precision of
    the map for the mask minus that of the same map put elsewhere at random. Without masks it is the mean rank over
    faithfulness (insertion minus deletion area, minus the same of the map put elsewhere), agreement with the other
    blocks' maps, concentration (Gini) and stability. The advice is the deepest block whose score lies within one
    standard error of the best, since deeper is cheaper to train; its confidence is the share of resampled groups and
    head seeds that choose the same block. At most `max_calls` network calls are made for the measures (an image once
    forward or backward is one call). No test image is looked at, and training images only train the probe's head.

    `model`: explain this model instead of a probe. `options` are fields of TrainConfig. The folder `runs_dir`/advice
    gets advice.json, evidence.csv and pictures. Raises InputError and RunError.
    """
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}. Received: {method!r}.")
    if head_seeds < 1:
        raise ConfigError(f"head_seeds must be at least 1. Received: {head_seeds}.")
    config = replace_fields(config or TrainConfig(), options)
    data.require_trainable()
    probe = _Probe(data, config, model, head_seeds, Path(cache_dir or Path(runs_dir) / "cache"))
    budget = _budget(data, probe.channels, len(probe.seeds), max_calls)
    identity = _identity(data, config, probe, method, max_calls)
    folder, note = runs.choose_folder(Path(runs_dir), "advice", name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    if (folder / "advice.json").is_file() and not overwrite:
        if notes:
            notes(f"{folder} is there already; it is not made again.")
        return load_advice(folder)
    with runs.locked(folder):
        runs.start_folder(folder, {"identity": identity, "train": dataclasses.asdict(config)}, overwrite=overwrite)
        scores, groups, calls, measure = _measure(data, probe, budget, progress)
        advice = _decide(scores, groups, calls, measure, data, probe, method)
        _save(advice, folder, data, probe)
    return load_advice(folder)


def _identity(
    data: ImageData, config: TrainConfig, probe: "_Probe", method: str, max_calls: int | None
) -> dict[str, Any]:
    return {
        "fingerprint": data.fingerprint,
        "masks": _masks_digest(data),
        "seed": config.seed,
        "weights": probe.weights,
        "model": probe.explained,
        "method": method,
        "head": config.head,
        "head_epochs": probe.head_epochs,
        "head_seeds": len(probe.seeds),
        "max_calls": max_calls,
        **{field: getattr(config, field) for field in ("batch_size", "loss", "class_weight")},
    }


def _masks_digest(data: ImageData) -> str | None:
    """12 hex digits over the validation images' masks: a corrected mask asks for new advice."""
    if data.masks is None:
        return None
    found = hashlib.sha256()
    for row in data.indices("validation"):
        path = data.masks[row]
        found.update(path.read_bytes() if path else b"-")
    return found.hexdigest()[:12]


class _Probe:
    """The model that is looked into: VGG16 all frozen with a head for each seed, or a given model as it is."""

    def __init__(self, data: ImageData, config: TrainConfig, model: Any, head_seeds: int, cache_dir: Path) -> None:
        self.data, self.head_epochs = data, config.head_epochs + config.epochs
        self.config = replace_fields(config, {"freeze_through": 5, "head_epochs": self.head_epochs})
        self.cache = FeatureCache(cache_dir)
        self.trains = model is None
        self.seeds = tuple(range(head_seeds)) if self.trains else (0,)
        self.explained: str | None = None  # the given model's name
        if model is None:
            self.backbone = vgg.load_backbone(config.weights)
            self.weights = self.backbone.digest
            self.subject = Subject(self._built(config.seed), data.class_names, data.config.resize, "probe")
        else:
            self.subject = open_subject(model)
            if self.subject.class_names != data.class_names or self.subject.image_size != tuple(data.image_size):
                raise DataError(
                    f"The model's classes or input size {self.subject.image_size} are not those of the data "
                    f"({', '.join(data.class_names)}; {data.image_size}). Advise on the data it was trained on."
                )
            self.weights, self.explained = _base_weights(self.subject), self.subject.name

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of Block 1 to 5."""
        model = self.subject.model
        return tuple(model.get_layer(names[-1]).output.shape[-1] for names in vgg.require_blocks(model).values())

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
        for layer in self.subject.model.layers:
            if isinstance(layer, keras.layers.Dense):
                layer.set_weights(start.get_layer(layer.name).get_weights())
        config = replace_fields(self.config, {"seed": seed})
        precision, _ = device.resolve_precision(config.precision)
        head = trained_head(self.subject.model, self.data, config, precision, self.cache, report)
        for layer, arrays in head["weights"].items():
            self.subject.model.get_layer(layer).set_weights(arrays)


def _base_weights(subject: Subject) -> str:
    """The digest of the pretrained weights that a run began with; another model's name."""
    path = Path(subject.name)
    folder = path if path.is_dir() else path.parent
    return str(runs.load_run(folder).metadata["weights_digest"]) if runs.is_finished(folder) else subject.name


def _measure(
    data: ImageData, probe: _Probe, budget: tuple[int, int], progress: Progress | None
) -> tuple[dict[str, np.ndarray], np.ndarray, int, str]:
    """(measure -> (seeds, images, blocks), the images' groups, network calls, the measure that decides)."""
    validation = data.indices("validation")
    masked = [i for i in validation if data.masks is not None and (m := data.mask(int(i))) is not None and m.any()]
    by_masks = len(np.unique(data.groups[masked])) >= 5 if masked else False
    unmasked, masked_limit = budget
    limit = masked_limit if by_masks else unmasked
    rows = _choose(data, np.array(masked) if by_masks else validation, limit)
    images, classes = data.load(rows).astype(np.float32), data.labels[rows]
    mapper = block_mapper(probe.subject.model, BLOCK_NUMBERS)
    found: list[dict[str, np.ndarray]] = []
    calls = 0
    for step, seed in enumerate(probe.seeds):
        report = _step_report(progress, step, len(probe.seeds))
        probe.use(seed, report)
        raw, _ = mapper(images, classes)
        maps = unit_maps(raw, data.image_size)  # (n, 5, h, w)
        scores = {
            "zero": (maps.max(axis=(2, 3)) <= 0).astype(float),
            "concentration": mapscores.concentration(maps).gini,
        }
        scores["agreement"] = _agreement(maps)
        scores["stability"] = _stability(mapper, images, classes, maps, seed)
        calls += MAP_CALLS * len(rows)
        rng = np.random.default_rng([seed, 7])
        if by_masks:
            scores |= _localisation(raw, data, rows, rng)
        else:
            predict = probability_function(probe.subject)
            faithful, used = _faithfulness(predict, images, raw, classes, rng)
            scores |= faithful
            calls += used
        found.append(scores)
        if progress:
            progress(step + 1, len(probe.seeds), f"heatmaps of {len(rows)} validation images, head seed {seed}")
    together = {key: np.stack([s[key] for s in found]) for key in found[0]}
    together["score"] = together["localisation"] if by_masks else _mean_rank(together)
    return together, data.groups[rows], calls, "localisation" if by_masks else "mean rank"


def _budget(data: ImageData, channels: Sequence[int], seeds: int, max_calls: int | None) -> tuple[int, int]:
    """(images without masks, images with masks) for at most `max_calls` network calls.

    By default about 3e13 multiply-adds, within 2,400 and 8,000 calls. Raises ConfigError where that is not enough for MIN_IMAGES.
    """
    if max_calls is None:
        per_image = sum(vgg.multiply_adds(data.image_size, channels).values())
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


def _choose(data: ImageData, rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the rows, classes in turn and a new group before a second image of one."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(rows)
    frame = pd.DataFrame({"row": rows, "class": data.labels[rows], "group": data.groups[rows]})
    frame["again"] = frame.groupby(["class", "group"]).cumcount()
    frame = frame.sort_values("again", kind="stable")
    frame["turn"] = frame.groupby("class").cumcount()
    return np.sort(frame.sort_values("turn", kind="stable")["row"].to_numpy()[:limit])


def unit_maps(raw: dict[int, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(n, blocks, h, w) float32: the [0, 1] views of raw maps at one size, so that blocks can be laid over each other."""
    made = [[map_to_image(m, size, size) for m in unit_view(raw[b])] for b in sorted(raw)]
    return np.array(made, np.float32).transpose(1, 0, 2, 3)


def _agreement(maps: np.ndarray) -> np.ndarray:
    """(n, blocks): mean Spearman of a block's map with those of the other blocks; 0 where a map is constant."""
    blocks = range(maps.shape[1])
    pairs = np.zeros((len(maps), len(blocks), len(blocks)))
    for a in blocks:
        for b in range(a):
            pairs[:, a, b] = pairs[:, b, a] = np.nan_to_num(mapscores.agreement(maps[:, a], maps[:, b]).spearman)
    return pairs.sum(axis=2) / (len(blocks) - 1)


def _stability(mapper: Any, images: np.ndarray, classes: np.ndarray, maps: np.ndarray, seed: int) -> np.ndarray:
    """(n, blocks): Spearman of the maps with those of a noisy and of a shifted copy, the shift undone."""
    rng = np.random.default_rng([seed, 11])
    size = maps.shape[2:]
    noisy = np.clip(images + rng.normal(0, NOISE, images.shape).astype(np.float32), 0, 255)
    shifted = np.roll(images, (SHIFT, SHIFT), axis=(1, 2))
    changed = [unit_maps(mapper(noisy, classes)[0], size)]
    changed.append(np.roll(unit_maps(mapper(shifted, classes)[0], size), (-SHIFT, -SHIFT), axis=(2, 3)))
    return np.nan_to_num(mapscores.stability(maps, np.stack(changed)))


def _localisation(
    raw: dict[int, np.ndarray], data: ImageData, rows: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Average precision for the mask in the file's own geometry, less that of the same map put elsewhere."""
    view = {b: unit_view(raw[b]) for b in sorted(raw)}
    placed = {b: mapscores.random_like(v, rng) for b, v in view.items()}
    out = {key: np.zeros((len(rows), len(view))) for key in ("localisation", "average_precision", "mass_inside")}
    for i, row in enumerate(rows):
        mask = data.mask(int(row))
        assert mask is not None  # only images with a mask were chosen
        where = (mask.shape, data.image_size, data.config.resize)
        maps = np.stack([map_to_image(v[i], *where) for v in view.values()])
        nulls = np.stack([map_to_image(v[i], *where) for v in placed.values()])
        masks = np.broadcast_to(mask, maps.shape)
        out["average_precision"][i] = mapscores.average_precision(maps, masks)
        out["mass_inside"][i] = mapscores.mass_inside(maps, masks)
        out["localisation"][i] = out["average_precision"][i] - mapscores.average_precision(nulls, masks)
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
    placed = {b: mapscores.random_like(unit_view(m), rng) for b, m in raw.items()}
    both = np.concatenate([unit_maps(raw, size), unit_maps(placed, size)], axis=1)  # (n, 10, h, w)
    made = mapscores.deletion_insertion(predict, images, both, classes, steps=STEPS)
    gain = np.asarray(made.insertion) - np.asarray(made.deletion)
    blocks = len(raw)
    found = {"faithfulness": gain[:, :blocks] - gain[:, blocks:]}
    found |= {"insertion": np.asarray(made.insertion)[:, :blocks], "deletion": np.asarray(made.deletion)[:, :blocks]}
    return found, int(made.calls)


def _mean_rank(scores: dict[str, np.ndarray]) -> np.ndarray:
    """(seeds, images, blocks) in 0..1: the weighted mean rank of a block among the five over MEASURES."""
    ranks = np.stack([(rankdata(scores[m], axis=-1) - 1) / (len(BLOCK_NUMBERS) - 1) for m in MEASURES])
    return np.tensordot(WEIGHTS, ranks, axes=1)


def choose_block(means: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The deepest block (1..5) whose mean is within its standard error of the best, for each row of `means` (..., 5)."""
    good = means >= means.max(axis=-1, keepdims=True) - errors
    return means.shape[-1] - np.argmax(good[..., ::-1], axis=-1)


def _decide(
    scores: dict[str, np.ndarray],
    groups: np.ndarray,
    calls: int,
    measure: str,
    data: ImageData,
    probe: _Probe,
    method: str,
) -> FreezeAdvice:
    names, number = np.unique(groups, return_inverse=True)
    per_seed = np.zeros((len(probe.seeds), len(names), len(BLOCK_NUMBERS)))
    for group in range(len(names)):
        per_seed[:, group] = scores["score"][:, number == group].sum(axis=1)
    size = np.bincount(number)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)  # (draws, groups)
    drawn = np.einsum("dg,sgb->dsb", weights, per_seed) / (weights @ size)[:, None, None]
    mean = scores["score"].mean(axis=(0, 1))
    seed_mean = drawn.mean(axis=1)  # (draws, blocks)
    gap = seed_mean[:, [int(mean.argmax())]] - seed_mean
    errors = gap.std(axis=0)
    chosen = int(choose_block(mean, errors))
    votes = choose_block(drawn, errors).ravel()
    share = {b: float((votes == b).mean()) for b in BLOCK_NUMBERS}
    low, high = np.percentile(seed_mean, [2.5, 97.5], axis=0)
    table = {"score": mean, "low": low, "high": high, "behind_best": mean.max() - mean, "standard_error": errors}
    others = {k: np.nanmean(v, axis=(0, 1)) for k, v in scores.items() if k not in ("score", "zero")}
    table |= others | {"empty_maps": scores["zero"].mean(axis=(0, 1))}
    evidence = pd.DataFrame(table, index=pd.Index(BLOCK_NUMBERS, name="block"))
    advice = FreezeAdvice(
        freeze_through=chosen,
        confidence=share[chosen],
        evidence=evidence,
        votes=share,
        reasons="",
        method=method,
        measure=measure,
        fingerprint=data.fingerprint,
        weights=probe.weights,
        image_size=data.image_size,
        images=len(groups),
        groups=len(names),
        model_calls=calls,
        created=runs.now(),
    )
    return dataclasses.replace(advice, reasons=_reasons(advice, len(probe.seeds)))


def _reasons(advice: FreezeAdvice, seeds: int) -> str:
    """One paragraph in plain language, from the figures alone."""
    e, k = advice.evidence, advice.freeze_through
    best = int(e["score"].idxmax())
    what = {
        "localisation": "how well each block's heatmap finds the marked defects, beyond the same map put elsewhere",
        "mean rank": "how each block's heatmap ranks in faithfulness (weighted most), agreement, concentration and stability",
    }[advice.measure]
    text = (
        f"Measured on {advice.images} validation images of {advice.groups} groups with {seeds} probe heads: {what}. "
        f"Block {best} scores best ({e.loc[best, 'score']:.3f} [{e.loc[best, 'low']:.3f}, {e.loc[best, 'high']:.3f}]). "
    )
    if k != best:
        text += (
            f"Block {k} ({e.loc[k, 'score']:.3f}) lies within one standard error of it, "
            "and freezing deeper is cheaper to train. "
        )
    if k < 5:
        text += (
            f"From Block {k + 1} on the maps lose what the decision needs (Block {k + 1}: {e.loc[k + 1, 'score']:.3f}), "
            f"so those blocks should be trained on your images. "
        )
    else:
        text += "Even the last block's maps hold up, so training the head alone is worth trying first. "
    other = ", ".join(f"{m} {e.loc[k, m]:.2f}" for m in ("agreement", "concentration", "stability"))
    text += f"Second opinions on Block {k}: {other}. "
    empty = e["empty_maps"]
    if empty.max() > 0.05:
        text += f"Block {int(empty.idxmax())} gave empty maps for {empty.max():.0%} of the images. "
    sure = advice.confidence
    text += f"{sure:.0%} of the resampled groups and head seeds choose the same block"
    if sure < 0.5:
        second = next(b for b in advice.ranking if b != k)
        text += f": this is a weak recommendation; Block {second} is the next candidate ({advice.votes[second]:.0%})"
    return text + "."


def _save(advice: FreezeAdvice, folder: Path, data: ImageData, probe: _Probe) -> None:
    runs.write_csv(folder / "evidence.csv", advice.evidence.reset_index())
    figures.save(advice.plot(), folder / "evidence.png")
    rows = _choose(data, data.indices("validation"), min(6, len(data.indices("validation"))))
    if data.masks is not None:
        shown = [i for i in data.indices("validation") if (m := data.mask(int(i))) is not None and m.any()]
        rows = _choose(data, np.array(shown), 6) if shown else rows
    images = data.load(rows)
    mapper = block_mapper(probe.subject.model, BLOCK_NUMBERS)
    maps = unit_maps(mapper(images.astype(np.float32), data.labels[rows])[0], data.image_size)
    strips = [
        overlays.strip([image, *(overlays.overlay(image, m) for m in row)], height=160)
        for image, row in zip(images, maps, strict=True)
    ]
    labels = [f"{Path(data.files[i]).stem} ({data.class_names[data.labels[i]]})" for i in rows]
    titles = ["image", *(f"Block {b}" for b in BLOCK_NUMBERS)]
    figures.save(plots.contact_sheet(strips, labels, titles=titles), folder / "heatmaps.png")
    keep = {f.name: getattr(advice, f.name) for f in dataclasses.fields(advice) if f.name not in ("evidence", "path")}
    runs.write_json(folder / "advice.json", keep)


def load_advice(path: str | Path) -> FreezeAdvice:
    """Advice from its folder. Raises RunError where it is missing or damaged."""
    folder = Path(path)
    values = runs.read_json(folder / "advice.json")
    try:
        values["votes"] = {int(k): v for k, v in values["votes"].items()}
        values["image_size"] = tuple(values["image_size"])
        evidence = pd.read_csv(folder / "evidence.csv", index_col="block")
        return FreezeAdvice(**values, evidence=evidence, path=folder)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise RunError(
            f"{folder} is damaged ({error}). Make the advice again with 'xaitune advise --overwrite'."
        ) from None


def find_advice(runs_dir: str | Path, fingerprint: str | None = None, weights: str | None = None) -> Path | None:
    """The newest advice under `runs_dir`; with a fingerprint or weights (their digest), on those alone."""
    found = []
    for file in Path(runs_dir).glob("*/advice.json"):
        values = runs.read_json(file)
        if fingerprint in (None, values["fingerprint"]) and weights in (None, values["weights"]):
            found.append((values["created"], file.parent))
    return max(found)[1] if found else None
