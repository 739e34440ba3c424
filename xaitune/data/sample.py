"""A sample of images that has all classes and groups in it."""

import numpy as np
import pandas as pd

from xaitune.data.dataset import ImageData


def choose_images(data: ImageData, rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the rows: the classes in turn, and a new group before a second image of the same group."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(rows)
    frame = pd.DataFrame({"row": rows, "class": data.labels[rows], "group": data.groups[rows]})
    frame["again"] = frame.groupby(["class", "group"]).cumcount()
    frame = frame.sort_values("again", kind="stable")
    frame["turn"] = frame.groupby("class").cumcount()
    return np.sort(frame.sort_values("turn", kind="stable")["row"].to_numpy()[:limit])
