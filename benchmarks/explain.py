"""Explanations compared with the packages that users know, in one process, as ratios.

    python benchmarks/explain.py IMAGES --weights vgg16_imagenet_notop.h5 [--groups groups.csv] [--out results.csv]

VGG16 at 224 px with a head trained on IMAGES (class folders), for 32 of its test images:
(a) maps of all five blocks compared with tf-keras-vis, and with pytorch-grad-cam if torch is installed, called once per block;
(b) the same compared with one forward pass;
(c) LIME compared with the lime package and its 1,000 samples: time, and agreement between independent draws;
(d) resident memory while 2,000 images are explained and drawn.

Needs tf-keras-vis and lime; pytorch-grad-cam and ncnn (xaitune[fast]) are used if they are installed. The tools run one
after the other in each repeat, and ratios are taken within a repeat. Prints the median, lowest and highest of the repeats.
"""

import argparse
import contextlib
import gc
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from scipy.special import softmax

import xaitune as xt
from xaitune.advise.evidence import choose_images
from xaitune.config.explain_settings import ExplainOptions
from xaitune.explain.api import make_explainer
from xaitune.explain.classifier import Classifier, open_classifier
from xaitune.explain.lime.explain import lime_superpixels
from xaitune.explain.lime.fit import fit_package, jaccard, spearman
from xaitune.explain.lime.masks import package_masks
from xaitune.explain.lime.predict import predict_masked
from xaitune.explain.lime.segments import segment
from xaitune.explain.probabilities import Probabilities
from xaitune.models import ncnn
from xaitune.models.blocks import convolutions
from xaitune.models.precision import describe, resolve_precision, with_precision
from xaitune.models.predict import Predictor

SIZE, PEER_BATCH = (224, 224), 8
TORCH_IMAGES = 8  # torch is the slowest tool, so it gets fewer images and its time is scaled to all of them
SEEDS = 2  # independent draws of the lime package's masks for each image
# Draws of xaitune's masks: more, since the Jaccard index of one pair takes few values (mostly 0.43, 0.67 and 1).
OWN_SEEDS = range(100, 104)
MAX_SAMPLES = 1000  # samples that xaitune may take: its default
ROWS: list[dict[str, Any]] = []


def record(part: str, what: str, values: Any, unit: str) -> None:
    """Print the median, lowest and highest value, and add them to ROWS."""
    values = np.atleast_1d(np.asarray(values, float))
    middle, low, high = np.median(values), values.min(), values.max()
    print(f"({part}) {what}: {middle:.3g} [{low:.3g}, {high:.3g}] {unit} over {len(values)}", flush=True)
    ROWS.append(
        {"part": part, "what": what, "median": middle, "low": low, "high": high, "n": len(values), "unit": unit}
    )


def machine() -> str:
    """Processor, cores, the precision that 'auto' chooses, and versions."""
    about = describe(resolve_precision()[0])
    versions = {**about["versions"]}
    for name in ("tf-keras-vis", "grad-cam", "torch", "lime", "ncnn"):
        with contextlib.suppress(Exception):
            from importlib.metadata import version

            versions[name] = version(name)
    listed = ", ".join(f"{k} {v}" for k, v in versions.items())
    return f"{about['processor']}, {about['cores']} cores, auto = {about['precision']}; {listed}"


def timed(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float]:
    """(result, wall seconds) of one call."""
    gc.collect()
    start = time.perf_counter()
    result = function(*args, **options)
    return result, time.perf_counter() - start


# ---- the model and the images


def trained(args: argparse.Namespace, work: Path) -> tuple[Classifier, np.ndarray]:
    """VGG16 at 224 px with a trained head, and test images (uint8)."""
    data = xt.ImageData.from_folder(args.images_dir, groups=args.groups, image_size=SIZE)
    run = xt.train_model(data, weights=args.weights, freeze_through=5, name="head", runs_dir=work)
    print(f"head: test macro F1 {run.score('test'):.3f} over {len(data.indices('test'))} images", flush=True)
    rows = choose_images(data, data.indices("test"), args.images)
    rows = np.random.default_rng(0).permutation(rows)  # so that the first few show different classes
    return open_classifier(run), data.load(rows)


