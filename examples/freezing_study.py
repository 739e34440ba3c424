"""The freezing study's tables 5 to 9 on your images: LeNet-5, VGG16 at five stages of transfer, and the freezing points.

python examples/freezing_study.py                 # on generated images, in about half an hour
python examples/freezing_study.py DATA WEIGHTS    # on your class folders
"""

import sys
from collections.abc import Sequence

import xaitune as xt

MODELS = (
    *("lenet5-tanh-sgd", "lenet5-relu-adam"),
    *("vgg16-random", "vgg16-features", "vgg16-block3", "vgg16-block3-final"),
)
OPTIMIZERS = ("sgd", "momentum", "nag")


def main(
    data_path: str | None = None,
    weights: str = "slim",
    runs_dir: str = "example-runs",
    epochs: int = 15,
    seeds: int = 3,
    models: Sequence[str] = MODELS,
    depths: str = "1-5",
) -> str:
    """Compare the study's models, then freezing points and optimizers; returns what the first comparison tells."""
    data = xt.ImageData.from_folder(data_path) if data_path else xt.make_demo_data("example-data")
    train = xt.TrainConfig(weights=weights, epochs=epochs, patience=epochs, metric="f1_weighted")

    table = xt.compare(data, train, factor="architecture", values=models, seeds=seeds, runs_dir=runs_dir)
    print("Loss, accuracy on each split and weighted F1 (tables 5 to 8)")
    print(table.scores().round(3).to_string())
    print(table.sentence())
    print("All learning curves (figure 20):", table.path / "curves.png")

    sweep = xt.sweep_freeze(
        data, train=train, freeze_through=depths, optimizers=OPTIMIZERS, seeds=seeds, runs_dir=runs_dir
    )
    print("Test score by frozen blocks and optimizer (table 9)")
    print(sweep.table().round(3).to_string())
    return table.sentence()


if __name__ == "__main__":
    main(*sys.argv[1:3])
