"""How images are explained, and how the explanations are scored: small frozen option classes."""

from dataclasses import dataclass
from typing import Any

from xaitune.config.choices import BOX_REGIONS, METHODS, PRECISIONS, PREPROCESSINGS, RULES, SEGMENTERS
from xaitune.config.fields import check_fields, setting
from xaitune.config.parse import parse_blocks, parse_fill
from xaitune.config.rules import Choice, Flag, Names, Number, Rule, Text, Whole, require_choice
from xaitune.errors import ConfigError


class _Segmenter(Rule):
    """A segmenter's name; labels and functions pass as they are."""

    choices = SEGMENTERS

    def __call__(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            require_choice(name, value, SEGMENTERS)
        return value


class _Fill(Rule):
    """'mean', 'blur' or a colour."""

    metavar = "mean|blur|R,G,B"

    def __call__(self, name: str, value: Any) -> Any:
        return parse_fill(value)


class _Blocks(Rule):
    """Blocks of any model: checked later, when the model and its number of blocks are known."""

    metavar = "BLOCKS"


@dataclass(frozen=True)
class ExplainOptions:
    """Which explanation: `method`, `blocks` or `layers`, and the class to explain (None: each image's top class).

    `rule` weighs the channels of a block (Grad-CAM and its relatives); `precision` is that of the computation.
    """

    method: str = setting("gradcam", Choice(METHODS), "Explanation method.", panel="Explanation")
    blocks: Any = setting("all", _Blocks(), "Blocks to draw: 3, 1-3, 1,3 or all.", panel="Explanation", flag="--block")
    layers: str | None = setting(
        None,
        Names("names of layers"),
        "Layers to draw instead of blocks, separated by commas; list shows the model's.",
        panel="Explanation",
        flag="--layer",
    )
    class_name: str | None = setting(
        None,
        Text(optional=True, metavar="NAME"),
        "Class to explain.",
        panel="Explanation",
        otherwise="each image's top class",
        flag="--class",
    )
    rule: str = setting("gradcam", Choice(RULES), "How Grad-CAM weights the channels of a block.", panel="Explanation")
    precision: str = setting(
        "auto",
        Choice(PRECISIONS),
        "Precision of the computation; auto: bfloat16 where the processor has units for it.",
        panel="Explanation",
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def check_blocks(self, count: int | None) -> None:
        """Raise ConfigError for blocks that the method or a model of `count` blocks does not have (None: not known yet)."""
        wanted = parse_blocks(self.blocks, high=count)
        if self.layers and (self.method != "gradcam" or self.blocks != "all"):
            raise ConfigError("Layers can be drawn by the method gradcam, without blocks. Leave one of them out.")
        if self.method == "cam" and wanted not in ((5,), (1, 2, 3, 4, 5)):
            raise ConfigError(
                f"CAM is drawn at the last block only: leave the block out. Received: block={self.blocks!r}."
            )
        if self.method == "lime" and wanted != (1, 2, 3, 4, 5):
            raise ConfigError(f"LIME looks at the whole model: leave the block out. Received: block={self.blocks!r}.")


@dataclass(frozen=True)
class ModelOptions:
    """How a model that xaitune did not train is opened; see `explain.classifier.open_classifier`."""

    preprocess: str = setting(
        "auto",
        Choice(PREPROCESSINGS),
        "How images 0..255 were preprocessed before your own model; auto changes nothing, and warns if the model scales none.",
        panel="Model",
    )
    output: str | None = setting(
        None,
        Text(optional=True, metavar="NAME"),
        "Which of several outputs of a model of your own.",
        panel="Model",
        otherwise="its only one",
    )
    class_names: str | None = setting(
        None,
        Names("names of classes"),
        "Classes of a model of your own, in order: cat,dog (for one unit z first the class of z < 0).",
        panel="Model",
    )
    bit_depth: int | None = setting(
        None,
        Whole(9, optional=True, high=16),
        "Bits in use of 16-bit files, 9 to 16, such as 12; their largest value becomes white.",
        panel="Model",
        otherwise="as in the run's training",
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def given(self) -> dict[str, Any]:
        """The arguments of `open_classifier`."""
        names = self.class_names.split(",") if self.class_names else None
        return {"preprocess": self.preprocess, "output": self.output, "class_names": names}


@dataclass(frozen=True)
class LimeOptions:
    """Options of LIME; see `lime_superpixels`."""

    num_samples: int = setting(1000, Whole(2), "Maximum forward passes per image.", panel="LIME")
    segmenter: Any = setting("quickshift", _Segmenter(), "How the image is cut into superpixels.", panel="LIME")
    fill: Any = setting(
        "mean", _Fill(), "What replaces a hidden superpixel: its mean colour, blur, or a colour R,G,B.", panel="LIME"
    )
    exact: bool = setting(False, Flag(), "Give the lime package's weights, sample for sample.", panel="LIME")
    seed: int = setting(0, Whole(0), "Random seed for the LIME masks.", panel="LIME")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ScoreOptions:
    """What explanations are scored against, and how much the scores that query the model may cost."""

    masks: str | None = setting(
        None,
        Text(optional=True),
        "Score against the masks <class>/<stem>.* in this folder.",
        panel="Scores",
        otherwise="those of xaitune.toml",
    )
    groups: str | None = setting(
        None,
        Text(optional=True, metavar="CSV|REGEX"),
        "Groups for the intervals: CSV file,group or a regular expression.",
        panel="Scores",
        otherwise="those of xaitune.toml",
    )
    images: int | None = setting(
        None,
        Whole(1, optional=True),
        "Images for deletion, insertion, average drop and ROAD.",
        panel="Scores",
        otherwise="as many as take 2 minutes",
        flag="--score-images",
    )
    steps: int | None = setting(
        None,
        Whole(1, optional=True),
        "Steps of deletion and insertion.",
        panel="Scores",
        otherwise="10, or fewer to fit 2 minutes",
        flag="--score-steps",
    )
    true_boxes: str | None = setting(
        None,
        Text(optional=True, metavar="CSV|JSON"),
        "Score boxes against those in a CSV file,x,y,width,height[,class] or a COCO file.",
        panel="Boxes",
        otherwise="the boxes of the masks",
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class BoxOptions:
    """Which regions of a heatmap get a box; see `explain.boxes.boxes_from_maps`."""

    threshold: float = setting(
        0.2,
        Number("above 0 and at most 1", lambda share: 0 < share <= 1),
        "Boxes surround what reaches this share of a map's maximum.",
        panel="Boxes",
        flag="--box-threshold",
    )
    regions: str = setting(
        "largest",
        Choice(BOX_REGIONS),
        "A box for the largest connected region of a map, or for all.",
        panel="Boxes",
        flag="--box-regions",
    )
    min_area: float = setting(
        0.001,
        Number("at least 0 and below 1", lambda share: 0 <= share < 1),
        "With all regions: leave out those below this share of the image.",
        panel="Boxes",
        flag="--box-min-area",
    )

    def __post_init__(self) -> None:
        check_fields(self)