# ---- (a), (b) five blocks


class KerasVis:
    """Grad-CAM by tf-keras-vis, called once per block, without enlarging the maps."""

    def __init__(self, classifier: Classifier) -> None:
        from tf_keras_vis.gradcam import Gradcam

        self.gradcam = Gradcam(classifier.model, clone=True)

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
        from tf_keras_vis.utils.scores import CategoricalScore

        batches = [slice(i, i + PEER_BATCH) for i in range(0, len(images), PEER_BATCH)]
        maps = []
        for names in convolutions().values():
            options = {"penultimate_layer": names[-1], "expand_cam": False, "normalize_cam": False}
            scores = [CategoricalScore([int(c) for c in classes[batch]]) for batch in batches]
            parts = [self.gradcam(s, images[batch], **options) for s, batch in zip(scores, batches, strict=True)]
            maps.append(np.concatenate(parts))
        return maps


class TorchCam:
    """Grad-CAM by pytorch-grad-cam, called once per block, on the same network in torch."""

    def __init__(self, classifier: Classifier) -> None:
        import pytorch_grad_cam  # noqa: F401 - raises ImportError before any work is done
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        layers: list[Any] = []
        self.last_layers = []  # of Block 1 to 5
        for block, names in convolutions().items():
            for name in names:
                kernel, bias = classifier.model.get_layer(name).get_weights()
                conv = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
                conv.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
                conv.bias.data = torch.from_numpy(bias)
                layers += [conv, torch.nn.ReLU()]
            self.last_layers.append(layers[-1])
            if block < 5:
                layers.append(torch.nn.MaxPool2d(2))
        kernel, bias = classifier.model.get_layer("logits").get_weights()
        dense = torch.nn.Linear(*kernel.shape)
        dense.weight.data, dense.bias.data = torch.from_numpy(kernel.T.copy()), torch.from_numpy(bias)
        model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), dense).eval()
        self.model = model.to(memory_format=torch.channels_last)
        preprocess = classifier.model.get_layer("preprocess").get_config()
        self.scale, self.offset = np.float32(preprocess["scale"]), np.asarray(preprocess["offset"], np.float32)

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
        import torch
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        inputs = torch.from_numpy((images * self.scale + self.offset).transpose(0, 3, 1, 2).copy())
        maps = []
        for layer in self.last_layers:
            with GradCAM(model=self.model, target_layers=[layer]) as gradcam:
                for i in range(0, len(images), PEER_BATCH):
                    targets = [ClassifierOutputTarget(int(c)) for c in classes[i : i + PEER_BATCH]]
                    maps.append(gradcam(input_tensor=inputs[i : i + PEER_BATCH], targets=targets))
        return maps


