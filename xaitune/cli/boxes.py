"""What `xaitune explain --boxes` reads and prints: true boxes, and how well those from the maps find them."""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaitune._names import plural
from xaitune.cli.console import Ui
from xaitune.config.explain_settings import BoxOptions

if TYPE_CHECKING:
    import pandas as pd

    from xaitune.evaluate.detection import BoxScores
    from xaitune.evaluate.true_boxes import TrueBoxes


def true_boxes_of(
    source: str | None, paths: list[Path], masks: list[Path | None] | None, pixel_classes: str | None = None
) -> "TrueBoxes | None":
    """The true boxes of the file `source`, else those of the masks; None without either. Raises DataError."""
    from xaitune.evaluate.store import read_masks
    from xaitune.evaluate.true_boxes import TrueBoxes, boxes_of_masks, read_true_boxes

    if source is not None:
        return read_true_boxes(source, paths)
    if masks is None:
        return None
    # One mask in memory at a time.
    each = [
        boxes_of_masks(read_masks([str(path)], [mask], pixel_classes)) for path, mask in zip(paths, masks, strict=True)
    ]
    return TrueBoxes(tuple(true.boxes[0] for true in each), (None,) * len(each))


def digest_of(true_boxes: "TrueBoxes | None") -> str:
    """What tells true boxes from others, for pictures that show them; '' without any."""
    if true_boxes is None:
        return ""
    return hashlib.sha256(repr([None if b is None else b.tolist() for b in true_boxes.boxes]).encode()).hexdigest()


def say_boxes(ui: Ui, boxes: Any, options: BoxOptions) -> dict[str, Any]:
    """Say how many boxes there are; returns that for the JSON object."""
    which = (
        "the largest region"
        if options.regions == "largest"
        else f"regions of at least {options.min_area:.2%} of an image"
    )
    count, images = plural(len(boxes), "box"), plural(len(boxes.images), "image")
    ui.say(f"{count} around {which} above {options.threshold:.0%} of a map's maximum, on {images}")
    return {"boxes": len(boxes)}


def say_box_scores(ui: Ui, scores: "BoxScores", folder: Path, layers: dict[int, str]) -> dict[str, Any]:
    """Print and write the scores of the boxes; returns them for the JSON object."""
    from xaitune.evaluate.detection import records, write_box_scores

    wrote = write_box_scores(folder, scores)
    per_image = scores.per_image
    images = per_image["file"].nunique()
    over = f"{per_image['group'].nunique()} groups" if "group" in per_image else "images"
    ui.table(
        printable(scores.table, layers),
        f"Boxes against the true ones, {plural(images, 'image')} [95 % interval over {over}]",
    )
    notes = []
    if scores.without_boxes:
        notes.append(f"{plural(scores.without_boxes, 'image')} without a true box left out")
    if scores.unknown:
        notes.append(f"{plural(scores.unknown, 'image')} left out, of which no true box is known")
    if scores.classes_count:
        notes.append("a box only finds true ones of the class that it explains")
    if notes:
        ui.say(f"Boxes: {'; '.join(notes)}")
    return {"box_scores": records(scores.table), "wrote": wrote}


def printable(table: "pd.DataFrame", layers: dict[int, str]) -> "pd.DataFrame":
    """Blocks and IoUs x scores as text, 'value [low, high]', with the numbers that they are made from."""
    import pandas as pd

    def cell(value: float, low: float, high: float) -> str:
        if not math.isfinite(value):
            return ""
        return f"{value:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(low) else f"{value:.2f}"

    columns = {
        name: [cell(*row) for row in table[[score, f"{score}_low", f"{score}_high"]].to_numpy()]
        for name, score in (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))
    }
    columns |= {"found": table["found"], "boxes": table["boxes"], "true boxes": table["true_boxes"]}
    named = [layers.get(block, f"Block {block}") for block in table["block"]]
    names = [f"{name}, IoU {iou:g}" for name, iou in zip(named, table["iou"], strict=True)]
    return pd.DataFrame(columns | {"": names}).set_index("")
