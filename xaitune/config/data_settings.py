"""The settings of the images: where they are, how they are split and resized, and what their masks mean."""

from dataclasses import dataclass

from xaitune.config.choices import RESIZE
from xaitune.config.fields import check_fields, setting
from xaitune.config.parse import parse_fold, parse_image_size, parse_pixel_classes, parse_split
from xaitune.config.rules import Choice, Flag, Parsed, Text, Whole


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they are split and resized.

    `path`: class folders, ready-made splits, or a CSV. `masks`: a folder that mirrors the class folders.
    `groups`: a CSV `file,group`, or a regular expression on the file name whose first group names the thing
    photographed. `image_size`: (height, width) in pixels. `split`: shares of train, validation and test. `fold`, such as
    '2/5', divides the images into so many folds instead, of which this one is for testing and the next for validation.
    `recursive`: read images at any depth below a class folder. `bit_depth`: the bits that are used of 16-bit files.
    `pixel_classes`: what the values in masks mean, for a segmentation; None marks pixels above half of the range as being of
    the image's own class.
    `label_fixes`: a CSV `file,action[,new_class]` that corrects labels without changing files.

    >>> DataConfig("images", image_size="96x128").image_size
    (96, 128)
    """

    path: str = setting("", Text(), "Class folders, or a CSV file,label[,split][,group].", panel="Data")
    masks: str | None = setting(
        None, Text(optional=True), "Folder with masks: <class>/<stem>.*, white where the defect is.", panel="Data"
    )
    groups: str | None = setting(
        None,
        Text(optional=True, metavar="CSV|REGEX"),
        "CSV file,group or a regular expression on the file name: images of one thing stay in one split.",
        panel="Data",
    )
    image_size: tuple[int, int] = setting(
        (224, 224), Parsed(parse_image_size, "HxW"), "HEIGHTxWIDTH of the model's input, such as 96x96.", panel="Data"
    )
    split: tuple[float, ...] = setting(
        (0.6, 0.2, 0.2), Parsed(parse_split, "A,B,C"), "Shares of train, validation and test.", panel="Data"
    )
    split_seed: int = setting(
        0, Whole(0), "Random seed for the split; all runs of a comparison share it.", panel="Data"
    )
    resize: str = setting(
        "stretch",
        Choice(RESIZE),
        "Stretch images to the input size, or pad them to keep their aspect ratio.",
        panel="Data",
    )
    fold: str | None = setting(
        None,
        Parsed(parse_fold, "K/N"),
        "Test on fold K of N, such as 2/5, validate on the next one, and train on the rest.",
        panel="Data",
        otherwise="the split",
    )
    recursive: bool = setting(
        False,
        Flag(),
        "Read images at any depth below a class folder, not only those directly in it.",
        panel="Data",
        since=2,
    )
    bit_depth: int | None = setting(
        None,
        Whole(9, optional=True, high=16),
        "Bits in use of 16-bit files, 9 to 16, such as 12; their largest value becomes white.",
        panel="Data",
        otherwise="16",
        since=2,
    )
    pixel_classes: str | None = setting(
        None,
        Parsed(parse_pixel_classes, "NAME|V=NAME,..."),
        "Classes in masks: a name for all marked pixels, or VALUE=NAME,... such as 0=background,1=crack,255=ignore.",
        panel="Data",
        otherwise="marked pixels are of the image's class",
        since=2,
    )
    label_fixes: str | None = setting(
        None,
        Text(optional=True, metavar="CSV"),
        "CSV file,action[,new_class] with keep, relabel or drop for images whose label is wrong.",
        panel="Data",
        since=2,
    )

    def __post_init__(self) -> None:
        check_fields(self)