def five_blocks(classifier: Classifier, images: np.ndarray, repeats: int) -> None:
    """Parts (a) and (b)."""
    images = images.astype(np.float32)
    auto = resolve_precision()[0]
    classes = Probabilities(classifier)(images).argmax(axis=1)
    peers: dict[str, Callable[[np.ndarray, np.ndarray], list[np.ndarray]]] = {"tf-keras-vis": KerasVis(classifier)}
    with contextlib.suppress(ImportError):
        peers["pytorch-grad-cam"] = TorchCam(classifier)
    precisions = list(dict.fromkeys(["float32", auto]))
    models = {p: classifier.model if p == "float32" else with_precision(classifier.model, p) for p in precisions}
    forward = {p: Predictor(model) for p, model in models.items()}
    names = tuple(map(str, range(len(images))))
    # Created once, like the objects of the other packages.
    explainers = {p: make_explainer(classifier, ExplainOptions(precision=p)) for p in precisions}
    own, theirs = explainers["float32"](images[:8], names[:8]), peers["tf-keras-vis"](images[:8], classes[:8])
    differences = [
        np.abs(np.maximum(own.raw[b], 0) - t).max() / max(np.abs(t).max(), 1e-12)
        for b, t in zip(own.blocks, theirs, strict=True)
    ]
    record("a", "largest difference from tf-keras-vis over a block's maximum, Block 1 to 5", differences, "relative")
    times: dict[str, list[float]] = {}
    for repeat in range(-1, repeats):  # the first compiles and is not counted
        for p in precisions:
            times.setdefault(f"forward {p}", []).append(timed(forward[p], images)[1])
            times.setdefault(f"maps {p}", []).append(timed(explainers[p], images, names)[1])
        for name, tool in peers.items():
            few = slice(None if name == "tf-keras-vis" else TORCH_IMAGES)
            took = timed(tool, images[few], classes[few])[1] if repeat >= 0 else np.nan
            times.setdefault(name, []).append(took * len(images) / len(images[few]))
    times = {name: values[1:] for name, values in times.items()}
    for name, values in times.items():
        record("a", f"{name}, {len(images)} images", np.array(values) / len(images) * 1000, "ms per image")
    for precision in precisions:
        maps = np.array(times[f"maps {precision}"])
        for name in peers:
            record("a", f"{name} / xaitune {precision}", np.array(times[name]) / maps, "times")
        record(
            "b", f"five blocks / one forward pass, {precision}", maps / np.array(times[f"forward {precision}"]), "times"
        )


# ---- (c) LIME


def package(predict: Any, image: np.ndarray, seed: int, samples: int, explained: int) -> np.ndarray:
    """The lime package's weights for one class, computed by its own loop."""
    from lime.lime_image import LimeImageExplainer

    with contextlib.redirect_stderr(io.StringIO()):  # hides its progress bar
        explanation = LimeImageExplainer(random_state=seed).explain_instance(
            image, predict, labels=(explained,), top_labels=None, num_samples=samples
        )
    weights = np.zeros(explanation.segments.max() + 1)
    for superpixel, weight in explanation.local_exp[explained]:
        weights[superpixel] = weight
    return weights


def agreement(weights: list[np.ndarray]) -> tuple[float, float]:
    """Mean Spearman and top-5 Jaccard over all pairs of independent draws."""
    first, second = np.triu_indices(len(weights), 1)
    stacked = np.stack(weights)
    return spearman(stacked[first], stacked[second]), jaccard(stacked[first], stacked[second])


def lime_part(classifier: Classifier, images: np.ndarray, minutes: float, samples: int) -> pd.DataFrame:
    """Part (c): one row per image."""
    auto = resolve_precision()[0]
    precisions = list(dict.fromkeys(["float32", auto]))
    predict, quick = KerasProbabilities(classifier), Probabilities(classifier, "float32")
    predict(images[:10].astype(np.float32))  # the first call compiles
    start, rows = time.perf_counter(), []
    for image in images:
        spent = (time.perf_counter() - start) / 60
        if len(rows) >= 4 and spent + spent / len(rows) > minutes:
            break
        explained = int(quick(image[None].astype(np.float32))[0].argmax())
        row, drawn = package_row(predict, quick, image, explained, samples)
        for precision in precisions:
            without_ncnn = precision == "float32" and len(rows) < 2
            row |= own_row(classifier, image, explained, precision, pooled(drawn, explained), without_ncnn)
        equal = int(min(row["xaitune float32 samples"], samples))
        fits = [fit_package(m[:equal], t[:equal], 0).weights[explained] for m, t in drawn]
        row["lime at equal calls Spearman"], row["lime at equal calls Jaccard"] = agreement(fits)
        rows.append({"image": len(rows), "class": classifier.class_names[explained], **row})
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    table = pd.DataFrame(rows)
    for column in [c for c in table if c.split()[-1] in ("Spearman", "Jaccard", "samples", "R2", "s")]:
        values = table[column].dropna()
        record("c", f"{column} (mean over {len(values)} images: {values.mean():.3f})", values, "")
    for column in [c for c in table if c.startswith("xaitune") and c.endswith(" s")]:
        known = table[column].notna()
        record("c", f"lime / {column.removesuffix(' s')}", (table["lime s"] / table[column])[known], "times")
        total = table["lime s"][known].sum() / table[column][known].sum()
        record("c", f"lime / {column.removesuffix(' s')}, all images together", total, "times")
    return table


