"""`xaitune demo`: the whole way of the data on generated images, each step resumed where an earlier call stopped."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xaitune import _files
from xaitune._names import frozen_name
from xaitune.advise import recommend
from xaitune.advise.check import check_advice, save_check
from xaitune.comparison import sweep
from xaitune.config.schema import Config, DataConfig, SweepConfig, TrainConfig
from xaitune.config.toml import config_text
from xaitune.demo.scans import make_demo_data
from xaitune.explain.api import explain_images
from xaitune.explain.store import ExplanationWriter
from xaitune.report import gather as pages
from xaitune.training.train import train_model

TRAIN = TrainConfig(weights="slim", epochs=15)
SWEEP = SweepConfig(seeds=1)
# Share of the demo's time that each step takes, for one bar over all of them.
STEPS = {"train": 8, "explain": 5, "advise": 15, "sweep": 67, "report": 5}


def run_demo(folder: Path, progress: Callable[..., None], say: Callable[[str], None]) -> dict[str, Any]:
    """Make the images, train, explain, advise, sweep, check and report below `folder`; returns the last results."""
    start, runs_dir = time.monotonic(), folder / "runs"
    before = 0

    def part(step: str) -> Callable[[int, int, str], None]:
        nonlocal before
        base, share = before, STEPS[step]
        before += share

        def report(done: int, total: int, text: str = "") -> None:
            progress(int(10 * (base + share * done / max(total, 1))), 10 * sum(STEPS.values()), f"{step}: {text}")

        report(0, 1)
        return report

    data = make_demo_data(folder / "data")
    say(
        f"Images: {len(data)} scans of {len(set(data.groups))} parts in {folder / 'data'}, {len(data.class_names)} classes"
    )
    relative = DataConfig("data/images", "data/masks", "data/groups.csv", data.image_size)
    if not (folder / "xaitune.toml").is_file():
        with _files.writing(folder / "xaitune.toml") as part_file:
            part_file.write_text(config_text(Config(relative, TRAIN, SWEEP)), encoding="utf-8")
    run = train_model(data, TRAIN, runs_dir=runs_dir, progress=part("train"))
    say(f"Trained {run.path}: test {TRAIN.metric} {run.score():.3f}")
    _explain(run, data, runs_dir, part("explain"))
    say(f"Explained test images: {runs_dir / 'explain'}")
    advised = recommend.advise_freeze(data, TRAIN, runs_dir=runs_dir, progress=part("advise"))
    say(f"Advice: freeze {frozen_name(advised.freeze_through)} (confidence {advised.confidence:.0%})")
    table = sweep.sweep_freeze(data, SWEEP, train=TRAIN, runs_dir=runs_dir, progress=part("sweep"))
    check = check_advice(advised, table)
    save_check(check, table.path)
    written = pages.report_on(table.path, runs_dir, progress=part("report"))
    return {"sweep": table, "check": check, "report": written, "seconds": time.monotonic() - start}


def _explain(run: Any, data: Any, runs_dir: Path, report: Callable[[int, int, str], None]) -> None:
    """Grad-CAM of some test images, and LIME of one."""
    for step, (method, count) in enumerate((("gradcam", 8), ("lime", 1))):
        out = runs_dir / ("explain" if method == "gradcam" else "explain-lime")
        if (out / "explain.json").is_file():
            continue
        report(step, 2, method)
        test = data.indices("test")
        made = explain_images(
            run, data.paths(test[:: max(len(test) // count, 1)][:count]), method=method, num_samples=500
        )
        about = {"method": method, "rule": "gradcam", "model": str(run.path), "class_names": list(data.class_names)}
        with ExplanationWriter(out, about) as writer:
            writer.add(made)
            writer.close()
