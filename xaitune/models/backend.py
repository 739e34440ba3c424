"""The processor: precision, threads, and the one place that differentiates, on Keras's TensorFlow or torch backend.

`import tensorflow` and `import torch` stand here alone. Every other module takes `keras` from here, so that what
TensorFlow prints on its start stays off the screen, and computes with `keras.ops` and NumPy.
"""

import contextlib
import functools
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xaitune.config.schema import PRECISIONS, usable_cores
from xaitune.errors import ConfigError, ModelError


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """TensorFlow's start writes to the file descriptor itself, before its own log level is read."""
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


THREADS = "XAITUNE_THREADS"  # the environment variable that bounds this process's threads
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def _load_keras() -> Any:
    """Keras, quietly. Raises ConfigError where its backend cannot be loaded, or is none of ours."""
    wish = os.environ.get("KERAS_BACKEND", "tensorflow")
    try:
        with _quiet_stderr():
            import keras
    except (ImportError, ValueError) as error:
        extra = " Install it with: pip install 'xaitune[torch]'." if wish == "torch" else ""
        raise ConfigError(f"Keras's backend {wish} cannot be loaded: {error}.{extra}") from None
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

if BACKEND == "torch":
    import torch

    if THREADS in os.environ:
        torch.set_num_threads(int(os.environ[THREADS]))
else:
    with _quiet_stderr():
        import tensorflow as tf

        if THREADS in os.environ:  # before the first operation: later TensorFlow refuses
            tf.config.threading.set_intra_op_parallelism_threads(int(os.environ[THREADS]))
            tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):  # several processes share a card
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.constant(0.0)  # the first operation prints too

HALF_LAYERS = (keras.layers.Conv2D, keras.layers.MaxPooling2D)  # the rest of a model stays in float32


def gpus() -> int:
    """Graphics cards that the backend sees."""
    return torch.cuda.device_count() if BACKEND == "torch" else len(tf.config.list_physical_devices("GPU"))


def _processor_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    line = next((row for row in text.splitlines() if row.startswith("flags")), "")
    return set(line.partition(":")[2].split())


