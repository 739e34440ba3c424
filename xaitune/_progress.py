"""What long work calls while it goes on."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # how many are done, how many there are, and what is being done
PartProgress = Callable[
    [str, int, int, str], None
]  # the same for one named part, such as a run; at its end all are done
Notes = Callable[[str], None]  # a line for the user
