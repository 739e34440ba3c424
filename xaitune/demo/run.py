"""`xaitune demo`: the whole workflow on generated images; every step resumes where an earlier call stopped."""

import time
from pathlib import Path
from typing import Any

from xaitune import _files
from xaitune._names import metric_name
from xaitune._progress import Notes, Progress
from xaitune.advise import recommend
from xaitune.advise.check import check_advice, save_check
from xaitune.comparison import sweep
from xaitune.config.settings import Config, DataConfig, SweepConfig, TrainConfig, replace_fields
from xaitune.config.toml import config_text
from xaitune.demo.scans import make_demo_data
from xaitune.explain.api import explain_images
from xaitune.explain.store import ExplanationWriter
from xaitune.report import gather as pages
from xaitune.training.train import train_model

TRAIN = TrainConfig(weights="slim", epochs=15)
SWEEP = SweepConfig(seeds=1)
# Of --quick: a fifth of the images at half the size, and trainings of an epoch.
QUICK: dict[str, Any] = {"scale": 0.01, "image_size": (32, 32)}
QUICK_TRAIN = replace_fields(TRAIN, {"head_epochs": 1, "epochs": 1})
QUICK_SWEEP = SweepConfig(freeze_through=(4, 5), optimizers=("nag",), seeds=1, learning_rates="own")
# Percentage of the demo's run time that each step takes, in order, for one progress bar over all steps.
STEPS = {"train": 6, "explain": 4, "advise": 12, "sweep": 74, "report": 4}


class _StepProgress:
    """Reports the progress of one step as the progress of the whole demo, in tenths of a percent."""

    def __init__(self, step: str, progress: Progress) -> None:
        names = list(STEPS)
        self.step, self.progress = step, progress
        self.start, self.share = sum(STEPS[name] for name in names[: names.index(step)]), STEPS[step]
        self(0, 1)

    def __call__(self, done: int, total: int, text: str = "") -> None:
        percent = self.start + self.share * done / max(total, 1)
        self.progress(int(10 * percent), 10 * sum(STEPS.values()), f"{self.step}: {text}" if text else self.step)


def run_demo(folder: Path, progress: Progress, say: Notes, *, quick: bool = False) -> dict[str, Any]:
    """Make the images, train, explain, advise, sweep, check and report in `folder`; returns the last results.

    `quick` makes every step so small that it only shows whether it works.
    """
    start, runs_dir = time.monotonic(), folder / "runs"
    train, compared = (QUICK_TRAIN, QUICK_SWEEP) if quick else (TRAIN, SWEEP)
    data = make_demo_data(folder / "data", **(QUICK if quick else {}))
    say(
        f"Images: {len(data)} scans of {len(set(data.groups))} parts in {folder / 'data'}, {len(data.class_names)} classes"
    )
    relative = DataConfig("data/images", "data/masks", "data/groups.csv", data.image_size)
    if not (folder / "xaitune.toml").is_file():
        with _files.writing(folder / "xaitune.toml") as part:
            part.write_text(config_text(Config(relative, train, compared)), encoding="utf-8")
    run = train_model(data, train, runs_dir=runs_dir, progress=_StepProgress("train", progress))
    say(f"Trained {run.path}: test {metric_name(train.metric)} {run.score():.3f}")
    _explain(run, data, runs_dir, _StepProgress("explain", progress), samples=100 if quick else 500)
    say(f"Explained test images: {runs_dir / 'explain'}")
    advice = recommend.advise_freeze(
        data,
        train,
        method="features" if quick else None,
        sweep=compared,
        runs_dir=runs_dir,
        progress=_StepProgress("advise", progress),
    )
    say(f"Advice: {advice.headline}")
    grid = compared.with_depth(advice.freeze_through)  # which the sweep is to check
    table = sweep.sweep_freeze(data, grid, train=train, runs_dir=runs_dir, progress=_StepProgress("sweep", progress))
    check = check_advice(advice, table)
    save_check(check, table.path)
    page, _ = pages.report_on(table.path, runs_dir, progress=_StepProgress("report", progress))
    return {"sweep": table, "check": check, "report": page, "seconds": time.monotonic() - start}


def _explain(run: Any, data: Any, runs_dir: Path, progress: Progress, samples: int) -> None:
    """Explain some test images by Grad-CAM and one by LIME with that many samples."""
    for step, (method, count) in enumerate((("gradcam", 8), ("lime", 1))):
        out = runs_dir / ("explain" if method == "gradcam" else "explain-lime")
        if (out / "explain.json").is_file():
            continue
        progress(step, 2, method)
        test = data.indices("test")
        paths = data.paths(test[:: max(len(test) // count, 1)][:count])
        # Quickshift finds too little in scans of this size.
        explanations = explain_images(run, paths, method=method, segmenter="slic", num_samples=samples)
        about = {"method": method, "rule": "gradcam", "model": str(run.path), "class_names": list(data.class_names)}
        with ExplanationWriter(out, about) as writer:
            writer.add(explanations)
            writer.close()
