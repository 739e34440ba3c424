"""From a folder of images to a checked freezing point, with the Python API.

python examples/freeze_advice.py                 # on generated images, in a few minutes
python examples/freeze_advice.py DATA WEIGHTS    # on your class folders
"""

import sys

import xaitune as xt


def main(data_path: str | None = None, weights: str = "slim", runs_dir: str = "example-runs", epochs: int = 6) -> str:
    """Make the advice, run the sweep and check the advice; returns the verdict."""
    data = xt.ImageData.from_folder(data_path) if data_path else xt.make_demo_data("example-data")
    train = xt.TrainConfig(weights=weights, epochs=epochs)

    advice = xt.advise_freeze(data, train, runs_dir=runs_dir)
    print(advice.evidence.round(3))
    print(advice.reasons)

    sweep = xt.sweep_freeze(data, train=train, freeze_through="0-5", seeds=1, optimizers="nag", runs_dir=runs_dir)
    print(sweep.table().round(3))

    check = xt.check_advice(advice, sweep)
    print(check.sentence())
    print("Report:", xt.write_report(sweep, advice=advice, check=check, data=data))
    return check.verdict


if __name__ == "__main__":
    main(*sys.argv[1:3])
