"""The command that says what to collect next: collect."""

import dataclasses
import math
import time
from typing import Any

from xaitune._names import duration, metric_name, plural
from xaitune.cli.data import DataPath, Overwrite, check_call, load_data
from xaitune.cli.options import Job, command
from xaitune.cli.train import CacheGb, Name
from xaitune.config.fields import settings_of
from xaitune.config.settings import DataConfig, TrainConfig

USED = ("weights", "metric", "precision", "seed")
UNUSED = tuple(name for name in settings_of(TrainConfig) if name not in USED)


@command("collect", DataConfig, TrainConfig, skip=UNUSED)
def collect(
    job: Job, data: DataPath = None, name: Name = None, overwrite: Overwrite = False, cache_gb: CacheGb = 20.0
) -> None:
    """Say which images to collect next.

    For each class what the last doubling of its images has brought, and the pairs of classes that are confused, with
    pictures of what speaks for the wrong class.
    """
    check_call(job, data, name)
    config, images = load_data(job, data)
    from xaitune.advise.collection import advise_collection

    start = time.monotonic()
    with job.ui.progress("learning") as report:
        advice = advise_collection(
            images,
            config.train,
            name=name,
            runs_dir=job.runs_dir,
            overwrite=overwrite,
            cache_gb=cache_gb,
            progress=report,
            notes=job.ui.say,
        )
    job.ui.say(
        "All figures are of a linear head on frozen features, asked about "
        f"{plural(int(advice.classes['images'].sum()), 'training and validation image')} held out from it. They say what more "
        "images may bring; they are not the scores of your runs."
    )
    job.ui.table(
        shown_classes(advice.classes),
        f"Gain: points of {metric_name(advice.metric)} that the last doubling of the class's groups has brought",
    )
    if len(advice.pairs):
        pairs = advice.pairs.head(8).set_index("class")
        pairs["share"] = pairs["share"].map("{:.0%}".format)
        job.ui.table(pairs.rename(columns={"predicted": "taken for", "share": "of the class"}), "Confused classes")
    job.ui.say(f"{advice.headline} {advice.reasons}")
    job.ui.say(f"This command took {duration(time.monotonic() - start)}")
    job.ui.say(
        f"Then: label the new images, add them to {config.data.path}, check them with 'xaitune data-check', and train again with "
        "'xaitune train'."
    )
    of_images = {key: words for key, words in job.words.items() if key[0] is DataConfig}  # data-check takes no others
    folder = advice.path or job.runs_dir
    pictures = [path for name in ("pairs.png", "curve.png") if (path := folder / name).is_file()]
    job.ui.finish(
        [folder, *pictures],
        dataclasses.replace(job, words=of_images).following("data-check", data),
        headline=advice.headline,
        reasons=advice.reasons,
        expected_gain=advice.expected_gain,
        classes=advice.classes.reset_index().to_dict("records"),
        pairs=advice.pairs.to_dict("records"),
    )


def shown_classes(classes: Any) -> Any:
    """The classes as the screen shows them, the largest gain first: F1 and gains with their intervals."""
    shown = classes.sort_values("gain", ascending=False)
    f1 = [f"{row.f1:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in shown.itertuples()]
    gains = [_gain_text(row) for row in shown.itertuples()]
    return shown[["images", "groups"]].assign(**{"F1 [95 % interval]": f1, "gain [95 % interval]": gains})


def _gain_text(row: Any) -> str:
    """A gain in points with its interval; a class of too few groups has none."""
    if math.isnan(row.gain):
        return "too few groups"
    return f"{100 * row.gain:+.1f} [{100 * row.gain_low:+.1f}, {100 * row.gain_high:+.1f}]"
