"""The callbacks that long-running work calls, and the bar that a notebook shows where none is given."""

import html
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from xaitune._names import duration

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
        progress(round(SHARES * (start + (end - start) * done / max(total, 1))), SHARES, prefix + what)

    return report


REDRAWN = 0.2  # seconds between two drawings of a notebook's bar


def shown_progress(progress: Progress | None, what: str) -> Progress | None:
    """The function given; without one a bar named `what` in a notebook, and None elsewhere."""
    return NotebookBar(what) if progress is None and in_notebook() else progress


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel (IPython's shell over ZMQ)."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__)


class NotebookBar:
    """A bar below a notebook's cell as a `Progress`: what is done, how much of it, the time left, and what is being done."""

    def __init__(self, what: str) -> None:
        self.what, self.start, self.drawn = what, time.monotonic(), 0.0
        self.shows: Any = importlib.import_module("IPython.display")
        self.handle: Any = None  # until there is something to show

    def __call__(self, done: int, total: int, text: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self.drawn < REDRAWN:
            return
        self.drawn = now
        drawn = self.shows.HTML(self.picture(done, total, text))
        if self.handle is None:
            self.handle = self.shows.display(drawn, display_id=True)
        else:
            self.handle.update(drawn)

    def picture(self, done: int, total: int, text: str) -> str:
        """The bar as HTML."""
        share, passed = done / max(total, 1), time.monotonic() - self.start
        took = f"{duration(passed / share * (1 - share))} left" if 0 < share < 1 else duration(passed)
        said = ", ".join(filter(None, (f"{share:.0%}", took, text)))
        name = html.escape(self.what)
        return f'{name} <progress value="{share:.3f}" max="1" aria-label="{name}"></progress> {html.escape(said)}'
