"""What this machine has, and what will be slow on it or is missing."""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from xaitune import _machine
from xaitune._names import disk_size, duration, plural

GOOD, SLOW, MISSING = "good", "slow", "missing"
LEAST_MEMORY, LEAST_DISK = 4e9, 10e9  # bytes
VGG16 = 15.3e9  # multiply-adds of a forward pass at 224 x 224
TYPICAL = 1000  # training images of the training whose time is estimated
LONG = 1800  # seconds that such a training may take
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "firefox")
EXTRAS = {  # what it is for -> its module
    "fast": ("ncnn", "faster float32 forward passes for LIME, scores and predict"),
    "export-onnx": ("tf2onnx", "xaitune export --to onnx"),
    "export-openvino": ("openvino", "xaitune export --to openvino"),
    "labels": ("cleanlab", "data-check --labels"),
    "dicom": ("pydicom", "DICOM files"),
    "studio": ("starlette", "xaitune studio"),
    "ray": ("ray", "sweeps on a Ray cluster"),
    "torch": ("torch", "Keras's torch backend"),
    "tensorboard": ("tensorboard", "train --tensorboard"),
    "mlflow": ("mlflow", "train --mlflow"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its `state` (GOOD, SLOW or MISSING), what was found, and what to do about it."""

    what: str
    state: str
    found: str
    advice: str = ""


def examine(runs_dir: Path) -> list[Finding]:
    """Look at the machine: processor, memory, disk, GPU, weights, fonts, browser and optional packages.

    It multiplies matrices for two thirds of a second and starts TensorFlow to ask for GPUs; it writes nothing.
    """
    return [
        *_processor(),
        _training(),
        _memory(),
        _disk(runs_dir),
        _gpu(),
        _weights(),
        _fonts(),
        _browser(),
        *_extras(),
    ]


def versions() -> dict[str, str]:
    """Package -> version of what decides a run's numbers, without importing any of it."""
    found = {}
    for name in ("xaitune", "tensorflow", "tensorflow-cpu", "keras", "numpy"):
        if name == "xaitune" or importlib.util.find_spec(name.replace("-", "_")) or name == "tensorflow-cpu":
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
    return found


def _processor() -> list[Finding]:
    from xaitune.comparison.cost import matrix_rate

    cores, units = _machine.usable_cores(), _machine.half_units()
    few = cores < 4
    found = [
        Finding(
            "processor",
            SLOW if few else GOOD,
            f"{_machine.processor_name()}, {plural(cores, 'core')}",
            "A sweep runs one training for every two cores: here it runs them one after another." if few else "",
        )
    ]
    half = "bfloat16 units" if units else "no bfloat16 units"
    advice = (
        ""
        if units
        else "Trainings compute in float32, several times slower: choose a small --image-size, such as 96x96."
    )
    found.append(
        Finding("precision", GOOD if units else SLOW, f"{half}{' (' + ', '.join(units) + ')' if units else ''}", advice)
    )
    rate, load = matrix_rate(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    seconds = VGG16 / rate
    found.append(
        Finding(
            "speed",
            GOOD if seconds < 0.1 else SLOW,
            f"{rate / 1e9:,.0f} billion multiply-adds a second in float32: about {seconds * 1000:,.0f} ms for VGG16 at 224x224",
            f"Measured while other programs keep it busy (load {load:.0f}): an idle machine is faster."
            if load > cores
            else "",
        )
    )
    return found


def _training() -> Finding:
    """How long a typical training would take on the processor."""
    from xaitune.comparison.cost import run_cost, training_rate
    from xaitune.config.settings import TrainConfig

    took = run_cost(TrainConfig(), TYPICAL, (224, 224)) / training_rate("auto")
    long = took > LONG
    return Finding(
        "a training",
        SLOW if long else GOOD,
        f"without a GPU about {duration(took)} for {TYPICAL:,} images at 224x224, Block 1-3 frozen, {TrainConfig.epochs} epochs",
        "A sweep has dozens of them: half the --image-size takes a quarter of the time." if long else "",
    )


def _memory() -> Finding:
    known = _machine.memory()
    if known is None:
        return Finding("memory", GOOD, "not known on this system")
    total, free = known
    little = free < LEAST_MEMORY
    advice = "Close other programs, or set --workers 1: a training at 224x224 takes about 4 GB." if little else ""
    return Finding("memory", SLOW if little else GOOD, f"{disk_size(free)} of {disk_size(total)} free", advice)


def _disk(runs_dir: Path) -> Finding:
    place = runs_dir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    little = free < LEAST_DISK
    advice = (
        "Frozen features take up to 20 GB (--cache-gb); what does not fit is computed again in every step."
        if little
        else ""
    )
    return Finding("disk", SLOW if little else GOOD, f"{disk_size(free)} free in {place}", advice)


def _gpu() -> Finding:
    from xaitune.models.backend import BACKEND, gpu_names

    names = gpu_names()
    if names:
        return Finding("GPU", GOOD, f"{', '.join(names)}, used by {BACKEND}")
    return Finding(
        "GPU",
        SLOW,
        f"none that {BACKEND} can use",
        "Everything runs on the processor, which is enough for small images.",
    )


def _weights() -> Finding:
    from xaitune.models.weights import downloaded_file

    file = downloaded_file("vgg16")
    if file.is_file():
        return Finding("ImageNet's VGG16", GOOD, str(file))
    advice = (
        "Keras downloads them at first use. Without network access, copy the file there, or give its path as --weights; "
        "--weights slim needs no download."
    )
    return Finding("ImageNet's VGG16", MISSING, f"not at {file}", advice)


def _fonts() -> Finding:
    from xaitune.plots.figures import east_asian_families

    families = east_asian_families()
    if families:
        return Finding("Korean in pictures", GOOD, families[0])
    return Finding("Korean in pictures", MISSING, "no font with Hangul", "pip install koreanize-matplotlib")


def _browser() -> Finding:
    found = next((name for name in BROWSERS if shutil.which(name)), None)
    if found:
        return Finding("browser", GOOD, found)
    return Finding("browser", MISSING, "none found by name", "Only to look at report.html and the studio here.")


def _extras() -> list[Finding]:
    found = []
    for extra, (module, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        advice = "" if there else f"pip install 'xaitune[{extra}]'"
        found.append(Finding(module, GOOD if there else MISSING, purpose, advice))
    return found


def summary(findings: Sequence[Finding]) -> str:
    """What will be slow, in a sentence."""
    slow = [finding.what for finding in findings if finding.state == SLOW]
    if not slow:
        return "Nothing here will be slow."
    return f"What makes work slow here: {', '.join(slow)}."