def package_row(
    predict: Any, quick: Any, image: np.ndarray, explained: int, samples: int
) -> tuple[dict[str, Any], list[tuple[np.ndarray, np.ndarray]]]:
    """Time and agreement of the lime package, and the samples of its SEEDS draws.

    The first draw is the package's own run, which is timed; the others use the faster of two equivalent ways to predict.
    """
    answers: list[np.ndarray] = []

    def recorded_predict(batch: np.ndarray) -> np.ndarray:
        answers.append(predict(batch))
        return answers[-1]

    weights, took = timed(package, recorded_predict, image, 0, samples, explained)
    labels = segment(image, bounded=False)
    masks = [package_masks(int(labels.max()) + 1, samples, seed) for seed in range(SEEDS)]
    drawn = [(masks[0], np.concatenate(answers)[-samples:])]
    drawn += [(m, predict_masked(quick, image, labels, m, exact=True)) for m in masks[1:]]
    fits = [fit_package(m, t, 0).weights[explained] for m, t in drawn]
    difference = np.abs(fits[0] - weights).max()
    if difference > 1e-4:
        raise SystemExit(
            f"The same samples must give the lime package's weights, but these differ by {difference:.1e}."
        )
    close, top = agreement(fits)
    row = {"superpixels": len(weights), "lime samples": samples, "lime s": took}
    row |= {"lime Spearman": close, "lime Jaccard": top}
    others = [pooled(drawn[:i] + drawn[i + 1 :], explained) for i in range(SEEDS)]  # no draw is compared with itself
    row["lime with the limit Spearman"] = spearman(np.stack(fits), np.stack(others))
    return row, drawn


def pooled(drawn: list[tuple[np.ndarray, np.ndarray]], explained: int) -> np.ndarray:
    """LIME's weights from several draws together: the best known estimate of its limit for infinitely many samples."""
    masks, targets = (np.concatenate(part) for part in zip(*drawn, strict=True))
    return fit_package(masks, targets, 0).weights[explained]


def own_row(
    classifier: Classifier, image: np.ndarray, explained: int, precision: str, limit: np.ndarray, without_ncnn: bool
) -> dict[str, Any]:
    """Time (median of the draws, with segmentation) and agreement of xaitune's draws, with each other and the limit.

    `without_ncnn`: also time one draw without ncnn.
    """
    options = {"class_name": classifier.class_names[explained], "precision": precision, "num_samples": MAX_SAMPLES}
    lime_superpixels(classifier, image[None], **(options | {"num_samples": 64}))  # the first call compiles
    runs = [timed(lime_superpixels, classifier, image[None], seed=seed, **options) for seed in OWN_SEEDS]
    results, key = [result for result, _ in runs], f"xaitune {precision}"
    close, top = agreement([r.weights[0] for r in results])
    keras_time = {}
    if without_ncnn and ncnn.library():
        with mock.patch.dict(os.environ, {ncnn.SWITCH: "0"}):
            lime_superpixels(classifier, image[None], **(options | {"num_samples": 64}))
            took = timed(lime_superpixels, classifier, image[None], seed=0, **options)[1]
            keras_time[f"{key} by Keras alone s"] = took
    return keras_time | {
        f"{key} s": float(np.median([took for _, took in runs])),
        f"{key} samples": float(np.mean([r.samples[0] for r in results])),
        f"{key} Spearman": close,
        f"{key} Jaccard": top,
        f"{key} with the limit Spearman": float(np.mean([spearman(r.weights[0][None], limit[None]) for r in results])),
        f"{key} foretold Spearman": float(np.mean([r.stability[0, 0] for r in results])),
        f"{key} foretold Jaccard": float(np.mean([r.stability[0, 1] for r in results])),
        f"{key} R2": float(results[0].score[0]),
    }


