"""What `xaitune explain --check` asks of a model and prints, and `xaitune explain --verify`."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

from xaitune._names import duration, plural
from xaitune.cli.console import Ui
from xaitune.cli.options import Job
from xaitune.errors import RunError


class Checks:
    """Checks the maps of `paths` batch by batch; says at the first what that will cost."""

    def __init__(self, ui: Ui, classifier: Any, paths: list[Path], class_name: str | None) -> None:
        self.ui, self.classifier, self.paths, self.class_name = ui, classifier, paths, class_name
        self.checker: Any = None
        self.calls, self.seconds = 0, 0.0

    def __call__(self, maps: Any) -> Any:
        """The heatmaps with their checks."""
        start = time.monotonic()
        self.checker = self.checker or self._begin(maps)
        checked = maps.with_checks(self.checker(maps))
        self.seconds += time.monotonic() - start
        return checked

    def about(self) -> dict[str, Any]:
        """What the checks are based on, for explain.json."""
        from xaitune.evaluate.reliability import HIDDEN
        from xaitune.explain.map_checks import BEATEN, MOVES, STEADY, UNCHANGED

        thresholds = {"randomised": UNCHANGED, "elsewhere": BEATEN, "stability": STEADY}
        return {"images_randomised": self.checker.images, "thresholds": thresholds, "hidden": HIDDEN, "moves": MOVES}

    def _begin(self, first: Any) -> Any:
        """What checks the batches; says what it will cost, then randomises the weights of a copy of the model."""
        from xaitune.evaluate.reliability import RANDOMISED, MapChecker, check_calls, randomised_maps, spread
        from xaitune.evaluate.table import measure_costs

        chosen = [self.paths[i] for i in spread(len(self.paths), RANDOMISED)]
        self.calls = check_calls(len(self.paths), len(first.blocks))
        seconds = self.calls * measure_costs(self.classifier, first.images[:2])[0]
        self.ui.say(
            f"Checking the maps: {self.calls:,} forward passes (weights randomised on {plural(len(chosen), 'image')}), "
            f"{f'about {duration(seconds)}' if seconds >= 10 else 'some seconds'}"
        )
        sample = self.classifier.read_paths(chosen)
        randomised = randomised_maps(self.classifier, first, sample, self.class_name)
        return MapChecker(self.classifier, first, randomised, len(chosen))


def say_checks(ui: Ui, doubts: list[list[str]]) -> dict[str, Any]:
    """Say how many maps should not be relied on, and why; returns the numbers for the JSON object."""
    from xaitune.explain.map_checks import DOUBTS, summarise_doubts

    failed = sum(map(bool, doubts))
    sentence = summarise_doubts(doubts, checked=True)
    if failed:
        ui.warn(f"{sentence} The pictures bear a sign, and explain.json names them (doubts).")
    else:
        ui.say(sentence)
    counts = Counter(doubt for each in doubts for doubt in each)
    return {"doubtful_maps": failed, "doubts": {doubt: counts[doubt] for doubt in DOUBTS}}


def verify_file(job: Job, file: Path, model: str | None) -> None:
    """Make an earlier explanation again, print how far it has moved. Raises RunError if that is beyond rounding."""
    from xaitune.explain.verification import MOVED, verify_explanation

    with job.ui.progress("verifying", "images") as report:
        made = verify_explanation(file, model, progress=report)
    rows = made.table.assign(file=[Path(name).name for name in made.table["file"]])
    worst = rows.sort_values("largest_difference", ascending=False, kind="stable").head(20).set_index("file")
    job.ui.table(
        worst, f"{made.file}, made again" + (f": the 20 of {len(rows)} maps that moved most" * (len(rows) > 20))
    )
    job.ui.say(made.sentence())
    job.ui.finish(
        [],
        "",
        verdict=made.verdict,
        changed=list(made.changed),
        tolerance=made.tolerance,
        maps=made.table.to_dict("records"),
    )
    if made.verdict == MOVED:
        raise RunError(f"The explanation in {made.file} has moved beyond rounding.")
