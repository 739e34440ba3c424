"""Shared fixtures: a small drawn data set, a small trained run, and the place of real data where there is some."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


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
