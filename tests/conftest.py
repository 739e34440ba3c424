"""Shared fixtures: a small drawn data set, a small trained run, and the place of real data where there is some."""

import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Before its fixtures, each test seeds what draws the weights of a model, so that none fails by chance."""
    if "tensorflow" in sys.modules:
        from xaitune.models.backend import keras

        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session", autouse=True)
def kept_workers():
    """Idle workers by their number of threads: sweeps share them, since a new one takes seconds to import TensorFlow."""
    from xaitune.comparison.engines import local

    kept = {}

    class Pool(local._WorkerPool):
        def __init__(self, threads):
            super().__init__(threads)
            self.idle = kept.pop(threads, [])

        def stop(self):
            with self.lock:
                kept[self.threads], self.idle = [*kept.get(self.threads, []), *self.idle], []
            super().stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_WorkerPool", Pool)
        yield kept
    for workers in kept.values():
        for worker in workers:
            worker.close()


@pytest.fixture(scope="session")
def shared():
    """The folder of real images and weights beside the repository; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared with real data here")
    return SHARED


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """114 drawn scans of 32x32 in 11 classes and 33 groups, with masks."""
    from xaitune.demo.scans import make_demo_data

    return make_demo_data(tmp_path_factory.mktemp("demo") / "data", scale=0.01, image_size=(32, 32))


@pytest.fixture(scope="session")
def run(demo, tmp_path_factory):
    """A run of a few epochs on `demo`: slim, GAP head, Block 1-3 frozen, float32."""
    from xaitune.training.train import train_model

    options = {"weights": "slim", "head_epochs": 2, "epochs": 2, "precision": "float32"}
    return train_model(demo, runs_dir=tmp_path_factory.mktemp("runs"), **options)


@pytest.fixture(scope="session")
def marked(tmp_path_factory):
    """48 noisy images 40x48, half with a dark square ('square'), half with a bright bar ('bar'), and masks of them."""
    import cv2
    import numpy as np

    from xaitune import ImageData

    folder, rng = tmp_path_factory.mktemp("marked"), np.random.default_rng(0)
    for i in range(48):
        kind = ("square", "bar")[i % 2]
        image, mask = rng.normal(110, 12, (40, 48)), np.zeros((40, 48), np.uint8)
        top, left = rng.integers(2, 22), rng.integers(2, 24)
        size = (14, 14) if kind == "square" else (5, 22)
        place = np.s_[top : top + size[0], left : left + size[1]]
        image[place] += 110 if kind == "bar" else -90
        mask[place] = 255
        for name, pixels in (("images", image.clip(0, 255).astype(np.uint8)), ("masks", mask)):
            file = folder / name / kind / f"{i:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), pixels)
    return ImageData.from_folder(folder / "images", masks=folder / "masks", image_size=(32, 32))


@pytest.fixture(scope="session")
def segmented(marked, tmp_path_factory):
    """A run on `marked` that segments: slim, Block 1-4 frozen, float32."""
    from xaitune.training.train import train_model

    options = {"task": "segment", "weights": "slim", "precision": "float32", "freeze_through": 4, "batch_size": 8}
    options["loss"] = "dice"
    return train_model(marked, runs_dir=tmp_path_factory.mktemp("segmented"), head_epochs=12, epochs=2, **options)
