"""Stage (a) of training: the head alone on the frozen base, once for all runs that share it."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from xaitune import _files
from xaitune.config.fields import identity_of
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.backend import keras
from xaitune.models.blocks import freeze_blocks
from xaitune.models.precision import with_precision
from xaitune.training.features import FeatureCache, cache_key, pass_through, suffix_model
from xaitune.training.fit import Fit

HEAD_LOGIT_STEP = 0.5  # about how far one step of Adam may move a logit


def trained_head(
    model: keras.Model,
    data: ImageData,
    config: TrainConfig,
    precision: str,
    cache: FeatureCache,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Stage (a): the head trained alone on the frozen base; cached, and shared by all cells with the same seed.

    Returns {'weights': {layer: arrays}, 'history': rows}. It is trained by Adam for `head_epochs` epochs at the rate of
    `head_rate`. `report` is called with a text after each epoch.
    """
    key = json.dumps(identity_of(config, "head") | {"data": data.fingerprint}, sort_keys=True)
    entry = cache.folder / cache_key(model, data, precision)
    file = entry / f"head-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    names = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    entry.mkdir(parents=True, exist_ok=True)
    with FileLock(str(file) + ".lock"):
        if file.is_file():
            return _read_head(file, names)
        whole, history = _train_head(model, data, config, precision, cache, report)
        weights = {n: whole.get_layer(n).get_weights() for n in names}
        _write_head(file, weights, history)
    return {"weights": weights, "history": history}


def _train_head(
    model: keras.Model,
    data: ImageData,
    config: TrainConfig,
    precision: str,
    cache: FeatureCache,
    report: Callable[[str], None] | None,
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """A copy of the model in `precision` with the trained head, and the history."""
    features = cache.get(model, data, [5], precision)[5]
    if features is None:  # no room on disk; features after Block 5 fit into memory
        features = pass_through(model, data, [5], precision)[0]
    freeze_blocks(model, 5)
    whole = with_precision(model, precision)
    rate = head_rate(features[data.indices("train")])
    fit = Fit(suffix_model(whole, 5), features, data, config, "head", "adam", rate)
    history = []
    for epoch in range(config.head_epochs):
        history.append(fit.epoch(epoch))
        if report:
            report(f"head {epoch + 1}/{config.head_epochs}")
    return whole, history


def _read_head(file: Path, names: Sequence[str]) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as archive:
        weights = {n: [archive[f"{n}/0"], archive[f"{n}/1"]] for n in names}
        return {"weights": weights, "history": json.loads(archive["history"].tobytes())}


def _write_head(file: Path, weights: dict[str, list[np.ndarray]], history: list[dict[str, Any]]) -> None:
    arrays = {f"{n}/{i}": a for n, pair in weights.items() for i, a in enumerate(pair)}
    with _files.writing(file) as part, part.open("wb") as out:
        np.savez(out, history=np.frombuffer(json.dumps(history).encode(), np.uint8), **arrays)  # type: ignore[arg-type]


def head_rate(features: np.ndarray) -> float:
    """Adam's learning rate for a head on frozen features (n, ...), in 3e-4..3e-2.

    Adam moves every weight by about its rate, so a step moves a logit by about rate * sum |feature|. That product is set
    to HEAD_LOGIT_STEP, so that a head trains on base weights of any scale (ImageNet's, slim's, random ones).
    """
    size = float(np.abs(features.reshape(len(features), -1).astype(np.float64)).sum(axis=1).mean())
    return float(np.clip(HEAD_LOGIT_STEP / max(size, 1e-9), 3e-4, 3e-2))
