"""One TrainConfig -> one Run: the head alone, then Block k+1..5 with it, resumed from the last whole epoch."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from scipy.special import softmax

from xaitune.config.schema import LOSSES, METRICS, OPTIMIZERS, TrainConfig, replace_fields
from xaitune.data.dataset import ImageData
from xaitune.models import backend as device
from xaitune.models import vgg
from xaitune.models.backend import keras
from xaitune.results import Run
from xaitune.stats.intervals import classification_metrics, confusion, scores_from_confusion
from xaitune.training import folder as runs
from xaitune.training.augment import Augmenter, View
from xaitune.training.features import FeatureCache, Progress, cache_key, cut_layer, pass_through, suffix_model
from xaitune.training.schedule import block_factors, cuts_rate, epoch_rates, scaled

HEAD_LOGIT_STEP = 0.5  # of stage (a), with Adam: about how far one step may move a logit
CLIP_NORM = 3.0  # of the whole gradient: VGG16 has no batch normalisation, and a first bad batch could wreck it
FINAL_RATE_DIVISOR = 100
IN_MEMORY_BYTES = 4e9  # images above that are read from disk batch by batch
PREDICT_BATCH = 64
STAGES = ("head", "fine-tune", "final")


@dataclasses.dataclass(frozen=True)
class _Changed:
    """Training inputs changed at random: what reads those of some rows (rows, epoch, step), and what they pass next."""

    read: Callable[[np.ndarray, int, int], np.ndarray]
    prefix: Callable[[np.ndarray], np.ndarray] | None  # the frozen part, where its outputs are not kept


def train_model(
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    name: str | None = None,
    runs_dir: str | Path = "runs",
    overwrite: bool = False,
    cache_dir: str | Path | None = None,
    cache_gb: float = 20.0,
    progress: Progress | None = None,
    notes: Callable[[str], None] | None = None,
    **options: Any,
) -> Run:
    """Train one model and write its run folder; the same call again finds the finished run, or goes on with it.

    `options` are fields of TrainConfig. `cache_dir` (default `runs_dir`/cache) keeps frozen features, up to
    `cache_gb`. `progress(done, total, what)` counts epochs; `notes` receives lines for the user. A loss that turns
    NaN ends the run as 'diverged', which is recorded and returned. Raises InputError for what must be mended,
    RunError for a locked folder, a full disk, or a `name` that another configuration has.
    """
    config = replace_fields(config or TrainConfig(), options)
    data.require_trainable()
    data.require_classes(config.classes_to_augment, "augment_classes")
    backbone = vgg.load_backbone(config.weights)
    identity = runs.run_identity(config, data.config, data.fingerprint, backbone.digest)
    folder, note = runs.choose_folder(Path(runs_dir), runs.run_name(config), name, identity, overwrite=overwrite)
    if note and notes:
        notes(note)
    with runs.locked(folder):
        contents = {
            "train": dataclasses.asdict(config),
            "data": dataclasses.asdict(data.config),
            "class_names": list(data.class_names),
            "identity": identity,
        }
        runs.start_folder(folder, contents, overwrite=overwrite)
        if runs.is_finished(folder):
            if notes:
                notes(f"{folder} is finished already; it is not trained again.")
            return runs.load_run(folder)
        cache = FeatureCache(Path(cache_dir or Path(runs_dir) / "cache"), cache_gb)
        _Training(data, config, backbone, folder, cache, progress).run()
    return runs.load_run(folder)


class _Training:
    """The state of one training while it runs."""

    def __init__(
        self,
        data: ImageData,
        config: TrainConfig,
        backbone: vgg.Backbone,
        folder: Path,
        cache: FeatureCache,
        progress: Progress | None,
    ) -> None:
        self.data, self.config, self.folder, self.cache, self.progress = data, config, folder, cache, progress
        self.precision, self.why = device.resolve_precision(config.precision)
        self.backbone = backbone
        self.model = vgg.build_vgg16(
            len(data.class_names), image_size=data.image_size, head=config.head, weights=backbone, seed=config.seed
        )
        self.checkpoint = runs.Checkpoint(folder)
        self.history: list[dict[str, Any]] = []
        self.score = -1.0  # on validation, of the stage before: a final stage that only harms changes nothing
        self.total = config.head_epochs + config.epochs + config.final_epochs
        self.images: np.ndarray | _ImagesOnDisk | None = None

    def run(self) -> None:
        head = trained_head(self.model, self.data, self.config, self.precision, self.cache, self._report)
        for layer, arrays in head["weights"].items():
            self.model.get_layer(layer).set_weights(arrays)
        self.history += head["history"]
        state = "finished"
        fit, inputs = None, None
        for stage, epochs, through, rate in (
            ("fine-tune", self.config.epochs, self.config.freeze_through, self.config.rate),
            ("final", self.config.final_epochs, 0, self.config.rate / FINAL_RATE_DIVISOR),
        ):
            if stage == "final" and not epochs:
                continue
            parts, inputs = self._prepare(through)
            changed = self._augmented(parts, through, STAGES.index(stage)) if self.config.augmentation else None
            with device.training_scope():
                fit = self._fit(parts[1], inputs, stage, epochs, rate, changed)
            if fit is None:
                state = "diverged"
                break
            self.model.set_weights(parts[0].get_weights())
        self._finish(state, fit.predict if fit else None, inputs)

    def _prepare(self, through: int) -> tuple[tuple[keras.Model, keras.Model], Any]:
        """((the whole model in its precision, the part to train), the inputs of that part)."""
        vgg.freeze_blocks(self.model, through)
        features = self._features(self.data, through) if through else None
        with device.training_scope():
            whole = device.with_precision(self.model, self.precision)
            part = whole if features is None else suffix_model(whole, through)
        if features is not None:
            return (whole, part), features
        if self.images is None:
            self.images = _all_images(self.data)
        return (whole, whole), self.images

    def _features(self, data: Any, through: int) -> np.ndarray | None:
        def report(done: int, total: int, what: str) -> None:
            self._report(f"{what} {done}/{total}")

        return self.cache.get(self.model, data, [through], self.precision, report)[through]

    def _augmented(self, parts: tuple[keras.Model, keras.Model], through: int, stage: int) -> _Changed:
        """The changed inputs of the part to train: of kept views, or drawn anew in each step."""
        whole, part = parts
        train = self.data.indices("train")
        place = np.full(len(self.data.files), -1)
        place[train] = np.arange(len(train))
        views = [View(self.data, self.config, view) for view in range(self.config.augmented_views)]
        if part is whole:
            prefix = None
        else:
            room = self.cache.fits(self.model, through, len(views) * len(train), self.precision)
            features = [self._features(view, through) for view in views] if room else []
            kept = [f for f in features if f is not None]
            if kept and len(kept) == len(views):
                return _Changed(lambda rows, epoch, step: np.asarray(kept[epoch % len(kept)][place[rows]]), None)
            cut = whole.get_layer(cut_layer(whole, through)).output
            prefix = device.predictor(keras.Model(whole.input, cut), PREDICT_BATCH)
        if views:
            return _Changed(lambda rows, epoch, step: views[epoch % len(views)].load(place[rows]), prefix)
        images = self.images = _all_images(self.data) if self.images is None else self.images
        augmenter, seed = Augmenter(self.data, self.config), self.config.seed
        return _Changed(
            lambda rows, epoch, step: augmenter(images[rows], rows, [seed, stage, epoch, step]),
            prefix,
        )

    def _report(self, what: str) -> None:
        if self.progress:
            self.progress(len(self.history), self.total, what)

    def _fit(
        self, model: keras.Model, inputs: Any, stage: str, epochs: int, rate: float, changed: _Changed | None = None
    ) -> "_Fit | None":
        """Train one stage, from its checkpoint where there is one. None where the loss is no longer a number."""
        config = self.config
        fit = _Fit(model, inputs, self.data, config, stage, config.optimizer, rate)
        fit.changed = changed
        best, best_score, wait, start, cuts = fit.trained(), self.score, 0, 0, 0
        found = self.checkpoint.load()
        if found and STAGES.index(found[0]["stage"]) > STAGES.index(stage):
            return fit  # a later stage was reached: its checkpoint holds all the weights
        if found and found[0]["stage"] == stage:
            state, arrays = found
            self.history, best_score = state["history"], state["best_score"]
            wait, start, best = state["wait"], state["epoch"], arrays["best"]
            cuts = state.get("cuts", 0)
            fit.restore(arrays["weights"], arrays["optimizer"])
        for epoch in range(start, epochs):
            if wait >= config.patience:
                break
            row = fit.epoch(epoch, cuts)
            self.history.append(row)
            if not np.isfinite(row["train_loss"]) or not np.isfinite(row["val_loss"]):
                return None
            score = row[f"val_{config.metric}"]
            wait += 1
            if score > best_score:
                best, best_score, wait = fit.trained(), score, 0
            cuts += cuts_rate(config, epoch, wait)
            state = {
                "stage": stage,
                "epoch": epoch + 1,
                "best_score": best_score,
                "wait": wait,
                "cuts": cuts,
                "history": self.history,
            }
            arrays = {"weights": fit.trained(), "optimizer": fit.optimizer_state(), "best": best}
            self.checkpoint.save(state, arrays)
            self._report(f"{stage} {epoch + 1}/{epochs}, {config.metric} {best_score:.3f}")
        fit.restore(best)
        self.score = best_score
        return fit

    def _finish(self, state: str, predict: Callable[[np.ndarray], np.ndarray] | None, inputs: Any) -> None:
        """Write the run's files, result.json last."""
        runs.write_csv(self.folder / "history.csv", pd.DataFrame(self.history))
        metrics: dict[str, Any] = {}
        probabilities = None
        if state == "finished" and predict is not None:
            probabilities = softmax(_logits(predict, inputs, np.arange(len(self.data.files))), axis=1)
            if not np.isfinite(probabilities).all():  # on an image that is not for validation
                state, probabilities = "diverged", None
        if probabilities is not None:
            runs.write_csv(self.folder / "predictions.csv", prediction_table(self.data, probabilities))
            for split in ("train", "validation", "test"):
                rows = self.data.indices(split)
                metrics[split] = classification_metrics(
                    self.data.labels[rows], probabilities[rows], self.data.class_names
                )
            with runs.writing(self.folder / "model.keras") as part:
                self.model.save(part)
        about = device.describe(self.precision) | {
            "precision_reason": self.why,
            "fingerprint": self.data.fingerprint,
            "weights": self.config.weights,
            "weights_digest": self.backbone.digest,
            "preprocessing": self.backbone.preprocessing,
            "skipped": [list(s) for s in self.data.skipped],
            "git_commit": runs.git_commit(),
            "ended": runs.now(),
        }
        runs.write_json(self.folder / "metadata.json", about)
        seconds = sum(row["seconds"] for row in self.history)
        runs.write_json(self.folder / runs.RESULT, {"state": state, "metrics": metrics, "seconds": seconds})
        self.checkpoint.remove()


