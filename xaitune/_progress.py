"""Types of the callbacks that long-running work calls."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # number done, total number, what is being done
# The same for one part, named first, such as a run; in the last call for a part, the number done equals the total.
PartProgress = Callable[[str, int, int, str], None]
Notes = Callable[[str], None]  # one line for the user
