"""Train `slim`, the small backbone that ships in the package, on CIFAR-10.

It has VGG16's thirteen convolutions in five blocks, with Keras's layer names, at a quarter of the width. It is written as
a no-top `.h5` in the layout of keras.applications' VGG16 files, so that one loader reads both. Its input is raw RGB
(0..255), rescaled by x / 127.5 - 1.

The demo and the tests need a pretrained VGG-shaped network without a 59 MB download. It is trained with batch
normalisation, since thirteen plain layers hardly learn from scratch; the normalisation is then folded into each
convolution's kernel and bias, which leaves VGG's own conv + bias + ReLU. The rescaling is not folded, because the zero
padding of the first convolution would make that inexact at the border. Half of the training images are made grey, because
most photographs of defects are.

    python scripts/train_slim.py                         # downloads CIFAR-10 with Keras
    python scripts/train_slim.py --data cifar10.zip      # a zip of cifar10/train/<class>/*.jpg and cifar10/test/...
"""

import argparse
import io
import os
import zipfile
from pathlib import Path, PurePosixPath

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import h5py
import keras
import numpy as np
from keras import layers
from PIL import Image

CHANNELS = (16, 32, 64, 128, 128)  # VGG16's 64..512 divided by four
CONVS = (2, 2, 3, 3, 3)
NUM_CLASSES = 10
LUMA = np.array([0.299, 0.587, 0.114], "float32")
ROOT = Path(__file__).resolve().parents[1]


def read_cifar10(path=None):
    """CIFAR-10 as (train images, train labels), (test images, test labels): uint8 (n, 32, 32, 3), int (n,)."""
    if path is None:
        return tuple((x, y.ravel().astype(int)) for x, y in keras.datasets.cifar10.load_data())
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".png")))
        classes = sorted({PurePosixPath(name).parent.name for name in names})
        parts = []
        for split in ("train", "test"):
            chosen = [name for name in names if PurePosixPath(name).parent.parent.name == split]
            images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen]
            labels = [classes.index(PurePosixPath(name).parent.name) for name in chosen]
            parts.append((np.stack(images), np.array(labels)))
    return tuple(parts)


def to_grey(images):
    """Each pixel's luma in all three channels, as float32."""
    return np.repeat((images @ LUMA)[..., None], 3, axis=-1).astype("float32")


def augment(images, rng, max_shift=4):
    """Random flip and shift (reflected at the border), contrast, brightness, and grey with probability 1/2."""
    n, size = images.shape[:2]
    shift = rng.integers(-max_shift, max_shift + 1, (2, n, 1))
    rows, cols = size - 1 - np.abs(size - 1 - np.abs(np.arange(size) + shift))  # (n, size) each
    cols = np.where(rng.random((n, 1)) < 0.5, cols[:, ::-1], cols)
    images = images[np.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]].astype("float32")
    grey = rng.random(n) < 0.5
    images[grey] = to_grey(images[grey])
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    contrast = rng.uniform(0.7, 1.3, mean.shape).astype("float32")
    brightness = rng.uniform(-25, 25, mean.shape).astype("float32")
    return np.clip((images - mean) * contrast + mean + brightness, 0, 255)


class Batches(keras.utils.PyDataset):
    """Shuffled, augmented batches, whose randomness depends only on (seed, epoch, step)."""

    def __init__(self, images, labels, batch_size, seed):
        super().__init__()
        self.images, self.targets = images, np.eye(NUM_CLASSES, dtype="float32")[labels]
        self.batch_size, self.seed, self.epoch = batch_size, seed, -1
        self.on_epoch_end()

    def on_epoch_end(self):
        self.epoch += 1
        self.order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.images))

    def __len__(self):
        return len(self.images) // self.batch_size

    def __getitem__(self, step):
        index = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        return augment(self.images[index], np.random.default_rng((self.seed, self.epoch, step))), self.targets[index]


def build(batch_norm, precision="float32"):
    """The classifier, raw RGB 0..255 -> logits: conv, BN, ReLU for training (`batch_norm`); conv + bias, ReLU if folded."""
    body = keras.DTypePolicy(precision)
    inputs = layers.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1, dtype="float32")(inputs)
    for block, (channels, convs) in enumerate(zip(CHANNELS, CONVS, strict=True), start=1):
        if block > 1:
            x = layers.MaxPooling2D(name=f"block{block - 1}_pool", dtype=body)(x)
        for conv in range(1, convs + 1):
            name = f"block{block}_conv{conv}"
            options = {"padding": "same", "kernel_initializer": "he_normal", "name": name, "dtype": body}
            if batch_norm:
                x = layers.Conv2D(channels, 3, use_bias=False, **options)(x)
                x = layers.BatchNormalization(name=f"{name}_bn", dtype=body)(x)
                x = layers.ReLU(dtype=body)(x)
            else:
                x = layers.Conv2D(channels, 3, activation="relu", **options)(x)
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)  # (n, 128); block5_pool is left out, as in the `gap` head
    return keras.Model(inputs, layers.Dense(NUM_CLASSES, name="logits", dtype="float32")(x))


