"""What an explanation was made from: the model's weights, the images' content, the options and the versions."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaitune.config.explain_settings import ExplainOptions, LimeOptions
from xaitune.errors import ImageError
from xaitune.explain.classifier import Classifier
from xaitune.models.precision import describe

VERSIONS = ("xaitune", "keras", "tensorflow", "tensorflow-cpu", "torch")


def made_from(
    classifier: Classifier,
    options: ExplainOptions,
    lime: LimeOptions,
    paths: Sequence[Path],
    opening: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What `verification.verify_explanation` needs to make an explanation again, as JSON takes it.

    `opening`: the options of `open_classifier`. Raises ImageError for a file that cannot be read.
    """
    made: dict[str, Any] = {
        "model_sha256": weights_digest(classifier.model),
        "versions": versions(),
        "options": dataclasses.asdict(options),
        "opening": dict(opening or {}),
        "images": [{"file": str(path), "sha256": file_digest(path)} for path in paths],
    }
    return made | ({"lime": dataclasses.asdict(lime)} if options.method == "lime" else {})


def weights_digest(model: Any) -> str:
    """SHA-256 of a keras.Model's weights: their shapes, types and values, in the order of the layers."""
    digest = hashlib.sha256()
    for values in model.get_weights():
        digest.update(f"{values.shape} {values.dtype} ".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content. Raises ImageError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from None


def versions() -> dict[str, str]:
    """The versions of what computes explanations."""
    return {name: version for name, version in describe("")["versions"].items() if name in VERSIONS}
