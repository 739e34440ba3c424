"""ONNX and OpenVINO files run on the processor, in float32 with all usable cores, without TensorFlow."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from xaitune._machine import usable_threads
from xaitune.errors import ModelError
from xaitune.export.formats import FORMATS, KEY, require_runnable


class OnnxSession:
    """Images (n, h, w, 3) -> name of an output -> its values (n, ...) float32, by ONNX Runtime.

    `about`: the file's metadata, a JSON text, or None without any. Raises ConfigError without the package, ModelError for a
    damaged file.
    """

    def __init__(self, path: Path) -> None:
        require_runnable("onnx", f"Running {path}")
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # which it has on Windows
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_threads()
        options.log_severity_level = 3  # errors
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise _damaged(path, error) from None
        self.about: str | None = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        self.names = [output.name for output in self.session.get_outputs()]
        self.input = self.session.get_inputs()[0].name

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.names, self.session.run(None, {self.input: images}), strict=True))


class OpenvinoSession:
    """As `OnnxSession`, by OpenVINO, of an .xml file with its .bin beside it."""

    def __init__(self, path: Path) -> None:
        openvino = import_openvino(f"Running {path}")
        core = openvino.Core()
        # In bfloat16, which it would choose by itself on processors that have it, the answers are not those of the run.
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        try:
            model = core.read_model(path)
            self.about = str(model.get_rt_info(KEY).value) if model.has_rt_info(KEY) else None
            self.compiled = core.compile_model(model, "CPU", options | {"INFERENCE_NUM_THREADS": usable_threads()})
        except RuntimeError as error:
            raise _damaged(path, error) from None
        self.names = [output.get_any_name() for output in self.compiled.outputs]

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        values = self.compiled(images, share_inputs=True)
        return {name: values[i] for i, name in enumerate(self.names)}


def import_openvino(what: str) -> Any:
    """The package openvino, without its telemetry: by itself it reports to its makers that it was imported.

    Raises ConfigError, about `what` needs it, if it is missing.
    """
    require_runnable("openvino", what)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import fails; openvino does without
    import openvino

    return openvino


def _damaged(path: Path, error: Exception) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if len(line.split()) > 2] or [str(error)]
    return ModelError(f"{path} cannot be loaded as {FORMATS[_name(path)].title}: {lines[-1][:300]}")


def _name(path: Path) -> str:
    return "onnx" if path.suffix.lower() == ".onnx" else "openvino"