def resolve_precision(precision: str = "auto") -> tuple[str, str]:
    """('float32' | 'bfloat16', why) for 'auto', 'float32' or 'bfloat16'.

    'auto' takes bfloat16 where a GPU is visible or the processor has AMX-BF16 or AVX512-BF16 units. Raises ConfigError.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    if precision != "auto":
        return precision, "as asked"
    if gpus():
        return "bfloat16", "a GPU is visible"
    units = sorted(_processor_flags() & {"amx_bf16", "avx512_bf16"})
    if units:
        return "bfloat16", f"the processor has {units[0]} units"
    return "float32", "the processor has no bfloat16 units"


def with_precision(model: keras.Model, precision: str, keep: Iterable[str] = ()) -> keras.Model:
    """A copy of a float32 model that computes in `precision`, with its own float32 weights and the same names.

    `keep`: layers that stay in float32 all the same.
    """
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"precision must be float32 or bfloat16 here. Received: {precision!r}.")

    kept = set(keep)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if precision == "bfloat16" and isinstance(layer, HALF_LAYERS) and layer.name not in kept:
            config["dtype"] = "mixed_bfloat16"
        return layer.__class__.from_config(config)

    # Through a graph of its own, since clone_model would also compile the copy of a compiled model.
    graph = keras.Model(model.input, model.output, name=model.name)
    copy = keras.models.clone_model(graph, clone_function=clone)
    copy_layers(model.layers, copy.layers)
    return copy


def copy_layers(old: Iterable[keras.layers.Layer], new: Iterable[keras.layers.Layer]) -> None:
    """Give layers the weights and the `trainable` of those of the same name."""
    named = {layer.name: layer for layer in old}
    for layer in new:
        source = named.get(layer.name)
        if source is None or source is layer:  # an input, which is named anew; a layer that both have
            continue
        layer.set_weights(source.get_weights())
        layer.trainable = source.trainable
        if hasattr(layer, "finalize_state"):  # Normalization keeps what it computes with beside its weights
            layer.finalize_state()


class _Traced:
    """A function of tensors as TensorFlow's graph, which is taken apart with it.

    TensorFlow leaves that to Python, which cannot: graph and operations hold each other where its collector does not
    look. The graph would stay for ever, and with it the weights of a model that nobody uses any more.
    """

    def __init__(self, function: Callable[..., Any], signature: Sequence[Any]) -> None:
        self.function = function  # holds the variables: the graph does not
        options = {"input_signature": signature, "jit_compile": False, "autograph": False}
        self.graph = tf.function(function, **options).get_concrete_function()

    def __call__(self, *arrays: np.ndarray) -> Any:
        return self.graph(*(tf.constant(array) for array in arrays))

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # Python may be ending
            from tensorflow.python.framework import func_graph

            func_graph.dismantle_func_graph(self.graph.graph)


def activation_gradients(
    model: keras.Model, layers: Sequence[str], reduce: Callable[[Any, Any], Any] | None = None
) -> Callable[[np.ndarray, np.ndarray], tuple[list[Any], np.ndarray]]:
    """A function of images (n, h, w, 3) and class indices (n,) that gives what `reduce` makes a layer, and logits.

    A class index of -1 stands for the image's top class. `reduce` takes a layer's activations and their gradients,
    tensors (n, h_b, w_b, c_b) of d logit[class] / d activation, and gives tensors in any structure; by default it is
    both themselves. It is compiled with the pass, so that only what it makes is copied out, as float32 arrays. All
    layers come from one forward and one backward pass over activations alone: no weight gradient is computed and
    nothing of the model is changed. Raises ModelError for layers that it lacks or that do not lead to its logits.
    """
    try:
        taps = keras.Model(model.input, [model.get_layer(name).output for name in layers] + [model.output])
    except ValueError as error:
        raise ModelError(f"The model lacks a layer that is needed: {error}") from None
    run = (_torch_gradients if BACKEND == "torch" else _tensorflow_gradients)(taps, layers, reduce)

    def call(images: np.ndarray, classes: np.ndarray) -> tuple[list[Any], np.ndarray]:
        made = run(np.asarray(images, np.float32), np.asarray(classes, np.int32))
        return keras.tree.map_structure(_array, made)

    return call


Pass = Callable[[np.ndarray, np.ndarray], Any]  # images, classes -> what each layer is reduced to, and the logits


def _tensorflow_gradients(taps: keras.Model, layers: Sequence[str], reduce: Callable[[Any, Any], Any] | None) -> Pass:
    images_of_any_number = tf.TensorSpec((None, *taps.input_shape[1:]), tf.float32)  # so that it is traced once

    def run(images: Any, classes: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)  # so that the tape records; nothing is differentiated down to the image
            *activations, logits = taps(images, training=False)
            score = _chosen_logits(logits, classes)
        return _reduced(layers, activations, tape.gradient(score, activations), reduce), logits

    return _Traced(run, [images_of_any_number, tf.TensorSpec((None,), tf.int32)])


def _torch_gradients(taps: keras.Model, layers: Sequence[str], reduce: Callable[[Any, Any], Any] | None) -> Pass:
    def run(images: np.ndarray, classes: np.ndarray) -> Any:
        inputs = keras.ops.convert_to_tensor(images)
        inputs.requires_grad_(True)  # so that frozen layers are recorded; nothing is differentiated down to the image
        with torch.enable_grad():
            *activations, logits = taps(inputs, training=False)
            score = _chosen_logits(logits, keras.ops.convert_to_tensor(classes))
        gradients = torch.autograd.grad(score, activations, allow_unused=True)
        with torch.no_grad():
            return _reduced(layers, [a.detach() for a in activations], gradients, reduce), logits.detach()

    return run


def _chosen_logits(logits: Any, classes: Any) -> Any:
    """The sum over the images of the logit of each one's class, or its top one where that is -1."""
    chosen = keras.ops.where(classes < 0, keras.ops.cast(keras.ops.argmax(logits, axis=1), "int32"), classes)
    return keras.ops.sum(keras.ops.take_along_axis(logits, chosen[:, None], axis=1))


