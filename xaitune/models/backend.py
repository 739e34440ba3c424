"""Keras and its backend (TensorFlow or torch), loaded once, without their start-up messages and with bounded threads.

`import tensorflow` and `import torch` appear only here. All other modules take `keras` from here, so that TensorFlow's
start-up messages stay off the screen; only the modules of this folder take `tf` and `torch` too.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from xaitune._machine import THREADS
from xaitune.errors import ConfigError


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Silence stderr at the file descriptor: TensorFlow writes to it on start-up, before it reads its log level."""
    try:
        saved = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
# oneDNN's convolutions: TensorFlow leaves them off on processors without AVX512, where they halve the time of training.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _load_keras() -> Any:
    """Import Keras quietly. Raises ConfigError if its backend cannot be loaded or is not supported by xaitune."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    try:
        with _quiet_stderr():
            import keras
    except (ImportError, ValueError) as error:
        hint = " Install it with: pip install 'xaitune[torch]'." if backend == "torch" else ""
        raise ConfigError(f"Keras's backend {backend} cannot be loaded: {error}.{hint}") from None
    if keras.backend.backend() not in ("tensorflow", "torch"):
        raise ConfigError(
            f"xaitune runs on Keras's TensorFlow and torch backends. Received: KERAS_BACKEND={keras.backend.backend()}."
        )
    return keras


if TYPE_CHECKING:
    import keras
else:
    keras = _load_keras()
BACKEND = keras.backend.backend()
tf: Any = None  # of `tf` and `torch`, the one that is not the backend stays None
torch: Any = None

if BACKEND == "torch":
    import torch  # type: ignore[no-redef]

    if THREADS in os.environ:
        torch.set_num_threads(int(os.environ[THREADS]))
else:
    with _quiet_stderr():
        import tensorflow as tf  # type: ignore[no-redef]

        if THREADS in os.environ:  # before the first operation, since TensorFlow refuses it later
            tf.config.threading.set_intra_op_parallelism_threads(int(os.environ[THREADS]))
            tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):  # several processes may share a GPU
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.constant(0.0)  # the first operation prints messages too


def gpus() -> int:
    """The number of GPUs that the backend sees."""
    return torch.cuda.device_count() if BACKEND == "torch" else len(tf.config.list_physical_devices("GPU"))


def gpu_names() -> list[str]:
    """The names of these GPUs, such as 'NVIDIA H200'."""
    if BACKEND == "torch":
        return [torch.cuda.get_device_name(number) for number in range(gpus())]
    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return [detail.get("device_name", "GPU") for detail in details]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Float32 in full: GPUs otherwise round the factors of float32 products to TF32's 10 bits (torch: of convolutions)."""
    before = _tf32(False)
    try:
        yield
    finally:
        _tf32(before)


def _tf32(allowed: bool) -> bool:
    """Allow or forbid TF32; returns whether it was allowed before."""
    if BACKEND == "torch":
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
        return bool(before)
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    return bool(before)


def to_array(tensor: Any) -> np.ndarray:
    """A tensor of the backend as a float32 array."""
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
