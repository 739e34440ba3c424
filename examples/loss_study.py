"""Two losses that are the same function, and one that is not: the loss studies in reduced form.

python examples/loss_study.py                 # on generated images, in a few minutes
python examples/loss_study.py DATA WEIGHTS    # on your class folders
"""

import sys

import xaitune as xt

LOSSES = ("categorical_crossentropy", "sparse_categorical_crossentropy", "focal")


def main(
    data_path: str | None = None, weights: str = "slim", runs_dir: str = "example-runs", epochs: int = 6, seeds: int = 5
) -> str:
    """Compare the losses over several seeds; prints the studies' tables of the loss per class, and what follows from them."""
    data = xt.ImageData.from_folder(data_path) if data_path else xt.make_demo_data("example-data")
    train = xt.TrainConfig(weights=weights, epochs=epochs, freeze_through=4)
    table = xt.compare(data, train, factor="loss", values=LOSSES, seeds=seeds, learning_rates="own", runs_dir=runs_dir)
    for split in ("validation", "test"):
        print(f"Loss per class and repeat, {split}")
        print(table.losses(split).round(3).to_string())
    print(table.table().to_string(index=False))
    print(table.pairs().round(3).to_string(index=False))
    print(table.sentence())
    return table.sentence()


if __name__ == "__main__":
    main(*sys.argv[1:3])
