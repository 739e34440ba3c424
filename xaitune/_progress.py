"""The callbacks that long-running work calls."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # number done, total number, what is being done
# The same for one part, named first, such as a run; in the last call for a part, the number done equals the total.
PartProgress = Callable[[str, int, int, str], None]
Notes = Callable[[str], None]  # one line for the user

SHARES = 1000  # what a part of the work counts in


def part_of(progress: Progress | None, start: float, end: float, prefix: str = "") -> Progress | None:
    """What a part of the work reports to, so that `progress` goes from the share `start` (0..1) of the whole to `end`.

    Examples:
        >>> part_of(lambda *said: print(said), 0.5, 1.0, "fold 2: ")(1, 4, "training")
        (625, 1000, 'fold 2: training')
    """
    if progress is None:
        return None

    def report(done: int, total: int, what: str) -> None:
        progress(int(SHARES * (start + (end - start) * done / max(total, 1))), SHARES, prefix + what)

    return report
