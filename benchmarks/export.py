"""Exported files against their run, and how fast they run: python benchmarks/export.py RUN [--rounds 7] [--out CSV]

Part (a) writes the run as ONNX and OpenVINO files with heatmaps, compares them with the run on its test images (the proof of
`xt.export_run`), and notes the sizes of the files. Part (b) is the load of LIME: many images of the run's size in float32, by
TensorFlow, by ncnn (what LIME, scores and predict use today, if it is installed), by ONNX Runtime and by OpenVINO, with as many
threads each as there are cores. In each round the engines run one after the other on the same images, in an order that
changes; wall-clock and processor seconds per image are noted, and ratios are taken within a round, since other work may run on
the machine. Writes the CSV and prints Markdown tables.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import xaitune as xt
from xaitune._files import write_csv
from xaitune._machine import processor_name, usable_threads
from xaitune.explain.classifier import Classifier
from xaitune.models import ncnn
from xaitune.models.predict import Predictor

REFERENCE = "ncnn"
Logits = Callable[[np.ndarray], np.ndarray]
ROWS: list[dict[str, object]] = []


def record(part: str, what: str, engine: str, values: object, unit: str) -> None:
    """Keep the median of some values with the lowest and the highest."""
    numbers = np.atleast_1d(np.asarray(values, float))
    figures = {"median": np.median(numbers), "lowest": numbers.min(), "highest": numbers.max(), "repeats": len(numbers)}
    ROWS.append({"part": part, "what": what, "engine": engine, "unit": unit, **figures})


def exported(run: xt.Run, folder: Path, images: list[Path]) -> dict[str, Logits]:
    """Part (a); engine -> what computes logits."""
    engines: dict[str, Logits] = {}
    for engine, form, suffix in (("ONNX Runtime", "onnx", ".onnx"), ("OpenVINO", "openvino", ".xml")):
        start = time.monotonic()
        made = xt.export_run(run, form, path=folder / f"model{suffix}", with_heatmap=True, images=images)
        print(f"{engine}: {made.sentence()} {made.size / 2**20:.1f} MiB, {time.monotonic() - start:.0f} s", flush=True)
        for name, difference in made.proof["largest_difference"].items():
            share = "" if name == "probabilities" else "of the largest value"
            record("a", f"largest difference of {name}", engine, difference, share)
        record("a", "images with the same class", engine, made.proof["same_class"], f"of {made.proof['images']}")
        record("a", "size of the file", engine, made.size / 2**20, "MiB")
        model = xt.open_exported(made.path)
        engines[engine] = lambda batch, model=model: model(batch)["logits"]  # type: ignore[misc]
    return engines


def speed(engines: dict[str, Logits], images: np.ndarray, rounds: int) -> None:
    """Part (b)."""
    logits = {name: forward(images) for name, forward in engines.items()}  # the first call compiles
    largest = np.abs(logits["TensorFlow"]).max()
    for name, values in logits.items():
        difference = np.abs(values - logits["TensorFlow"]).max() / largest
        record("b", "largest difference of logits from TensorFlow's", name, difference, "of the largest value")
    wall: dict[str, list[float]] = {name: [] for name in engines}
    used: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds):
        names = list(engines)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before = time.perf_counter(), time.process_time()
            engines[name](images)
            wall[name].append((time.perf_counter() - before[0]) / len(images))
            used[name].append((time.process_time() - before[1]) / len(images))
        print(number, {name: round(1 / values[-1], 2) for name, values in wall.items()}, "images/s", flush=True)
    reference = REFERENCE if REFERENCE in engines else "TensorFlow"
    for name in engines:
        seconds, cpu = np.array(wall[name]), np.array(used[name])
        record("b", "images per second", name, 1 / seconds, "1/s")
        record("b", "processor seconds per image", name, cpu, "s")
        if name != reference:
            record("b", f"speed / {reference}'s, by the clock", name, np.array(wall[reference]) / seconds, "times")
            record("b", f"speed / {reference}'s, by processor time", name, np.array(used[reference]) / cpu, "times")


def tables() -> None:
    """Print a Markdown table for each part: what is measured (rows) by engine."""
    table = pd.DataFrame(ROWS)
    table["figure"] = [
        f"{row.median:.3g}" + (f" [{row.lowest:.3g}, {row.highest:.3g}]" if row.repeats > 1 else "")
        for row in table.itertuples()
    ]
    for _, part in table.groupby("part"):
        engines = list(dict.fromkeys(part["engine"]))
        shown = part.pivot_table(index=["what", "unit"], columns="engine", values="figure", aggfunc="first", sort=False)
        print(f"\n| | {' | '.join(engines)} |\n|" + " --- |" * (len(engines) + 1))
        for (what, unit), row in shown[engines].fillna("").iterrows():
            print(f"| {what} ({unit}) | {' | '.join(row)} |" if unit else f"| {what} | {' | '.join(row)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=100, help="test images of part (a)")
    parser.add_argument("--load", type=int, default=64, help="images of a round of part (b)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    run = xt.load_run(arguments.run)
    root = Path(run.data_config.path)
    tests = [root / file for file in run.predictions.loc[run.predictions["split"] == "test", "file"]]
    paths = [tests[i] for i in np.random.default_rng(0).permutation(len(tests))[: arguments.images]]
    classifier: Classifier = xt.open_classifier(run)
    machine = f"{processor_name()}, {usable_threads()} threads"
    print(machine, classifier.image_size, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Logits] = {"TensorFlow": Predictor(classifier.model)}
        fast = ncnn.forward(classifier.model)
        engines |= {"ncnn": fast} if fast else {}
        engines |= exported(run, Path(folder), paths)
        repeated = (paths * (arguments.load // len(paths) + 1))[: arguments.load]
        speed(engines, classifier.read_paths(repeated).astype(np.float32), arguments.rounds)
    tables()
    if arguments.out:
        write_csv(arguments.out, pd.DataFrame(ROWS).assign(machine=machine).round(9))


if __name__ == "__main__":
    main()