def _reduced(
    layers: Sequence[str],
    activations: Sequence[Any],
    gradients: Sequence[Any],
    reduce: Callable[[Any, Any], Any] | None,
) -> list[Any]:
    dead = [name for name, gradient in zip(layers, gradients, strict=True) if gradient is None]
    if dead:
        raise ModelError(f"The logits do not follow from layer {dead[0]!r} in a way that has a gradient.")
    return [reduce(a, g) if reduce else (a, g) for a, g in zip(activations, gradients, strict=True)]


def _array(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def training_scope() -> contextlib.AbstractContextManager[Any]:
    """Where a model that is to be trained, its optimizer and its `training_step` are made.

    With several graphics cards under TensorFlow all of them train it (MirroredStrategy); else this does nothing.
    """
    several = BACKEND == "tensorflow" and gpus() > 1
    return _strategy().scope() if several else contextlib.nullcontext()


@functools.cache
def _strategy() -> Any:
    return tf.distribute.MirroredStrategy()


Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, float]]


def training_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss: keras.losses.Loss, clip_norm: float
) -> Step:
    """One step of training: (inputs, targets, sample weights) -> (loss, weighted accuracy) over the batch.

    `optimizer` is built for the model's trainable variables; targets are one-hot (n, classes), or indices (n,) for a
    sparse loss. A gradient longer than `clip_norm` over all variables is shortened to it.

    Under TensorFlow it is traced once for batches of any size, where Keras's own step is traced up to four times (with and
    without what it creates, for a whole batch and for the last). Of a model made in `training_scope` each card takes an
    equal part, filled up with images of weight 0; the weights are scaled by it, so that the loss is the mean over the
    batch as with one card.
    """
    sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    make = _torch_step if BACKEND == "torch" else _tensorflow_step
    run = make(model, optimizer, loss, sparse, clip_norm)

    def call(inputs: np.ndarray, targets: np.ndarray, sample_weight: np.ndarray) -> tuple[float, float]:
        kind = np.int64 if sparse else np.float32
        made = run(np.asarray(inputs, np.float32), np.asarray(targets, kind), np.asarray(sample_weight, np.float32))
        value, right, weight = (float(keras.ops.convert_to_numpy(v)) for v in made)
        return value, right / weight if weight else 0.0

    return call


def _hits(targets: Any, logits: Any, weights: Any, sparse: bool) -> tuple[Any, Any]:
    """The weight of the images that are classified rightly, and of all."""
    true = targets if sparse else keras.ops.argmax(targets, axis=1)
    top = keras.ops.cast(keras.ops.argmax(logits, axis=1), "int64")
    right = keras.ops.cast(keras.ops.equal(top, keras.ops.cast(true, "int64")), "float32")
    return keras.ops.sum(right * weights), keras.ops.sum(weights)


def _clipped(gradients: Sequence[Any], clip_norm: float) -> list[Any]:
    """The gradients, shortened together; Keras's optimizers would do it for each card's part alone."""
    norm = keras.ops.sqrt(sum(keras.ops.sum(keras.ops.square(g)) for g in gradients))
    scale = clip_norm / keras.ops.maximum(norm, clip_norm)
    return [g * scale for g in gradients]


def _torch_step(
    model: keras.Model, optimizer: Any, loss: Any, sparse: bool, clip_norm: float
) -> Callable[..., tuple[Any, Any, Any]]:
    variables = model.trainable_variables

    def run(*arrays: np.ndarray) -> tuple[Any, Any, Any]:
        inputs, targets, weights = (keras.ops.convert_to_tensor(a) for a in arrays)
        logits = model(inputs, training=True)
        value = loss(targets, logits, sample_weight=weights)
        gradients = torch.autograd.grad(value, [v.value for v in variables])
        with torch.no_grad():
            optimizer.apply(_clipped(gradients, clip_norm), variables)
            return value.detach(), *_hits(targets, logits.detach(), weights, sparse)

    return run


