"""The study of losses on X-rays: a CNN of five stages on one channel, trained from random weights with either loss.

python examples/xray_loss_study.py               # on generated images, in a few minutes
python examples/xray_loss_study.py DATA          # on your class folders
"""

import sys

import xaitune as xt

LOSSES = ("categorical_crossentropy", "sparse_categorical_crossentropy")


def main(data_path: str | None = None, runs_dir: str = "example-runs", epochs: int = 30, seeds: int = 5) -> str:
    """Compare the losses; prints accuracy, loss and training time as the study does, and the paired test under them."""
    data = xt.ImageData.from_folder(data_path) if data_path else xt.make_demo_data("example-data", image_size=(64, 64))
    train = xt.TrainConfig(
        architecture="xray-cnn", optimizer="adam", learning_rate="keras", epochs=epochs, patience=epochs
    )
    table = xt.compare(data, train, factor="loss", values=LOSSES, seeds=seeds, runs_dir=runs_dir)
    losses = table.losses().groupby("cell")["mean"].mean()
    for cell in table.cells.itertuples():
        accuracy = table.scores().loc[cell.name, "test"]
        print(f"{cell.name}: test accuracy {accuracy:.3f}, loss {losses[cell.name]:.3f}, {cell.seconds:.0f} s")
    print(table.pairs().round(3).to_string(index=False))
    print(table.sentence())
    return table.sentence()


if __name__ == "__main__":
    main(*sys.argv[1:2])
