"""What each block of a trained model sees in an image: Grad-CAM, CAM and LIME, and how good the maps are.

python examples/look_inside.py            # first trains a small model on generated images
python examples/look_inside.py RUN IMAGE  # uses a finished run and an image file
"""

import sys
from pathlib import Path

import xaitune as xt
from xaitune.plots.figures import save


def main(
    run_path: str | None = None, image: str | None = None, out: str = "example-pictures", epochs: int = 6
) -> list[Path]:
    """Draw three explanations of one image; returns the picture files."""
    if run_path and image:
        run, images, masks = xt.load_run(run_path), [Path(image)], None
    else:
        data = xt.make_demo_data("example-data")
        run = xt.train_model(data, weights="slim", freeze_through=3, epochs=epochs, runs_dir="example-runs")
        test = data.indices("test")[:1]
        images, masks = data.paths(test), data.load_masks(test)

    maps = xt.gradcam_blocks(run, images, blocks="all")
    pictures = [
        save(maps.plot(), Path(out) / "gradcam.png"),
        save(xt.class_activation_map(run, images).plot(), Path(out) / "cam.png"),
        save(xt.lime_superpixels(run, images, num_samples=300).plot(), Path(out) / "lime.png"),
    ]
    print(xt.score_maps(maps, masks=masks).round(3).T)
    print("Pictures:", *pictures)
    return pictures


if __name__ == "__main__":
    main(*sys.argv[1:3])
