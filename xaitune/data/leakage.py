"""Images that show the same thing: duplicates, leakage between splits, and groups that keep them together."""

import numpy as np
import pandas as pd

from xaitune.data.duplicates import MIN_IMAGES, connected
from xaitune.data.listing import positions_by_value
from xaitune.data.problems import LabelledImages, Problem, named

LARGE_COMPONENT = 0.05  # a larger share of the images connected by near-duplicates is suspicious


def large_components(data: LabelledImages, component: np.ndarray) -> list[Problem]:
    """Duplicates that connect so many images that the proposed groups may be wrong."""
    problems = []
    for number in np.flatnonzero(np.bincount(component) > max(LARGE_COMPONENT * len(data.files), MIN_IMAGES)):
        files = tuple(data.files[i] for i in np.flatnonzero(component == number))
        message = (
            f"Near-duplicates connect {len(files)} of {len(data.files)} images ({len(files) / len(data.files):.0%}) to one "
            f"group: either they show one thing, or your images look alike and the proposed groups are wrong. "
            f"Look at a few of them: {named(files)}."
        )
        problems.append(Problem("warning", "one large group", files, message))
    return problems


def identical_pairs(digests: tuple[str, ...]) -> np.ndarray:
    """(m, 2) positions: the first file of each content, paired with every later file of the same content."""
    pairs = [(same[0], i) for same in positions_by_value(digests).values() for i in same[1:]]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def duplicate_problems(data: LabelledImages, exact: np.ndarray, pairs: np.ndarray) -> list[Problem]:
    """Exact duplicates, also across classes; near-duplicates in different groups; both across splits."""
    problems = []

    def report_pairs(level: str, kind: str, chosen: np.ndarray, text: str) -> None:
        if len(chosen):
            names = tuple(data.files[i] for i in np.unique(chosen))
            example = " and ".join(data.files[i] for i in chosen[0])
            message = text.format(pairs=len(chosen), images=len(names)) + f" The first: {example}."
            problems.append(Problem(level, kind, names, message))

    def differing(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
        return chosen[values[chosen[:, 0]] != values[chosen[:, 1]]]

    report_pairs("note", "exact duplicates", exact, "{images} images have the same content as another image.")
    report_pairs(
        "warning",
        "equal images, two classes",
        differing(exact, data.labels),
        "{pairs} pairs of identical images are in two classes.",
    )
    report_pairs(
        "warning",
        "near-duplicates in different groups",
        differing(pairs, data.groups),
        "{pairs} pairs ({images} images) seem to show the same thing but are in different groups: "
        "use the groups that 'xaitune data-check' proposes.",
    )
    report_pairs(
        "warning",
        "leakage: duplicates across splits",
        differing(pairs, data.split),
        "{pairs} pairs of duplicates or near-duplicates ({images} images) are in different splits, "
        "so the test score would be too high: use the proposed groups.",
    )
    return problems


def group_leakage(data: LabelledImages) -> list[Problem]:
    """Groups divided by the given splits, and groups with images of several classes."""
    problems = []
    members = positions_by_value(data.groups.tolist())
    divided = [g for g, positions in members.items() if len(set(data.split[positions])) > 1]
    if divided:
        files = tuple(data.files[i] for g in divided for i in members[g])
        message = f"{len(divided)} groups are divided by the given splits: {named(divided)}. Fix the splits."
        problems.append(Problem("warning", "leakage: groups across splits", files, message))
    mixed = [g for g, positions in members.items() if len(set(data.labels[positions])) > 1]
    if mixed:
        files = tuple(data.files[i] for g in mixed for i in members[g])
        message = f"{len(mixed)} groups have images of several classes (they are kept together): {named(mixed)}."
        problems.append(Problem("note", "groups of several classes", files, message))
    return problems


def proposed_groups(data: LabelledImages, pairs: np.ndarray) -> pd.DataFrame | None:
    """The current groups, merged where duplicates connect them; each is named after the group of its first file."""
    if not len(pairs) or (data.groups[pairs[:, 0]] == data.groups[pairs[:, 1]]).all():
        return None
    members = positions_by_value(data.groups.tolist()).values()
    same_group = [(positions[0], i) for positions in members for i in positions[1:]]
    merged = connected(len(data.files), np.concatenate([pairs, np.array(same_group, dtype=int).reshape(-1, 2)]))
    first = np.unique(merged, return_index=True)[1]
    return pd.DataFrame({"file": data.files, "group": data.groups[first[merged]]})