def fold(model):
    """The same function without batch normalisation: kernel * s, and bias beta - mean * s; s = gamma / sqrt(var + eps)."""
    folded = build(batch_norm=False)
    for layer in conv_layers(folded):
        (kernel,) = model.get_layer(layer.name).get_weights()
        norm = model.get_layer(f"{layer.name}_bn")
        gamma, beta, mean, variance = (np.float64(weight) for weight in norm.get_weights())
        scale = gamma / np.sqrt(variance + norm.epsilon)  # (channels out,), the kernel's last axis
        layer.set_weights([kernel * scale, beta - mean * scale])
    folded.get_layer("logits").set_weights(model.get_layer("logits").get_weights())
    return folded


def conv_layers(model):
    return [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]


def save_notop(model, path, attributes):
    """Write the convolutions in Keras's no-top `.h5` layout, to a file next to `path` that then replaces it."""
    weights = {layer.name: layer.get_weights() for layer in conv_layers(model)}
    names = ["input_layer"]
    for block, convs in enumerate(CONVS, start=1):
        names += [f"block{block}_conv{conv}" for conv in range(1, convs + 1)] + [f"block{block}_pool"]
    part = path.with_name(f"{path.name}.part")
    with h5py.File(part, "w") as file:
        file.attrs.update({"layer_names": names, "backend": "tensorflow", "keras_version": keras.__version__})
        file.attrs.update(attributes)
        for name in [*names, "top_level_model_weights"]:
            arrays = dict(zip((f"{name}/kernel", f"{name}/bias"), weights.get(name, ()), strict=False))
            group = file.create_group(name)
            group.attrs["weight_names"] = list(arrays)
            for array_name, array in arrays.items():
                group.create_dataset(array_name, data=array.astype("float32"))
    os.replace(part, path)


def accuracy(model, images, labels):
    return float((model.predict(images, batch_size=500, verbose=0).argmax(axis=1) == labels).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="zip of cifar10/train/<class>/*.jpg (default: Keras's download)")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="mixed_bfloat16", choices=["float32", "mixed_bfloat16", "mixed_float16"])
    parser.add_argument("--out", type=Path, default=ROOT / "xaitune" / "models" / "slim.h5")
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    (x_train, y_train), (x_test, y_test) = read_cifar10(args.data)
    batches = Batches(x_train, y_train, args.batch_size, args.seed)
    steps = args.epochs * len(batches)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - steps // 10, warmup_target=0.1, warmup_steps=steps // 10)
    optimizer = keras.optimizers.SGD(
        rate, momentum=0.9, nesterov=True, weight_decay=5e-3
    )  # decoupled: scaled by the rate
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.05)
    model = build(batch_norm=True, precision=args.precision)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    model.fit(batches, epochs=args.epochs, verbose=2)  # the last epoch counts, so that no choice depends on test images

    trained = build(batch_norm=True)  # float32
    trained.set_weights(model.get_weights())
    folded = fold(trained)
    sample = x_test[:1000].astype("float32")
    difference = float(np.abs(trained.predict(sample, verbose=0) - folded.predict(sample, verbose=0)).max())
    colour, grey = accuracy(folded, x_test.astype("float32"), y_test), accuracy(folded, to_grey(x_test), y_test)
    print(f"largest difference in a logit after folding: {difference:.1e} (1000 test images)")
    print(f"test accuracy of the folded model: colour {colour:.4f}, grey {grey:.4f} ({len(x_test)} images)")
    if not difference < 1e-3:
        raise SystemExit(f"Folding changed the model: logits differ by {difference:.1e}. Nothing was written.")

    data = f" --data {args.data.name}" if args.data else ""
    command = f"python scripts/train_slim.py{data} --epochs {args.epochs} --batch-size {args.batch_size}"
    attributes = {
        "channels": CHANNELS,
        "preprocessing": "slim",  # raw RGB 0..255, x / 127.5 - 1
        "trained_on": "CIFAR-10",
        "test_accuracy": colour,
        "test_accuracy_grey": grey,
        "epochs": args.epochs,
        "seed": args.seed,
        "command": f"{command} --seed {args.seed} --precision {args.precision}",
    }
    save_notop(folded, args.out, attributes)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)\n{attributes['command']}")


if __name__ == "__main__":
    main()
