"""The command that says what to collect next: collect."""

import time

from xaitune._names import duration, metric_name
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
    shown = advice.classes.sort_values("gain", ascending=False)
    job.ui.table(
        shown,
        f"Held-out F1, and what the last doubling of a class's groups has brought in {metric_name(advice.metric)}",
    )
    if len(advice.pairs):
        job.ui.table(advice.pairs.head(8).set_index("class"), "Confused classes")
    job.ui.say(f"{advice.headline} {advice.reasons}")
    job.ui.say(f"This command took {duration(time.monotonic() - start)}")
    job.ui.say(
        f"Then: label the new images, add them to {config.data.path}, check them with 'xaitune data-check', and train again."
    )
    folder = advice.path or job.runs_dir
    pictures = [path for name in ("pairs.png", "curve.png") if (path := folder / name).is_file()]
    job.ui.finish(
        [folder, *pictures],
        job.following("train", data),
        headline=advice.headline,
        reasons=advice.reasons,
        expected_gain=advice.expected_gain,
        classes=advice.classes.reset_index().to_dict("records"),
        pairs=advice.pairs.to_dict("records"),
    )
