"""The classification part of the study of animal X-rays: optimizers, weighted and focal loss, and augmented rare classes.

python examples/imbalance_study.py                 # on generated images, in about half an hour
python examples/imbalance_study.py DATA WEIGHTS    # on your class folders
"""

import sys
from collections.abc import Sequence

import xaitune as xt

OPTIMIZERS = ("sgd", "sgdp", "adam", "adamw", "adamp", "radam")
REMEDIES = {"loss": ["categorical_crossentropy", "focal"], "class_weight": [None, "share", "balanced"]}


def main(
    data_path: str | None = None,
    weights: str = "slim",
    runs_dir: str = "example-runs",
    epochs: int = 10,
    seeds: int = 3,
    optimizers: Sequence[str] = OPTIMIZERS,
) -> list[str]:
    """Compare what may help against uneven classes; prints a table of each comparison and the best run's confusion matrix."""
    data = xt.ImageData.from_folder(data_path) if data_path else xt.make_demo_data("example-data")
    train = xt.TrainConfig(weights=weights, freeze_through=4, epochs=epochs, patience=epochs)
    augmented = xt.TrainConfig(**{**vars(train), "augmentation": "flip,rotation,brightness"})
    comparisons = {
        "optimizers": (train, {"optimizer": optimizers}),
        "loss": (train, REMEDIES),
        "augmentation": (augmented, {"balance_by_augmentation": [False, True]}),
        "epochs": (train, {"epochs": [max(epochs // 2, 1), epochs]}),
    }
    sentences = []
    for name, (base, factors) in comparisons.items():
        table = xt.compare(data, base, factor=factors, seeds=seeds, learning_rates="own", name=name, runs_dir=runs_dir)
        print(f"\n{name}: {', '.join(table.factors)}")
        print(table.table().to_string(index=False))
        print(table.sentence())
        sentences.append(table.sentence())
        run = xt.load_run(table.path / table.best["part"] / table.best["runs"][0])
        print(f"Accuracy {run.metrics['test']['accuracy']:.3f}; precision, recall and F1 of each class in {run.name}:")
        print(run.per_class().round(3).to_string())
        print("Confusion matrix, true class by row:", run.metrics["test"]["confusion"])
    return sentences


if __name__ == "__main__":
    main(*sys.argv[1:3])
