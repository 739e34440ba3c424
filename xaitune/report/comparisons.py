"""The section of the page on a comparison of any settings."""

import math
from typing import Any

from xaitune._names import metric_name, plural
from xaitune.comparison.cells import over_seeds
from xaitune.comparison.comparison_table import ComparisonTable
from xaitune.report.texts import DASH, picture, points_text, score_text

SCORE_COLUMNS = ["loss", "train", "validation", "test", "weighted F1"]
CLASSIFIED = "Loss on validation images in nats, accuracy on each split, and weighted F1 on test images; {seeds}."
SEGMENTED = "IoU of each class, mean IoU and F1@IoU on test images; {seeds}."


def comparison_section(table: ComparisonTable) -> dict[str, Any]:
    """What the comparison tells, its cells and scores as tables and pictures, and every pair."""
    shown, scores, best = table.table(), table.scores(), table.best["name"]
    names, seeds = table.cells["name"].tolist(), over_seeds(table.cells)
    score = metric_name(table.metric)
    pairs = [
        (
            pair["cell"],
            pair["other"],
            points_text(pair["difference"], pair["low"], pair["high"]),
            pair["verdict"],
            DASH if math.isnan(pair["images_needed"]) else f"{pair['images_needed']:,.0f}",
        )
        for pair in table.pairs().to_dict("records")
    ]
    return {
        "id": table.path.name,
        "title": ", ".join(table.factors).replace("_", " ") or "repeats",
        "lines": table.lines(),
        "caption": f"Test {score}, {seeds} [95 % interval over groups], on "
        f"{plural(table.images, 'image')} in {plural(table.groups, 'group')}.",
        "columns": [str(column).replace("_", " ") for column in shown.columns],
        "rows": [
            {"cells": [str(value) for value in row], "best": name == best}
            for name, row in zip(names, shown.itertuples(index=False), strict=True)
        ],
        "score_columns": [metric_name(c) for c in scores] if table.segments else SCORE_COLUMNS,
        "scores_caption": (SEGMENTED if table.segments else CLASSIFIED).format(seeds=seeds),
        "scores": [(name, [score_text(value) for value in row]) for name, *row in scores.itertuples()],
        "picture": picture(
            table.plot(), f"Test {score} of {plural(len(names), 'combination')} with intervals; best: {best}"
        ),
        "curves": picture(
            table.plot_histories(), f"Learning curves of {plural(len(names), 'combination')}, first seed"
        ),
        "pairs": pairs,
    }
