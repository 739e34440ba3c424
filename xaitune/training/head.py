"""Stage (a) of training: the head alone on the frozen base, once for all runs that share it."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from xaitune import _files
from xaitune._progress import Progress
from xaitune.config.fields import identity_of
from xaitune.config.settings import TrainConfig
from xaitune.data.dataset import ImageData
from xaitune.data.pixel_labels import labels_of_pixels
from xaitune.models.backend import keras
from xaitune.models.blocks import BLOCKS, freeze_blocks
from xaitune.models.steps import training_scope
from xaitune.models.unet import RATE, decoder_layers
from xaitune.training.cut import cached_names, pooled_columns, suffix_inputs, suffix_model
from xaitune.training.features import FeatureCache, pass_through
from xaitune.training.fit import Fit
from xaitune.training.inputs import all_images
from xaitune.training.linear import fit_linear_head
from xaitune.training.network import Network, Part
from xaitune.training.targets import image_weights, train_scores, validation_scores

HEAD_LOGIT_STEP = 0.5  # about how far one step of Adam may move a logit


def trained_head(
    network: Network,
    data: ImageData,
    config: TrainConfig,
    cache: FeatureCache,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Stage (a): the head trained alone on the frozen base; cached, and shared by all cells with the same seed.

    Returns {'weights': {layer: arrays}, 'history': rows}, and for the head 'blocks' also 'blocks' (those whose features
    it takes), 'penalty' and 'score' (see `LinearHead`). The head 'blocks' is fitted in closed form; the others are
    trained by Adam for `head_epochs` epochs at the rate of `head_rate`. `report` is called with a text after each epoch.
    """
    about = identity_of(config, "head") | {"data": data.fingerprint}
    if config.segments:
        about["pixels"] = labels_of_pixels(data).digest
    if config.head == "blocks":  # nothing about it is random, and the metric chooses its penalty
        about |= {"metric": config.metric, "seed": 0}
    key = json.dumps(about, sort_keys=True)
    entry = cache.entry(network.model, data, network.precision)
    file = entry / f"head-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    entry.mkdir(parents=True, exist_ok=True)
    with FileLock(str(file) + ".lock"):
        if not file.is_file():
            make = _fit_head if config.head == "blocks" else _train_head
            _write_head(file, make(network, data, config, cache, report))
        return _read_head(file)


def _train_head(
    network: Network,
    data: ImageData,
    config: TrainConfig,
    cache: FeatureCache,
    report: Callable[[str], None] | None,
) -> dict[str, Any]:
    """The head trained by Adam, as `trained_head` returns it."""
    if config.segments:
        return _train_decoder(network, data, config, cache, report)
    features = block5_features(network, data, cache)
    rate = head_rate(features[data.indices("train")])
    freeze_blocks(network.model, 5)
    part = Part(suffix_model(network.model, 5))  # a head computes in float32, and on one GPU
    history = _epochs(Fit(part, features, data, config, "head", "adam", rate), config, report)
    layers = [layer for layer in part.model.layers if isinstance(layer, keras.layers.Dense)]
    return {"weights": {layer.name: layer.get_weights() for layer in layers}, "history": history}


def _train_decoder(
    network: Network,
    data: ImageData,
    config: TrainConfig,
    cache: FeatureCache,
    report: Callable[[str], None] | None,
) -> dict[str, Any]:
    """The decoder trained by Adam on the features of all blocks, as `trained_head` returns it."""
    features = cache.get(network.model, data, [5], network.precision)[5]
    with training_scope():
        part = network.part(5, cut=features is not None)  # without room for the features, every step computes them
        inputs = all_images(data) if features is None else features
        history = _epochs(Fit(part, inputs, data, config, "head", "adam", RATE), config, report)
    return {"weights": {layer.name: layer.get_weights() for layer in decoder_layers(part.model)}, "history": history}


def _epochs(fit: Fit, config: TrainConfig, report: Callable[[str], None] | None) -> list[dict[str, Any]]:
    """Train for `head_epochs`; the rows of the history."""
    history = []
    for epoch in range(config.head_epochs):
        history.append(fit.epoch(epoch))
        if report:
            report(f"head {epoch + 1}/{config.head_epochs}")
    return history


