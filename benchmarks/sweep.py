"""A freeze sweep of 15 runs compared with the plain Keras loop that one would write by hand, in one call, as ratios.

    python benchmarks/sweep.py IMAGES --groups groups.csv --weights vgg16_imagenet_notop.h5 [--minutes 25] [--out CSV]

Both train with Block 1..k frozen for k = 1..5 with SGD, momentum and NAG: first the head alone, then the rest, for the
same epochs on the same images at 96x96. The plain loop runs in float32 in one process and computes the frozen layers again
in each epoch; xaitune runs in float32 and in the precision that --precision auto chooses. The plain loop has TensorFlow's
own settings, while xaitune switches oneDNN on, which TensorFlow leaves off on processors without AVX512; --plain-onednn
shows what that alone gives. The number of images that fit the time is estimated from the rate of timed matrix products, and
printed. The floor is the time of the multiply-adds alone, at the rate of a large matrix product in the same precision. The
fixed cost of a run is what it takes beside the multiply-adds: the same 15 runs once more on the same images at FIXED_SIZE
with a single epoch, from the first run's beginning to the last one's end, less the floor of that, divided by 15.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

if "--part" in sys.argv and sys.argv[sys.argv.index("--part") + 1].startswith("plain"):
    import keras  # noqa: F401 - before xaitune, which switches oneDNN on: TensorFlow as a plain script has it

from xaitune.data.dataset import ImageData
from xaitune.data.splits import SPLITS
from xaitune.models import vgg
from xaitune.models.blocks import freeze_blocks, multiply_adds
from xaitune.models.precision import processor_name, resolve_precision
from xaitune.stats.intervals import bootstrap_interval

SIZE, FIXED_SIZE = (96, 96), (32, 32)
DEPTHS, OPTIMIZERS = (5, 4, 3, 2, 1), ("sgd", "momentum", "nag")
HEAD_EPOCHS, EPOCHS, BATCH = 1, 3, 32
MIN_GROUPS = 4  # of each class; a split needs 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", metavar="IMAGES", help="folder with class folders")
    parser.add_argument("--weights", required=True, help="VGG16 without its head (.h5)")
    parser.add_argument("--groups", help="CSV file,group: images of the same thing stay in one split")
    parser.add_argument("--minutes", type=float, default=25, help="time to fill")
    parser.add_argument("--plain-onednn", action="store_true", help="time the plain loop with oneDNN switched on too")
    parser.add_argument("--out", help="CSV file for all figures")
    parser.add_argument(
        "--part", help=argparse.SUPPRESS
    )  # what a separate process does: 'plain', 'rates' or a precision
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        return run_part(args)
    with tempfile.TemporaryDirectory() as name:
        compare(args, Path(name))


def compare(args: argparse.Namespace, folder: Path) -> None:
    """Run all parts, each in a separate process, and print the table."""
    rates = child(args, "rates", folder)
    count = images_for(args.minutes * 60, rates)
    data = subset(args, folder, count)
    sizes = {split: len(data.indices(split)) for split in SPLITS}
    print(f"{len(data)} images at {SIZE[0]}x{SIZE[1]} ({sizes}), {HEAD_EPOCHS} + {EPOCHS} epochs, batches of {BATCH}")
    names = list(dict.fromkeys([rates["auto"], "float32", *(["plain onednn"] if args.plain_onednn else []), "plain"]))
    results = {name: child(args, name, folder) for name in names}
    results = {name: results[name] for name in reversed(names)}
    plain = results["plain"]
    rows = []
    for name, result in results.items():
        seconds = result["wall"]
        is_plain = name.startswith("plain")
        floor = least_seconds(sizes, rates[f"rate {'float32' if is_plain else name}"])
        row = {"what": f"{name.replace('plain', 'plain Keras loop')}, float32" if is_plain else f"xaitune, {name}"}
        row |= {"wall s": seconds}
        row |= {"plain / this": plain["wall"] / seconds, "floor s": floor, "this / floor": seconds / floor}
        if not is_plain:
            fixed = child(args, f"fixed {name}", folder)
            few = macs(*sizes.values(), size=FIXED_SIZE, epochs=1)[0] / rates[f"rate {name}"]
            row |= {"fixed cost of a run, s": (fixed["elapsed"] - few) / len(fixed["cells"])}
        row |= {"epoch of Block 1-5, s": result["epoch"], "plain epoch / this": plain["epoch"] / result["epoch"]}
        row |= {"peak memory, MiB": result["peak"]}
        scores = [cell["f1"] for cell in result["cells"]]
        row |= {"mean test macro F1": np.mean(scores), "lowest": np.min(scores), "highest": np.max(scores)}
        rows.append(row)
    table = pd.DataFrame(rows)
    print(table.set_index("what").T.to_string(float_format=lambda v: f"{v:.3g}"))
    cells = pd.DataFrame([{"what": name} | cell for name, result in results.items() for cell in result["cells"]])
    cells["shown"] = [f"{r.f1:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in cells.itertuples()]
    print("test macro F1 with 95 % intervals over groups")
    print(cells.pivot_table(index=["freeze", "optimizer"], columns="what", values="shown", aggfunc="first").to_string())
    if args.out:
        about = {"processor": rates["processor"], "cores": os.cpu_count(), "images": len(data), **sizes}
        table.assign(**about, epochs=f"{HEAD_EPOCHS}+{EPOCHS}").to_csv(args.out, index=False, float_format="%.5g")
        cells.drop(columns="shown").to_csv(
            Path(args.out).with_name(Path(args.out).stem + "-cells.csv"), index=False, float_format="%.5g"
        )


def child(args: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """The result of a part, with its wall seconds and the peak memory of its largest process (MiB)."""
    command = [sys.executable, "-P", __file__, args.images, "--weights", args.weights, "--part", name]
    start = time.perf_counter()
    environment = os.environ | ({"TF_ENABLE_ONEDNN_OPTS": "1"} if name.endswith("onednn") else {})
    process = subprocess.Popen([*command, "--folder", str(folder)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if status or not lines:
        raise SystemExit(f"Part {name} failed.")
    print(f"{name}: {wall:.0f} s", flush=True)
    return {"wall": wall, "peak": usage.ru_maxrss >> 10, **json.loads(lines[-1])}


def macs(
    train: int, validation: int, test: int, size: tuple[int, int] = SIZE, epochs: int = EPOCHS
) -> tuple[float, float]:
    """Multiply-adds of all trainings: with every frozen prefix computed once, and with prefixes computed each time."""
    blocks = multiply_adds(size)
    whole = sum(blocks.values())
    everything = train + validation + test
    once, anew = whole * everything, 0.0
    for depth in DEPTHS:
        rest = sum(value for block, value in blocks.items() if block > depth)
        # Forward, backward to the inputs and to the weights; then all images once for the predictions.
        steps = epochs * (3 * train + validation) + everything
        once += len(OPTIMIZERS) * rest * steps
        frozen = whole - rest
        anew += len(OPTIMIZERS) * (rest * steps + frozen * (epochs * (train + validation) + everything))
        anew += len(OPTIMIZERS) * whole * HEAD_EPOCHS * (train + validation)
    return once, anew


def least_seconds(sizes: dict[str, int], rate: float) -> float:
    """The floor: the multiply-adds with nothing computed twice, divided by the rate."""
    return macs(*sizes.values())[0] / rate


def images_for(seconds: float, rates: dict[str, Any]) -> int:
    """How many images fit the time, for the plain loop and both sweeps at about half the matrix rate; a multiple of 20."""
    once, anew = macs(60, 20, 20)
    per_100 = anew / rates["rate float32"] + once / rates["rate float32"] + once / rates[f"rate {rates['auto']}"]
    return int(np.clip(0.6 * (seconds - 90) / per_100 * 100 // 20 * 20, 100, 5000))


def subset(args: argparse.Namespace, folder: Path, count: int) -> ImageData:
    """Data of whole groups with about `count` images, with at least MIN_GROUPS groups of each class; writes its CSV."""
    data = ImageData.from_folder(args.images, groups=args.groups, image_size=SIZE)
    table = pd.DataFrame({"group": data.groups, "label": data.labels})
    drawn = (
        table.groupby("group").agg(label=("label", "first"), images=("label", "size")).sample(frac=1, random_state=0)
    )
    drawn["extra"] = drawn.groupby("label").cumcount() >= MIN_GROUPS
    drawn = drawn.sort_values("extra", kind="stable")
    enough = int(np.searchsorted(drawn["images"].cumsum(), min(count, len(data)))) + 1
    rows = np.flatnonzero(np.isin(data.groups, drawn.index[:enough]))
    columns = {"file": [str(p) for p in data.paths(rows)], "label": np.array(data.class_names)[data.labels[rows]]}
    pd.DataFrame({**columns, "group": data.groups[rows]}).to_csv(folder / "images.csv", index=False)
    return ImageData.from_csv(folder / "images.csv", image_size=SIZE)


# ---- what runs in a separate process


def run_part(args: argparse.Namespace) -> None:
    """Run one part and print its result as the last line on stdout."""
    folder = Path(args.folder)
    if args.part == "rates":
        result = measured_rates()
    elif args.part.startswith("plain"):
        result = plain_loop(ImageData.from_csv(folder / "images.csv", image_size=SIZE), args.weights)
    elif args.part.startswith("fixed"):
        data = ImageData.from_csv(folder / "images.csv", image_size=FIXED_SIZE)
        result = own_sweep(data, args, folder, epochs=1)
    else:
        result = own_sweep(ImageData.from_csv(folder / "images.csv", image_size=SIZE), args, folder)
    print(json.dumps(result))


def measured_rates() -> dict[str, Any]:
    """Multiply-adds per second of large matrix products, by precision."""
    from xaitune.models.backend import keras

    auto = resolve_precision()[0]
    rates: dict[str, Any] = {"auto": auto, "processor": processor_name()}
    for precision in dict.fromkeys(["float32", auto]):
        a = keras.ops.cast(keras.random.normal((2048, 2048)), precision)
        seconds = []
        for _ in range(12):
            start = time.perf_counter()
            float(keras.ops.cast(keras.ops.matmul(a, a)[0, 0], "float32"))
            seconds.append(time.perf_counter() - start)
        rates[f"rate {precision}"] = 2048**3 / float(np.median(seconds[2:]))
    return rates


def own_sweep(data: ImageData, args: argparse.Namespace, folder: Path, epochs: int = EPOCHS) -> dict[str, Any]:
    """xaitune's sweep in the precision that `args.part` ends with."""
    from xaitune.comparison.sweep import sweep_freeze
    from xaitune.config.settings import SweepConfig, TrainConfig
    from xaitune.training.run import load_run

    options: dict[str, Any] = {"head_epochs": HEAD_EPOCHS, "epochs": epochs, "patience": epochs, "batch_size": BATCH}
    train = TrainConfig(weights=args.weights, precision=args.part.split()[-1], **options)
    config = SweepConfig(freeze_through=DEPTHS, optimizers=OPTIMIZERS, seeds=1, learning_rates="own")
    sweep_freeze(data, config, train=train, runs_dir=folder / args.part)
    folders = sorted(path.parent for path in (folder / args.part / "sweep").glob("freeze*/result.json"))
    begun = [(path / "config.json").stat().st_mtime for path in folders]
    elapsed = max((path / "result.json").stat().st_mtime for path in folders) - min(begun)
    runs = [load_run(path) for path in folders]
    cells, times = [], []
    for run in runs:
        test = run.predictions[run.predictions["split"] == "test"]
        true, predicted = (test[c].map(run.class_names.index).to_numpy() for c in ("true", "predicted"))
        cells.append(scored(run.config.freeze_through, run.config.optimizer, true, predicted, test["group"].to_numpy()))
        if run.config.freeze_through == 5:
            times += list(run.history.query("stage == 'fine-tune'")["seconds"])
    return {"cells": cells, "epoch": float(np.median(times)), "elapsed": elapsed}