class KerasProbabilities:
    """Softmax probabilities in float32 by Keras alone, as a user of the lime package would compute them."""

    def __init__(self, classifier: Classifier) -> None:
        self.logits = Predictor(classifier.model)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return softmax(self.logits(np.asarray(images, np.float32)).astype(np.float64), axis=1)


# ---- (d) memory

MEMORY = """
import os, sys
from pathlib import Path
from xaitune.explain.api import CHUNK, iter_explanations, make_explainer
from xaitune.explain.classifier import open_classifier
from xaitune.explain.store import ExplanationWriter
from xaitune.models.vgg import build_vgg16
classifier = open_classifier(build_vgg16(6, image_size=(64, 64), weights=sys.argv[1]))
paths = sorted(p for p in Path(sys.argv[2]).rglob("*") if p.suffix in (".jpg", ".png"))
paths = (paths * 2000)[:2000]
explainer = make_explainer(classifier)

def resident():  # MiB
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20

with ExplanationWriter(Path(sys.argv[3]), {"method": "gradcam", "rule": "gradcam"}) as writer:
    for i, explanation in enumerate(iter_explanations(classifier, paths, explainer), 1):
        writer.add(explanation)
        if i % 6 == 0:
            print(min(i * CHUNK, 2000), resident(), flush=True)
    writer.close()
print(2000, resident())
"""


def memory(args: argparse.Namespace) -> None:
    """Part (d), in a separate process, at 64 px with five blocks, including the drawings."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", MEMORY, args.weights, args.images_dir, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The memory part failed:\n{done.stderr[-2000:]}")
    figures = pd.read_csv(io.StringIO(done.stdout), sep=" ", names=["images", "mb"])
    print(figures.to_string(index=False))
    after = figures[figures["images"] >= 380]["mb"].to_numpy()
    record("d", "resident memory, images 384 to 2000", after, "MiB")
    record("d", "resident memory after 2000 images / after 384", after[-1] / after[0], "times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images_dir", metavar="IMAGES", help="folder with class folders")
    parser.add_argument("--weights", required=True, help="VGG16 without its head (.h5)")
    parser.add_argument("--groups", help="CSV file,group: images of the same thing stay in one split")
    parser.add_argument("--images", type=int, default=32, help="test images to explain")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of parts (a) and (b)")
    parser.add_argument("--lime-samples", type=int, default=1000, help="samples of the lime package")
    parser.add_argument(
        "--minutes", type=float, default=30, help="time limit of part (c), which does at least 4 images"
    )
    parser.add_argument("--parts", default="abcd", help="letters of the parts to run")
    parser.add_argument("--work", help="folder for the run with the trained head, which is then reused")
    parser.add_argument("--out", help="CSV file for all figures")
    args = parser.parse_args()
    print(machine(), flush=True)
    work = Path(args.work or tempfile.mkdtemp())
    if set(args.parts) & set("abc"):
        classifier, images = trained(args, work)
    if set(args.parts) & set("ab"):
        five_blocks(classifier, images, args.repeats)
    if "c" in args.parts:
        table = lime_part(classifier, images, args.minutes, args.lime_samples)
        if args.out:
            table.to_csv(Path(args.out).with_name(Path(args.out).stem + "-lime.csv"), index=False, float_format="%.4g")
    if "d" in args.parts:
        memory(args)
    if args.out:
        table = pd.DataFrame(ROWS)
        table["machine"] = machine()
        table.to_csv(args.out, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