def _fit_head(
    network: Network,
    data: ImageData,
    config: TrainConfig,
    cache: FeatureCache,
    report: Callable[[str], None] | None,
) -> dict[str, Any]:
    """The linear head on the features of all blocks, or of the best one alone, as `trained_head` returns it."""
    features = np.asarray(block5_features(network, data, cache), np.float32)
    start = time.perf_counter()  # of the fit: the features may be cached, or computed for other runs too
    channels = [network.model.get_layer(f"block{block}_mean").output.shape[-1] for block in BLOCKS]
    columns: dict[tuple[int, ...], slice] = {(block,): pooled_columns(channels, block) for block in BLOCKS}
    if config.head_blocks == "all":
        columns = {BLOCKS: slice(None)}
    train, num_classes = data.indices("train"), len(data.class_names)
    labels, groups = data.labels[train], np.array(data.groups)[train]
    weights = image_weights(data, config)[train]
    fitted = {
        blocks: fit_linear_head(
            features[train, part], labels, groups, num_classes, metric=config.metric, sample_weight=weights
        )
        for blocks, part in columns.items()
    }
    blocks = max(fitted, key=lambda b: np.nan_to_num(fitted[b].score, nan=-1.0))
    head = fitted[blocks]
    logits = (features[:, columns[blocks]] - head.mean) / np.sqrt(head.variance) @ head.kernel + head.bias
    row = {"stage": "head", "epoch": 1, **train_scores(logits[train], labels), "clipped": 0.0}
    row |= validation_scores(logits[data.indices("validation")], data.labels[data.indices("validation")])
    row |= {"learning_rate": 0.0, "seconds": time.perf_counter() - start}
    if report:
        report("linear head")
    about = {"blocks": list(blocks), "penalty": head.penalty, "score": head.score}
    return {"weights": head.layers, "history": [row], **about}


def set_head(model: keras.Model, head: dict[str, Any]) -> None:
    """Give a model the weights of a head from `trained_head`."""
    for name, arrays in head["weights"].items():
        layer = model.get_layer(name)
        layer.set_weights(arrays)
        if hasattr(layer, "finalize_state"):  # Normalization computes with values derived from its weights
            layer.finalize_state()


def block5_features(
    network: Network, data: ImageData, cache: FeatureCache, progress: Progress | None = None
) -> np.ndarray:
    """The inputs of the model's head if all blocks are frozen, for all images in order."""
    model, precision = network.model, network.precision
    features = cache.get(model, data, [5], precision, progress)[5]
    if features is None:  # no room on disk; features after Block 5 fit into memory
        features = suffix_inputs(model, 5, pass_through(model, data, cached_names(model, 5), precision))
    return features


def _read_head(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as archive:
        weights: dict[str, list[np.ndarray]] = {}
        for key in sorted(k for k in archive.files if k != "head"):
            weights.setdefault(key.partition("/")[0], []).append(archive[key])
        return {"weights": weights, **json.loads(archive["head"].tobytes())}


def _write_head(file: Path, head: dict[str, Any]) -> None:
    arrays = {f"{n}/{i}": a for n, layer in head["weights"].items() for i, a in enumerate(layer)}
    rest = json.dumps({key: value for key, value in head.items() if key != "weights"})
    with _files.writing(file) as part, part.open("wb") as out:
        np.savez(out, head=np.frombuffer(rest.encode(), np.uint8), **arrays)


def head_rate(features: np.ndarray) -> float:
    """Adam's learning rate for a head on frozen features (n, ...), in 3e-4..3e-2.

    Adam moves every weight by about its rate, so a step moves a logit by about rate * sum |feature|. That product is set
    to HEAD_LOGIT_STEP, so that a head trains on base weights of any scale (ImageNet's, slim's, random ones).
    """
    size = float(np.abs(features.reshape(len(features), -1).astype(np.float64)).sum(axis=1).mean())
    return float(np.clip(HEAD_LOGIT_STEP / max(size, 1e-9), 3e-4, 3e-2))
