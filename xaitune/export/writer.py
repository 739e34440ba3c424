"""A run written as a file of another format, and proven against the run before it gets its name."""

import contextlib
import dataclasses
import html
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

import xaitune
from xaitune._files import disk_error, read_json, write_json
from xaitune._machine import now, processor_name
from xaitune._names import plural, short_file
from xaitune._progress import Progress, shown_progress
from xaitune.config.rules import require_choice
from xaitune.data.images import expand_images
from xaitune.errors import ConfigError, ImageError, RunError
from xaitune.explain.classifier import Classifier, Images, open_classifier
from xaitune.explain.provenance import file_digest
from xaitune.export.exported import open_exported
from xaitune.export.formats import ABOUT, FORMATS, KEY, PROOF, require_writable
from xaitune.export.outputs import RunOutputs, with_outputs
from xaitune.export.proof import as_json, compare_outputs
from xaitune.export.session import import_openvino
from xaitune.models.backend import BACKEND, full_precision, keras
from xaitune.training.folder import CONFIG
from xaitune.training.run import Run, load_run

MOST_IMAGES = 100  # of the run's own, in a proof
PACKAGES = ("xaitune", "keras", "tensorflow", "tensorflow-cpu", "onnx", "tf2onnx", "onnxruntime", "openvino", "numpy")


@dataclasses.dataclass(frozen=True, eq=False)
class Export:
    """A file that gives what a run gives.

    `path`: the file, or a SavedModel's folder. `format`: its name in `formats.FORMATS`. `proof`: what <name>.proof.json holds:
    images (how many were compared), same_class (how many of them get the same class), tolerance, largest_difference
    (output -> of probabilities as it is, of logits and heatmaps as a share of the run's largest value), versions, sha256.
    """

    path: Path
    format: str
    proof: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of the file, or of all files of the model."""
        return sum(file.stat().st_size for file in _model_files(self.path))

    def sentence(self) -> str:
        """What the proof found."""
        differences = self.proof["largest_difference"]
        listed = ", ".join(f"{name} {difference:.1g}" for name, difference in differences.items())
        count = self.proof["images"]
        return (
            f"The same class as the run on all {plural(count, 'image')}; largest differences (tolerance "
            f"{self.proof['tolerance']:g}): {listed}."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per output: its largest difference, and the tolerance."""
        differences = pd.Series(self.proof["largest_difference"], name="largest_difference")
        return differences.to_frame().assign(tolerance=self.proof["tolerance"]).rename_axis("output")

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(str(self.path))}</b> {html.escape(self.sentence())}</p>"


def export_run(
    run: Run | str | Path,
    to: str = "onnx",
    *,
    path: str | Path | None = None,
    with_heatmap: bool = False,
    overwrite: bool = False,
    images: Images = None,
    progress: Progress | None = None,
) -> Export:
    """Write a run in another file format, having compared the file with the run on images.

    `to`: onnx or openvino, which run without TensorFlow, savedmodel or keras. `path`: the file to write, by default
    export/<run's name> beside the run's folder. The file takes raw RGB 0..255 in batches of any size and gives probabilities
    and logits, `with_heatmap` (for the head gap) also the class activation map of every class; class names, image size and so
    on are in its metadata. `images`: files or folders to compare with, by default 100 of the run's test images. Unless every
    image gets the same class, and probabilities, logits and maps within 1e-4 (of the largest value), nothing is left behind,
    and RunError says how far off the file was. A file that exists is replaced without `overwrite` only if it was written from
    the same model and gives nothing that the new one lacks. Raises ConfigError for a missing package or a file that exists,
    ModelError for a head without such maps, ImageError.

    Examples:
        >>> export_run("runs/freeze3-nag-seed0", "onnx", with_heatmap=True).sentence()  # doctest: +SKIP
    """
    require_choice("to", to, FORMATS)
    require_writable(to, BACKEND)
    run = run if isinstance(run, Run) else load_run(run)
    target = _target(run, to, path)
    classifier = open_classifier(run)
    digest = file_digest(run.path / "model.keras")
    if not overwrite:
        _require_nothing_lost(target, digest, with_heatmap)
    model = with_outputs(classifier, with_heatmap)
    paths = _images_of(run) if images is None else expand_images(images)
    about = {
        "xaitune": xaitune.__version__,
        "run": run.path.resolve().name,
        "data": run.fingerprint,
        "trained_on": {"images": len(run.paths("train")), "of": short_file(run.data_config.path)},
        "task": "segment" if classifier.segmenter is not None else "classify",
        "class_names": list(classifier.class_names),
        "image_size": list(classifier.image_size),
        "resize": classifier.resize,
        "bit_depth": classifier.bit_depth,
        "outputs": list(model.output),
    }
    with _staging(target) as folder:
        staged = folder / target.name
        WRITERS[to](model, staged, about)
        proof = _proven(classifier, staged, target, about, paths, shown_progress(progress, "comparing"))
        proof |= {"file": target.name, "format": to, **{key: about[key] for key in ("run", "data")}, "model": digest}
        write_json(folder / (target.name + PROOF), proof)
        _move(folder, target)
    return Export(target, to, proof)


def _target(run: Run, to: str, path: str | Path | None) -> Path:
    """Where the file goes. Raises ConfigError for a place that would be wrong."""
    form = FORMATS[to]
    place = run.path if run.path.name not in ("", "..") else run.path.resolve()
    target = Path(path) if path is not None else place.parent / "export" / (place.name + form.suffix)
    if target.suffix.lower() != form.suffix and form.suffix:
        raise ConfigError(f"A file of {form.title} ends in {form.suffix}. Received: {target}.")
    if form.suffix and target.is_dir():
        raise ConfigError(f"{target} is a folder. Name a file that ends in {form.suffix}.")
    if not form.suffix and target.exists() and not (target / "saved_model.pb").is_file():
        raise ConfigError(f"{target} exists and is not a SavedModel. Name a folder that is not there yet.")
    if target.name == "model.keras" and (target.parent / CONFIG).is_file():
        raise ConfigError(f"{target} is the model of a run. Choose another --output.")
    return target