class _ImagesOnDisk:
    """Images that are read when a batch asks for them: for sets that do not fit into memory."""

    def __init__(self, data: ImageData) -> None:
        self.data = data

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.data.load(rows)


def _all_images(data: ImageData) -> np.ndarray | _ImagesOnDisk:
    height, width = data.image_size
    if len(data.files) * height * width * 3 > IN_MEMORY_BYTES:
        return _ImagesOnDisk(data)
    return data.load()


class _Fit:
    """A model, its optimizer and its data: one epoch at a time, its order fixed by (seed, stage, epoch)."""

    def __init__(
        self,
        model: keras.Model,
        inputs: Any,
        data: ImageData,
        config: TrainConfig,
        stage: str,
        optimizer: str,
        rate: float,
    ) -> None:
        self.model, self.inputs, self.config, self.stage, self.rate = model, inputs, config, stage, rate
        self.num_classes = len(data.class_names)
        self.changed: _Changed | None = None  # training inputs, where they are not `inputs` as they are
        kind, options, _ = OPTIMIZERS[optimizer]
        loss, one_hot, arguments = LOSSES[config.loss]
        if config.label_smoothing:
            arguments = {**arguments, "label_smoothing": config.label_smoothing}
        factors = block_factors(model, config.block_rates if stage == "fine-tune" else None)
        made = scaled(getattr(keras.optimizers, kind), factors)
        self.optimizer = made(learning_rate=rate, **options)
        self.optimizer.build(model.trainable_variables)
        criterion = getattr(keras.losses, loss)(from_logits=True, **arguments)
        self.step = device.training_step(model, self.optimizer, criterion, CLIP_NORM)
        self.predict = device.predictor(model, PREDICT_BATCH)
        self.labels = data.labels
        self.targets = np.eye(self.num_classes, dtype=np.float32)[data.labels] if one_hot else data.labels
        self.train, self.validation = data.indices("train"), data.indices("validation")
        self.sample_weight = np.ones(len(data.labels), np.float32)
        if config.class_weight == "balanced":
            counts = np.bincount(self.labels[self.train], minlength=self.num_classes)
            self.sample_weight = (len(self.train) / (self.num_classes * np.maximum(counts, 1)))[self.labels].astype(
                np.float32
            )

    def optimizer_state(self) -> list[np.ndarray]:
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.optimizer.variables]

    def trained(self) -> list[np.ndarray]:
        """The weights that are trained: the same ones whether or not the frozen features are cached."""
        return [np.array(keras.ops.convert_to_numpy(v)) for v in self.model.trainable_variables]

    def restore(self, weights: list[np.ndarray], optimizer: Sequence[np.ndarray] = ()) -> None:
        for variable, value in zip(self.model.trainable_variables, weights, strict=True):
            variable.assign(value)
        for variable, value in zip(self.optimizer.variables, optimizer, strict=False):
            variable.assign(value)

    def rates(self, epoch: int, steps: int, cuts: int) -> np.ndarray:
        """The learning rate of each step of an epoch; only stage (b) has a schedule."""
        if self.stage != "fine-tune":
            return np.full(steps, self.rate)
        return epoch_rates(self.config, self.rate, epoch, steps, cuts)

    def epoch(self, epoch: int, cuts: int = 0) -> dict[str, Any]:
        """Train one epoch and measure it on validation: one row of the history. `cuts`: of the rate, by a plateau."""
        start = time.perf_counter()
        key = [self.config.seed, STAGES.index(self.stage), epoch]
        order = np.random.default_rng(key).permutation(self.train)
        _reseed_dropout(self.model, key)
        sums = np.zeros(2)
        firsts = range(0, len(order), self.config.batch_size)
        rates = self.rates(epoch, len(firsts), cuts)
        batches = [order[first : first + self.config.batch_size] for first in firsts]

        def read(step: int) -> np.ndarray:
            return self.changed.read(batches[step], epoch, step) if self.changed else _batch(self.inputs, batches[step])

        for step, inputs in enumerate(_ahead(read, len(batches))):
            rows = batches[step]
            if step == 0 or rates[step] != rates[step - 1]:
                self.optimizer.learning_rate = float(rates[step])
            if self.changed and self.changed.prefix:
                inputs = self.changed.prefix(inputs)
            sums += len(rows) * np.array(self.step(inputs, self.targets[rows], self.sample_weight[rows]))
        logits = _logits(self.predict, self.inputs, self.validation)
        true = self.labels[self.validation]
        matrix = confusion(true, logits.argmax(axis=1), self.num_classes)
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = float(-np.log(np.maximum(softmax(logits, axis=1)[np.arange(len(true)), true], 1e-12)).mean())
        row = {"stage": self.stage, "epoch": epoch + 1}
        row |= dict(zip(("train_loss", "train_accuracy"), (sums / len(order)).tolist(), strict=True)) | {
            "val_loss": loss
        }
        row |= {f"val_{metric}": float(scores_from_confusion(matrix, metric)) for metric in METRICS}
        row["learning_rate"] = float(rates.mean()) if np.ptp(rates) else float(rates[0])
        return row | {"seconds": time.perf_counter() - start}