def _tensorflow_step(
    model: keras.Model, optimizer: Any, loss: Any, sparse: bool, clip_norm: float
) -> Callable[..., tuple[Any, Any, Any]]:
    variables, strategy = model.trainable_variables, tf.distribute.get_strategy()
    cards = strategy.num_replicas_in_sync
    # Summed over the cards below, before they are clipped. Of Keras's own sum TensorFlow keeps the graph for ever, also
    # with one card: it registers a gradient for each.
    optimizer._all_reduce_sum_gradients = lambda pairs: pairs
    targets_of_any_number = tf.TensorSpec((None,), tf.int64) if sparse else tf.TensorSpec(model.output_shape)
    signature = [tf.TensorSpec((None, *model.input_shape[1:])), targets_of_any_number, tf.TensorSpec((None,))]

    def part(inputs: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            value = loss(targets, logits, sample_weight=weights)  # with several cards Keras divides it by their number
        gradients = tape.gradient(value, [v.value for v in variables])
        if cards > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        optimizer.apply(_clipped(gradients, clip_norm), variables)
        return value, *_hits(targets, logits, weights, sparse)

    if cards == 1:
        return _Traced(part, signature)

    @tf.function(jit_compile=False, autograph=False)
    def together(parts: Any) -> tuple[Any, Any, Any]:
        value, right, weight = strategy.run(part, args=parts)
        return tuple(strategy.reduce(tf.distribute.ReduceOp.SUM, v, axis=None) for v in (value, right, weight))

    def run(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[Any, Any, Any]:
        count = len(inputs)
        each = -(-count // cards)
        places = np.arange(each * cards) % count
        scaled = np.where(np.arange(each * cards) < count, weights[places] * (each * cards / count), 0)
        arrays = (inputs[places], targets[places], scaled.astype(np.float32))

        def of_card(context: Any) -> tuple[Any, ...]:
            first = context.replica_id_in_sync_group * each
            return tuple(tf.constant(a[first : first + each]) for a in arrays)

        return together(strategy.experimental_distribute_values_from_function(of_card))

    return run


def images_at_once(height: int, width: int) -> int:
    """Images in a batch: 8 of 224 x 224 pixels, more of smaller ones, at most 64.

    VGG16 takes 90 MB for each such image forward and backward, 35 MB forward, and is no faster in larger batches.
    """
    return int(np.clip(8 * 224 * 224 // (height * width), 1, 64))


def predictor(model: keras.Model, batch_size: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """A function of inputs (n, ...) -> the model's one output (n, ...) as float32, such as logits (n, classes).

    It takes `batch_size` at once; without one the inputs are images, taken by `images_at_once`.
    """
    batch_size = batch_size or images_at_once(*model.input_shape[1:3])

    def forward(batch: Any) -> Any:
        return model(batch, training=False)

    if BACKEND == "torch":
        run = torch.no_grad()(lambda batch: forward(keras.ops.convert_to_tensor(batch)))
    else:
        images_of_any_number = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        run = _Traced(forward, [images_of_any_number])

    def call(inputs: np.ndarray) -> np.ndarray:
        starts = range(0, len(inputs), batch_size)
        rows = [_array(run(np.asarray(inputs[start : start + batch_size], np.float32))) for start in starts]
        return np.concatenate(rows) if rows else np.zeros((0, *model.output_shape[1:]), np.float32)

    return call


def describe(precision: str) -> dict[str, Any]:
    """Versions and machine, for a run's metadata."""
    packages = ("xaitune", "keras", "tensorflow", "tensorflow-cpu", "torch", "numpy", "scikit-learn", "scikit-image")
    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "python": sys.version.split()[0],
        "versions": versions,
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "threads": int(os.environ.get(THREADS, usable_cores())),
        "gpus": gpus(),
        "backend": BACKEND,
        "precision": precision,
    }


def processor_name() -> str:
    """The processor as the system names it."""
    with contextlib.suppress(OSError):
        for row in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()
