"""What a user can set: frozen dataclasses whose fields carry their help, rule and place; see `fields`.

Every field is checked when the object is made, so a configuration that exists is valid.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xaitune.config.choices import (
    ARCHITECTURES,
    AUGMENTATIONS,
    HEAD_BLOCKS,
    HEADS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    PIXEL_METRICS,
    PRECISIONS,
    SCHEDULES,
    SCRATCH,
    TASKS,
)
from xaitune.config.data_settings import DataConfig
from xaitune.config.fields import check_fields, setting
from xaitune.config.parse import (
    parse_block_rates,
    parse_blocks,
    parse_class_weight,
    parse_rate,
)
from xaitune.config.rules import (
    Choice,
    Depth,
    Flag,
    Names,
    Number,
    Parsed,
    Text,
    Whole,
    require,
)
from xaitune.config.sweep_settings import SweepConfig
from xaitune.config.tracking_settings import TrackingConfig
from xaitune.errors import ConfigError, nearest

T = TypeVar("T")
SEGMENT_SETTINGS = {"head": "gap", "head_blocks": "all", "trained_blocks": None}  # what a segmentation must leave alone
# What a network that begins at random weights has in place of the defaults.
SCRATCH_SETTINGS = {"weights": "random", "freeze_through": 0, "head_epochs": 0, "head": "gap", "trained_blocks": None}


@dataclass(frozen=True)
class TrainConfig:
    """One training: Block 1..`freeze_through` frozen (0 freezes nothing, 5 is feature extraction).

    Stage (a) trains the head alone for `head_epochs` on the frozen base (Adam), stage
    (b) Block k+1..5 and the head for up to `epochs` with `optimizer`, stopped after `patience` epochs without a
    better validation `metric`; stage (c), `final_epochs` of the whole network at a hundredth of the rate, only on
    request. `trained_blocks`, such as '1' or '4-5', trains these blocks instead of all above `freeze_through`, which is then
    the last block before them. With head 'blocks' stage (a) fits the head at once, and there is no stage (b) where all
    blocks are frozen.
    `seed` changes initialisation and order, never the split. `learning_rate` None means the table's, 'keras' Keras's default.

    `task`: 'classify' images, or 'segment' them: a U-Net's decoder on the five blocks takes the place of the head, and masks say
    the class of every pixel. Its metric is 'iou_mean' unless it is given.

    `architecture`: one of config.choices.ARCHITECTURES. Those that begin at random weights have no frozen blocks and no stage
    (a): `weights` is then 'random', `freeze_through` and `head_epochs` are 0.

    Of stage (b): `schedule` holds the rate (constant), lets it fall to 0 along half a cosine over `epochs`, or cuts it
    after epochs without a better validation `metric` (plateau); over the first `warmup_epochs` it rises from 0 in equal
    steps; `block_rates`, such as '1-3=0.1,head=10', multiply it for some blocks or the head.

    `augmentation`, such as 'flip,rotation', changes training images at random after stage (a), all of them or those of
    `augment_classes`. With `augmented_views` n each has n changed copies, taken in turn by epoch, whose frozen features
    are kept; with 0 every step draws anew, which costs the frozen blocks again. `balance_by_augmentation` draws the images of
    all classes but the most frequent one several times in each epoch, changed anew, until every class is as frequent.

    >>> TrainConfig(optimizer="sgd").rate
    0.01
    """

    task: str = setting(
        "classify",
        Choice(TASKS),
        "Classify images, or segment them: learn the class of every pixel from --masks.",
        panel="Model",
        stage="head",
        since=2,
    )
    architecture: str = setting(
        "vgg16",
        Choice(ARCHITECTURES),
        "Network: a VGG, or LeNet-5 and a small CNN, which are trained from random weights.",
        panel="Model",
        stage="head",
        since=2,
    )
    weights: str = setting(
        "imagenet",
        Text("a name or a path", empty=False, metavar="NAME|PATH"),
        "Pretrained weights: imagenet, slim, random, an .h5 in Keras's no-top layout, or a run's folder.",
        panel="Model",
        stage="head",
        identity=False,  # a run names them by their digest
    )
    head: str = setting(
        "gap",
        Choice(HEADS),
        "Global average pooling (gap), VGG's dense layers (fc), or a linear head on the features of all blocks (blocks).",
        panel="Model",
        stage="head",
    )
    head_blocks: str = setting(
        "all",
        Choice(HEAD_BLOCKS),
        "Blocks whose features --head blocks takes; best: the one that cross-validation chooses, without fine-tuning.",
        panel="Model",
        stage="head",
        since=2,
    )
    freeze_through: int = setting(
        3,
        Depth(0, 5),
        "Freeze Block 1 to this one: 0 nothing, 5 all (feature extraction).",
        panel="Model",
        stage="fine-tune",
    )
    trained_blocks: str | None = setting(
        None,
        Parsed(lambda value: _trained_blocks_text(value), "B,..."),
        "Train these blocks and the head, and freeze all others, such as 1, 4-5 or 1,5; in place of --freeze-through.",
        panel="Model",
        stage="fine-tune",
        otherwise="those that are not frozen",
        since=2,
    )
    optimizer: str = setting(
        "nag", Choice(tuple(OPTIMIZERS)), "Optimizer of the fine-tuning.", panel="Training", stage="fine-tune"
    )
    learning_rate: float | str | None = setting(
        None,
        Parsed(parse_rate, "X|keras"),
        "Learning rate of the fine-tuning; keras: Keras's default for the optimizer.",
        panel="Training",
        stage="fine-tune",
        otherwise="the optimizer's own",
    )
    seed: int = setting(
        0, Whole(0), "Random seed for initialisation and order; never for the split.", panel="Training", stage="head"
    )
    head_epochs: int = setting(5, Whole(0), "Epochs of the head alone.", panel="Training", stage="head")
    epochs: int = setting(20, Whole(0), "Maximum epochs of fine-tuning.", panel="Training", stage="fine-tune")
    final_epochs: int = setting(
        0,
        Whole(0),
        "Epochs of the whole network at a hundredth of the learning rate, at the end.",
        panel="Training",
        stage="fine-tune",
    )
    patience: int = setting(
        5,
        Whole(1),
        "Stop after this many epochs without a better validation score.",
        panel="Training",
        stage="fine-tune",
    )
    batch_size: int = setting(32, Whole(1), "Images per step.", panel="Training", stage="head")
    metric: str = setting(
        "f1_macro",
        Choice((*METRICS, *PIXEL_METRICS)),
        "Score that decides early stopping, the best run and the verdict; of a segmentation iou_mean unless given.",
        panel="Training",
        stage="fine-tune",
    )
    loss: str = setting(
        "categorical_crossentropy", Choice(tuple(LOSSES)), "Loss function.", panel="Training", stage="head"
    )
    class_weight: str | None = setting(
        None,
        Parsed(parse_class_weight, "NAME"),
        "Weights of the classes in the loss: balanced (by 1 / frequency), share (1 - frequency), or crack=2,free=0.5.",
        panel="Training",
        stage="head",
    )
    precision: str = setting(
        "auto",
        Choice(PRECISIONS),
        "Precision of the computation; auto: bfloat16 where the processor has units for it.",
        panel="Model",
        stage="head",
        identity=False,  # how a run is computed, not which run it is
    )
    label_smoothing: float = setting(
        0.0,
        Number("at least 0 and below 1", lambda share: 0 <= share < 1),
        "Share of each target spread over all classes, from 0 to below 1.",
        panel="Training",
        stage="head",
        since=2,
    )
    schedule: str = setting(
        "constant", Choice(SCHEDULES), "Learning-rate schedule.", panel="Training", stage="fine-tune", since=2
    )
    warmup_epochs: int = setting(
        0, Whole(0), "Epochs in which the learning rate rises from 0.", panel="Training", stage="fine-tune", since=2
    )
    block_rates: str | None = setting(
        None,
        Parsed(lambda value: _block_rates_text(value), "B=X,..."),
        "Multipliers of the learning rate for blocks or the head, such as 1-3=0.1,head=10.",
        panel="Training",
        stage="fine-tune",
        otherwise="all 1",
        since=2,
    )
    augmentation: str | None = setting(
        None,
        Names("names such as flip,rotation", tuple(AUGMENTATIONS)),
        f"Random changes to training images: any of {', '.join(AUGMENTATIONS)}.",
        panel="Augmentation",
        stage="fine-tune",
        since=2,
    )
    augment_classes: str | None = setting(
        None,
        Names("names such as flip,rotation"),
        "Augment images of these classes only.",
        panel="Augmentation",
        stage="fine-tune",
        otherwise="all",
        since=2,
    )
    augmented_views: int = setting(
        0,
        Whole(0),
        "Augmented copies of each image whose frozen features are cached; 0: new ones in every step.",
        panel="Augmentation",
        stage="fine-tune",
        since=2,
    )

    balance_by_augmentation: bool = setting(
        False,
        Flag(),
        "Draw images of rarer classes again in each epoch, changed by --augmentation, until all classes are as frequent.",
        panel="Augmentation",
        stage="fine-tune",
        since=2,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        self._settle_task()
        self._settle_architecture()
        self._settle_blocks()
        require(self.head_epochs + self.epochs > 0, "epochs", "above 0 where head_epochs is 0", self.epochs)
        only_fitted = self.head == "blocks" and self.freeze_through == 5 and not self.final_epochs
        want = "all unless head is blocks and freeze_through is 5, without final_epochs"
        require(self.head_blocks == "all" or only_fitted, "head_blocks", want, self.head_blocks)
        warm = self.warmup_epochs
        require(warm == 0 or warm < self.epochs, "warmup_epochs", f"fewer than epochs ({self.epochs})", warm)
        if self.label_smoothing and not LOSSES[self.loss][1]:
            raise ConfigError(
                f"label_smoothing needs another loss, such as categorical_crossentropy. Received: {self.loss}."
            )
        for name in ("augment_classes", "augmented_views", "balance_by_augmentation"):
            unused = getattr(self, name) and not self.augmentation
            require(not unused, name, "left out without augmentation", getattr(self, name))
            clash = getattr(self, name) and self.balance_by_augmentation and name != "balance_by_augmentation"
            require(not clash, name, "left out with balance_by_augmentation", getattr(self, name))

    def _settle_task(self) -> None:
        """Give a segmentation its own metric, and refuse what belongs to the other task."""
        if not self.segments:
            require(
                self.metric in METRICS, "metric", f"one of {', '.join(METRICS)} unless task is segment", self.metric
            )
            require(self.loss != "dice", "loss", "another one, or task segment", self.loss)
            return
        if self.metric == type(self).metric:
            object.__setattr__(self, "metric", PIXEL_METRICS[0])
        require(
            self.metric in PIXEL_METRICS, "metric", f"one of {', '.join(PIXEL_METRICS)} with task segment", self.metric
        )
        for name, value in SEGMENT_SETTINGS.items():
            require(
                getattr(self, name) == value, name, f"{value!r}, or left out, with task segment", getattr(self, name)
            )
        require(not self.from_scratch, "architecture", "a VGG with task segment", self.architecture)
        require(self.loss != "dice" or not self.label_smoothing, "loss", "another one with label_smoothing", self.loss)

    def _settle_architecture(self) -> None:
        """Give a network that is trained from random weights the settings that it must have, and no others."""
        if not self.from_scratch:
            return
        for name, value in SCRATCH_SETTINGS.items():
            default = type(self).__dataclass_fields__[name].default
            want = f"{value!r}, or left out, with architecture {self.architecture}"
            require(getattr(self, name) in (default, value), name, want, getattr(self, name))
            object.__setattr__(self, name, value)

    def _settle_blocks(self) -> None:
        """Give the two ways of naming the blocks one form: `trained_blocks` stays only where it is no end of the network."""
        if self.trained_blocks is None:
            return
        blocks = parse_blocks(self.trained_blocks, "trained_blocks")
        through = blocks[0] - 1
        want = f"{through}, or left out, with trained_blocks {self.trained_blocks}"
        require(
            self.freeze_through in (type(self).freeze_through, through), "freeze_through", want, self.freeze_through
        )
        object.__setattr__(self, "freeze_through", through)
        if blocks == tuple(range(through + 1, 6)):
            object.__setattr__(self, "trained_blocks", None)

    @property
    def segments(self) -> bool:
        """Whether the task is a segmentation."""
        return self.task == "segment"

    @property
    def from_scratch(self) -> bool:
        """Whether the network begins at random weights, without blocks to freeze."""
        return self.architecture in SCRATCH

    @property
    def frozen_above(self) -> tuple[int, ...]:
        """The frozen blocks above the first one that is trained."""
        if self.trained_blocks is None:
            return ()
        trained = parse_blocks(self.trained_blocks, "trained_blocks")
        return tuple(block for block in range(trained[0], 6) if block not in trained)

    @property
    def named_classes(self) -> dict[str, tuple[str, ...]]:
        """Setting -> the classes that it names, which the data must have; in a segmentation class_weight names pixel classes."""
        named = {"augment_classes": self.classes_to_augment}
        return named if self.segments else {**named, "class_weight": tuple(self.weights_by_class)}

    @property
    def weights_by_class(self) -> dict[str, float]:
        """The named weights in `class_weight`."""
        if self.class_weight in (None, "balanced", "share"):
            return {}
        pairs = (part.rpartition("=") for part in str(self.class_weight).split(","))
        return {name: float(weight) for name, _, weight in pairs}

    @property
    def classes_to_augment(self) -> tuple[str, ...]:
        """The names in `augment_classes`; none stands for all classes."""
        return tuple(self.augment_classes.split(",")) if self.augment_classes else ()

    @property
    def rate(self) -> float:
        """The learning rate of stage (b): `learning_rate`, or the optimizer table's."""
        if isinstance(self.learning_rate, float | int):
            return self.learning_rate
        _, _, own, keras_default = OPTIMIZERS[self.optimizer]
        return own if self.learning_rate is None else keras_default


def _trained_blocks_text(value: Any) -> str | None:
    return None if value is None else ",".join(map(str, parse_blocks(value, "trained_blocks")))


def _block_rates_text(value: Any) -> str | None:
    return ",".join(f"{block}={factor:g}" for block, factor in parse_block_rates(value).items()) or None


@dataclass(frozen=True)
class Config:
    """The four tables of xaitune.toml."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def replace_fields(config: T, options: dict[str, Any]) -> T:
    """A copy of a configuration with `options` set; an unknown name is refused with the nearest one."""
    known = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"Unknown option {name!r} for {type(config).__name__}.{nearest(name, known)} Known: {', '.join(known)}."
            )
    return dataclasses.replace(config, **options)  # type: ignore[type-var]
