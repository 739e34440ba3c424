"""Commands as a reader can paste them: with the options that find the results and the settings that the page is about."""

import os
import shlex
from pathlib import Path

from xaitune._files import read_json
from xaitune.config.toml import CONFIG_FILE, load_config
from xaitune.errors import XaituneError
from xaitune.training.folder import CONFIG

GENERAL = ("images", "imgs", "img", "data", "train", "dataset")  # names of folders that say nothing of what is in them
NEED_DATA = (
    "train",
    "advise",
    "sweep-freeze",
    "compare",
    "collect",
    "data-check",
)  # commands that read images and settings


class CommandLine:
    """A command -> the same, for the folder in which the page is written.

    Where that folder's xaitune.toml is not about the same images, commands that read images get the config.json of the
    result, which has their path and all settings; where results are not in `runs`, every command gets their folder.
    """

    def __init__(self, path: Path) -> None:
        config, place = path / CONFIG, path
        while (place.parent / CONFIG).is_file():  # of a sweep, a fold or a comparison that this is a part of
            place = place.parent
        named = config.is_file() and not _is_configured(config)
        self.settings = f" --config {shown_path(config)}" if named else ""
        here = place.parent.resolve() == Path("runs").resolve() or not config.is_file()
        self.runs = "" if here else f" --runs-dir {shown_path(place.parent)}"
        self.folder = str(Path.cwd())

    def __call__(self, command: str) -> str:
        """The command with what it needs; anything else unchanged."""
        words = command.split()
        if words[:1] != ["xaitune"] or len(words) < 2:
            return command
        settings = self.settings if words[1] in NEED_DATA and "--config" not in words else ""
        return command + settings + self.runs


def is_complete(command: str) -> bool:
    """Whether a command can be pasted as it is: it names no RUN or IMAGES to fill in.

    Examples:
        >>> is_complete("xaitune advise --seed 1"), is_complete("xaitune compare --factor NAME --values V,V")
        (True, False)
    """
    return command != "" and not any(word.replace(",", "").isupper() for word in shlex.split(command))


def data_name(path: str) -> str:
    """What a data set is called: its folder, or the one above where that is only called images or data.

    Examples:
        >>> data_name("/data/magnetic-tile/images"), data_name("tiles.csv")
        ('magnetic-tile', 'tiles')
    """
    place = Path(os.path.abspath(path))
    name = place.stem if place.suffix.lower() == ".csv" else place.name
    while name.lower() in GENERAL and place.parent.name:
        place = place.parent
        name = place.name
    return name


def _is_configured(config: Path) -> bool:
    """Whether xaitune.toml in this folder is about the images of that config.json."""
    try:
        own = load_config(CONFIG_FILE).data.path
        return bool(own) and Path(own).resolve() == Path(read_json(config)["data"]["path"]).resolve()
    except (XaituneError, KeyError, TypeError):
        return False


def shown_path(path: Path) -> str:
    """A path for a command line, relative to this folder where it is below it."""
    whole, here = Path(os.path.abspath(path)), Path.cwd()
    return shlex.quote(str(whole.relative_to(here) if whole.is_relative_to(here) else whole))
