"""Every error that xaitune raises on purpose.

    XaituneError              exit status 1: the work failed
    |-- RunError              a run, a sweep or one of its files failed
    |   `-- RunLockedError    another process is working in the folder
    `-- InputError            exit status 2: the input or the call must be fixed
        |-- ConfigError       an option, a key of xaitune.toml, a field of a configuration
        |-- ImageError        one image file
        |-- DataError         an image folder, a CSV, groups, masks, a split
        |-- ModelError        a model, or a block or class that it lacks
        `-- WeightsError      pretrained weights

A message is one or two lines: what is wrong, which file or value was received, what to do.
"""

import difflib
from collections.abc import Iterable, Sequence


class XaituneError(Exception):
    """The work failed. Base class of all errors of this package."""

    exit_status = 1


class RunError(XaituneError):
    """A run, a sweep or one of its files failed."""


class RunLockedError(RunError):
    """Another process holds the lock of a run folder."""


class InputError(XaituneError, ValueError):
    """The input or the call must be fixed."""

    exit_status = 2


class ConfigError(InputError):
    """An option, a key of xaitune.toml or a field of a configuration is wrong."""


class ImageError(InputError):
    """One image file cannot be used."""


class DataError(InputError):
    """A data set cannot be used as it is."""


class ModelError(InputError):
    """A model does not fit the task, or lacks the requested block or class."""


class WeightsError(InputError):
    """Pretrained weights cannot be found, read or used."""


class XaituneWarning(UserWarning):
    """Something was done differently from what was asked; the message says what. The command line prints it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint ' Did you mean X?' if a known name resembles `name`, else ''."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def unknown_class(class_name: str, known: Sequence[str]) -> ModelError:
    """The error for a class that a model lacks; it suggests the most similar class that the model has."""
    listed = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
    return ModelError(f"Unknown class {class_name!r}.{nearest(class_name, known)} The model's classes: {listed}.")