def trained_head(
    model: keras.Model,
    data: ImageData,
    config: TrainConfig,
    precision: str,
    cache: FeatureCache,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Stage (a): the head trained alone on the frozen base; kept, and shared by all cells with the same seed.

    Returns {'weights': layer -> arrays, 'history': rows}. Adam for `head_epochs`, at the rate of `head_rate`.
    """
    fields = ("head", "head_epochs", "seed", "batch_size", "loss", "class_weight")
    about = {f: getattr(config, f) for f in fields} | {"data": data.fingerprint}
    if config.label_smoothing:
        about["label_smoothing"] = config.label_smoothing
    key = json.dumps(about, sort_keys=True)
    entry = cache.folder / cache_key(model, data, precision)
    file = entry / f"head-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    entry.mkdir(parents=True, exist_ok=True)
    with FileLock(str(file) + ".lock"):
        if file.is_file():
            with np.load(file, allow_pickle=False) as found:
                weights = {n: [found[f"{n}/0"], found[f"{n}/1"]] for n in names}
                return {"weights": weights, "history": json.loads(found["history"].tobytes())}
        features = cache.get(model, data, [5], precision)[5]
        if features is None:  # no room on disk: these are small enough to hold
            features = pass_through(model, data, [5], precision)[0]
        vgg.freeze_blocks(model, 5)
        whole = device.with_precision(model, precision)
        rate = head_rate(features[data.indices("train")])
        fit = _Fit(suffix_model(whole, 5), features, data, config, "head", "adam", rate)
        history = []
        for epoch in range(config.head_epochs):
            history.append(fit.epoch(epoch))
            if report:
                report(f"head {epoch + 1}/{config.head_epochs}")
        weights = {n: whole.get_layer(n).get_weights() for n in names}
        flat = {f"{n}/{i}": a for n, arrays in weights.items() for i, a in enumerate(arrays)}
        with runs.writing(file) as partial, partial.open("wb") as out:
            np.savez(out, history=np.frombuffer(json.dumps(history).encode(), np.uint8), **flat)
    return {"weights": weights, "history": history}


def head_rate(features: np.ndarray) -> float:
    """Adam's rate for a head on frozen features (n, ...), in 3e-4..3e-2.

    Adam moves every weight by about its rate, so a step moves a logit by about rate * sum |feature|: that product is
    set to HEAD_LOGIT_STEP, and weights of any scale (ImageNet's, slim's, random ones) get a head that trains.
    """
    size = float(np.abs(features.reshape(len(features), -1).astype(np.float64)).sum(axis=1).mean())
    return float(np.clip(HEAD_LOGIT_STEP / max(size, 1e-9), 3e-4, 3e-2))


def _reseed_dropout(model: keras.Model, key: list[int]) -> None:
    """A Dropout layer's own random state is in no weights file: set it from (seed, stage, epoch)."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign(np.random.default_rng(key).integers(0, 2**31, 2, dtype=np.uint32))


def _batch(inputs: Any, rows: np.ndarray) -> np.ndarray:
    batch = np.asarray(inputs[rows])
    return batch.astype(np.float32) if batch.dtype == np.uint8 else batch


def _logits(predict: Callable[[np.ndarray], np.ndarray], inputs: Any, rows: np.ndarray) -> np.ndarray:
    batches = [rows[i : i + PREDICT_BATCH] for i in range(0, len(rows), PREDICT_BATCH)]
    out = [predict(x) for x in _ahead(lambda i: _batch(inputs, batches[i]), len(batches))]
    return np.concatenate(out).astype(np.float64)


def _ahead(read: Callable[[int], np.ndarray], count: int) -> Iterator[np.ndarray]:
    """`read` of 0, 1, .., each while the one before is in use: no step waits for the disk, or for a decoder."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0)
        for following in range(1, count):
            ready, coming = coming.result(), reader.submit(read, following)
            yield ready
        yield coming.result()


def prediction_table(data: ImageData, probabilities: np.ndarray) -> pd.DataFrame:
    """predictions.csv: file, group, split, true class, predicted class, and a probability a class ('p(name)')."""
    names = np.array(data.class_names)
    frame = pd.DataFrame(
        {
            "file": data.files,
            "group": data.groups,
            "split": data.split,
            "true": names[data.labels],
            "predicted": names[probabilities.argmax(axis=1)],
        }
    )
    return pd.concat([frame, pd.DataFrame(probabilities, columns=[f"p({n})" for n in data.class_names])], axis=1)