def scored(freeze: int, optimizer: str, true: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """One cell's test macro F1 with its interval, and accuracy."""
    f1 = bootstrap_interval(true, predicted, groups)
    accuracy = float((true == predicted).mean())
    return {
        "freeze": freeze, "optimizer": optimizer, "f1": f1.value, "low": f1.low, "high": f1.high,
        "accuracy": accuracy,
    }  # fmt: skip


def plain_loop(data: ImageData, weights: str) -> dict[str, Any]:
    """What one would write by hand: for each depth and optimizer, build, freeze, compile, fit and predict."""
    from xaitune.config.choices import OPTIMIZERS as TABLE
    from xaitune.models.backend import keras

    images = data.load().astype(np.float32)
    train, validation, test = (data.indices(split) for split in SPLITS)
    cells, epochs = [], []
    for depth in DEPTHS:
        for name in OPTIMIZERS:
            keras.backend.clear_session()
            keras.utils.set_random_seed(0)
            model = vgg.build_vgg16(len(data.class_names), image_size=SIZE, weights=weights)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            kind, options, rate = TABLE[name]
            fit = {"batch_size": BATCH, "validation_data": (images[validation], data.labels[validation]), "verbose": 0}
            freeze_blocks(model, 5)
            model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=False)
            model.fit(images[train], data.labels[train], epochs=HEAD_EPOCHS, **fit)
            freeze_blocks(model, depth)
            optimizer = getattr(keras.optimizers, kind)(learning_rate=rate, global_clipnorm=3.0, **options)
            model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
            best = keras.callbacks.EarlyStopping("val_accuracy", patience=EPOCHS, restore_best_weights=True)
            clock = _Clock(keras)
            model.fit(images[train], data.labels[train], epochs=EPOCHS, callbacks=[best, clock.callback], **fit)
            if depth == 5:
                epochs += clock.seconds
            everything = model.predict(images, batch_size=64, verbose=0).argmax(axis=1)
            cells.append(scored(depth, name, data.labels[test], everything[test], data.groups[test]))
    return {"cells": cells, "epoch": float(np.median(epochs))}


class _Clock:
    """Measures the seconds of each epoch."""

    def __init__(self, keras: Any) -> None:
        self.seconds: list[float] = []
        self.start = 0.0
        self.callback = keras.callbacks.LambdaCallback(on_epoch_begin=self._begin, on_epoch_end=self._end)

    def _begin(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


if __name__ == "__main__":
    main()