def _require_nothing_lost(target: Path, model: str, with_heatmap: bool) -> None:
    """Refuse to replace a file of another model, or one with heatmaps by one without, as its proof says. Raises ConfigError."""
    if not target.exists():
        return
    file = target.with_name(target.name + PROOF)
    proof = read_json(file) if file.is_file() else {}
    what = "was not written from this model" if "model" in proof else "is not known to be written from this model"
    if proof.get("model") == model:
        if with_heatmap or "heatmaps" not in proof["largest_difference"]:
            return
        what = "has heatmaps, which the new file would lack"
    raise ConfigError(f"{target} exists and {what}. Choose another --output, or replace it with --overwrite.")


def _images_of(run: Run) -> list[Path]:
    """At most MOST_IMAGES of the run's test images, else of its validation images. Raises ImageError."""
    for split in ("test", "validation"):
        there = [file for file in run.paths(split) if file.is_file()]
        if there:
            step = max(len(there) / MOST_IMAGES, 1)
            return [there[int(i * step)] for i in range(min(len(there), MOST_IMAGES))]
    raise ImageError(
        f"The images of {run.path} are not at {run.data_config.path}, and the file must be compared with the run on some. "
        "Name images or folders after the run."
    )


def _proven(
    classifier: Classifier,
    staged: Path,
    target: Path,
    about: dict[str, Any],
    paths: Sequence[Path],
    progress: Progress | None,
) -> dict[str, Any]:
    """The proof of a written file. Raises RunError if it does not give what the run gives."""
    try:
        exported = open_exported(staged)
        with full_precision():
            ours = RunOutputs(classifier, "heatmaps" in about["outputs"])
            comparison = compare_outputs(ours, exported, paths, progress)
        problem = comparison.problem()
        if problem is None and dict(exported.about) != about:
            problem = "its class names or the way its images are read are not those of the run."
    except RunError as error:
        problem = str(error)
    if problem:
        raise RunError(f"{target.name} does not give what {classifier.name} gives, and was not kept: {problem}")
    return {
        **as_json(comparison),
        "made": now(),
        "processor": processor_name(),
        "versions": _versions(),
        "sha256": {file.relative_to(staged.parent).as_posix(): file_digest(file) for file in _model_files(staged)},
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


# ---- the formats


def _export(model: keras.Model, path: Path, kind: str) -> None:
    """Keras's own export, for batches of any size."""
    image = keras.InputSpec(dtype="float32", shape=(None, *model.input_shape[1:]), name="image")
    model.export(str(path), format=kind, verbose=False, input_signature=[image])


def _write_keras(model: keras.Model, path: Path, about: dict[str, Any]) -> None:
    model.save(path)
    write_json(path.with_name(path.name + ABOUT), about)


def _write_saved_model(model: keras.Model, path: Path, about: dict[str, Any]) -> None:
    _export(model, path, "tf_saved_model")
    write_json(path.with_name(path.name + ABOUT), about)


def _write_onnx(model: keras.Model, path: Path, about: dict[str, Any]) -> None:
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's remarks on tf2onnx and numpy
        _export(model, path, "onnx")
    graph = onnx.load(path)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"  # any batch size; tf2onnx gives each a name of its own
    onnx.helper.set_model_props(graph, {KEY: json.dumps(about, ensure_ascii=False)})
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def _write_openvino(model: keras.Model, path: Path, about: dict[str, Any]) -> None:
    """By way of a SavedModel, which OpenVINO reads itself."""
    openvino = import_openvino("Exporting to OpenVINO")
    saved = path.with_suffix(".saved")
    _export(model, saved, "tf_saved_model")
    graph = openvino.Core().read_model(saved)
    graph.set_rt_info(json.dumps(about, ensure_ascii=False), KEY)
    openvino.save_model(graph, path, compress_to_fp16=False)
    del graph  # it holds files of the SavedModel
    shutil.rmtree(saved)


WRITERS: dict[str, Callable[[keras.Model, Path, dict[str, Any]], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "savedmodel": _write_saved_model,
    "keras": _write_keras,
}


# ---- files


def _model_files(path: Path) -> list[Path]:
    """The files of a model: one, OpenVINO's two, or all of a SavedModel's folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    weights = path.with_suffix(".bin")
    return [path, weights] if path.suffix.lower() == ".xml" and weights.is_file() else [path]


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A folder beside `target` in which everything is written first; it is gone at the end, whatever happens.

    Raises RunError if the disk is full or the folder is not writable.
    """
    folder = target.with_name(f".{os.getpid()}-{threading.get_ident()}.{target.name}")
    is_new = not target.parent.exists()
    for old in target.parent.glob(f".[0-9]*-*.{target.name}"):  # of an export that was killed
        if not _is_running(int(old.name[1:].partition("-")[0])):
            shutil.rmtree(old, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise disk_error(error, target, "--output") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it holds the file
                target.parent.rmdir()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _move(folder: Path, target: Path) -> None:
    """Bring what was written to its place, the file itself last."""
    if target.is_dir():
        shutil.rmtree(target)
    elif target.suffix.lower() == ".xml":  # no earlier .xml beside a new .bin
        target.unlink(missing_ok=True)
    for item in sorted(folder.iterdir(), key=lambda item: item.name == target.name):
        os.replace(item, target.with_name(item.name))
