"""Stage (a): the head trained alone on the frozen base, once for all runs that share it."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from filelock import FileLock

from xaitune import _files
from xaitune.config.fields import identity_of
from xaitune.config.schema import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.models.backend import keras
from xaitune.models.blocks import freeze_blocks
from xaitune.models.precision import with_precision
from xaitune.training.features import FeatureCache, cache_key, pass_through, suffix_model
from xaitune.training.fit import Fit

HEAD_LOGIT_STEP = 0.5  # with Adam: about how far one step may move a logit


def trained_head(
    model: keras.Model,
    data: ImageData,
    config: TrainConfig,
    precision: str,
    cache: FeatureCache,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Stage (a): the head trained alone on the frozen base; cached, and shared by all cells with the same seed.

    Returns {'weights': layer -> arrays, 'history': rows}. Adam for `head_epochs`, at the rate of `head_rate`.
    """
    key = json.dumps(identity_of(config, "head") | {"data": data.fingerprint}, sort_keys=True)
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
        freeze_blocks(model, 5)
        whole = with_precision(model, precision)
        rate = head_rate(features[data.indices("train")])
        fit = Fit(suffix_model(whole, 5), features, data, config, "head", "adam", rate)
        history = []
        for epoch in range(config.head_epochs):
            history.append(fit.epoch(epoch))
            if report:
                report(f"head {epoch + 1}/{config.head_epochs}")
        weights = {n: whole.get_layer(n).get_weights() for n in names}
        flat = {f"{n}/{i}": a for n, arrays in weights.items() for i, a in enumerate(arrays)}
        with _files.writing(file) as partial, partial.open("wb") as out:
            np.savez(out, history=np.frombuffer(json.dumps(history).encode(), np.uint8), **flat)
    return {"weights": weights, "history": history}


def head_rate(features: np.ndarray) -> float:
    """Adam's rate for a head on frozen features (n, ...), in 3e-4..3e-2.

    Adam moves every weight by about its rate, so a step moves a logit by about rate * sum |feature|: that product is
    set to HEAD_LOGIT_STEP, and weights of any scale (ImageNet's, slim's, random ones) get a head that trains.
    """
    size = float(np.abs(features.reshape(len(features), -1).astype(np.float64)).sum(axis=1).mean())
    return float(np.clip(HEAD_LOGIT_STEP / max(size, 1e-9), 3e-4, 3e-2))
