"""What a user can set: frozen dataclasses, the tables of names, and xaitune.toml.

Every field is checked when the object is made, so a configuration that exists is valid.
"""

import dataclasses
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from xaitune.errors import ConfigError, nearest

T = TypeVar("T")

# Keras optimizer class and arguments, and a learning rate that fine-tunes VGG16 (no batch normalisation).
OPTIMIZERS = MappingProxyType(
    {
        "sgd": ("SGD", {}, 1e-2),
        "momentum": ("SGD", {"momentum": 0.9}, 1e-3),
        "nag": ("SGD", {"momentum": 0.9, "nesterov": True}, 1e-3),
        "adagrad": ("Adagrad", {}, 1e-3),
        "rmsprop": ("RMSprop", {}, 1e-5),
        "adadelta": ("Adadelta", {}, 1e-1),
        "adam": ("Adam", {}, 3e-5),
        "adamw": ("AdamW", {}, 3e-5),
        "nadam": ("Nadam", {}, 3e-5),
    }
)
# Keras loss class, whether its targets are one-hot (else class numbers), and its arguments. The focal loss (Lin et al.
# 2017) is -(1 - p)^2 log p of the true class; what weighs a class is `class_weight`, so its alpha is 1.
LOSSES = MappingProxyType(
    {
        "categorical_crossentropy": ("CategoricalCrossentropy", True, {}),
        "sparse_categorical_crossentropy": ("SparseCategoricalCrossentropy", False, {}),
        "focal": ("CategoricalFocalCrossentropy", True, {"alpha": 1.0, "gamma": 2.0}),
    }
)
SCHEDULES = ("constant", "cosine", "plateau")
# Keras layer and arguments; what an image is moved out of its frame by is filled by reflection.
AUGMENTATIONS = MappingProxyType(
    {
        "flip": ("RandomFlip", {}),  # both ways
        "rotation": ("RandomRotation", {"factor": 0.05}),  # 18 degrees at most
        "zoom": ("RandomZoom", {"height_factor": 0.15}),
        "translation": ("RandomTranslation", {"height_factor": 0.1, "width_factor": 0.1}),
        "brightness": ("RandomBrightness", {"factor": 0.15}),
        "contrast": ("RandomContrast", {"factor": 0.2}),
    }
)
METRICS = ("f1_macro", "f1_weighted", "f1_micro", "accuracy", "balanced_accuracy")
HEADS = ("gap", "fc")
NAMED_WEIGHTS = ("imagenet", "slim", "random")  # any other `weights` is a path
METHODS = ("gradcam", "cam", "lime")  # of explaining
PRECISIONS = ("auto", "float32", "bfloat16")
RESIZE = ("stretch", "pad")
ENGINES = ("local", "ray")
RAY_FIELDS = ("ray_address", "run_cpus", "run_gpus")  # of SweepConfig; other engines have no use for them
# Fields that came later than the first run folders: a run's identity names them where they are not at their default.
LATER_FIELDS = (
    "label_smoothing",
    "schedule",
    "warmup_epochs",
    "block_rates",
    "augmentation",
    "augment_classes",
    "augmented_views",
)
EXECUTION_FIELDS = frozenset({"precision"})  # they say how a run is computed, not which run it is


def _check(ok: bool, owner: str, name: str, want: str, got: Any) -> None:
    if not ok:
        raise ConfigError(f"{owner}{name} must be {want}. Received: {name}={got!r}.")


def _choice(value: Any, known: tuple[str, ...] | MappingProxyType, name: str) -> None:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(
            f"{name} must be one of {', '.join(known)}. Received: {name}={value!r}.{nearest(str(value), known)}"
        )


def _as_text(config: Any, name: str) -> None:
    """A field that names a path, as text; None stays."""
    value = getattr(config, name)
    if isinstance(value, Path):
        object.__setattr__(config, name, str(value))
    else:
        _check(value is None or isinstance(value, str), "", name, "text", value)


def _is_int(value: Any, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_image_size(value: Any) -> tuple[int, int]:
    """(height, width) from '96x128', 96, or a pair; VGG16 needs at least 32 pixels a side.

    Raises ConfigError for anything else.
    """
    parts: Any = value.lower().split("x") if isinstance(value, str) else value
    try:
        sides = [int(p) for p in (parts if isinstance(parts, list | tuple) else [parts])]
    except (TypeError, ValueError):
        sides = []
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2 or min(sides) < 32 or max(sides) > 4096:
        raise ConfigError(
            f"image_size must be HEIGHTxWIDTH in pixels, each 32..4096 (such as 224x224). Received: {value!r}."
        )
    return sides[0], sides[1]


def parse_blocks(value: Any, name: str = "block", low: int = 1, high: int | None = 5) -> tuple[int, ...]:
    """Block numbers, ascending and unique, from 3, '3', '1-3', '1,3', [1, 3] or 'all'.

    Raises ConfigError for a block outside `low`..`high`, VGG16's 5 or what another model has. With None, where the
    model is not known yet, 'all' is VGG16's and any number above passes.
    """
    count = high or 5
    wanted: list[int] = []
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        for item in items:
            text = str(item).strip().lower()
            if text == "all":
                wanted += range(max(low, 1), count + 1)
            elif "-" in text[1:]:
                first, last = (int(part) for part in text.split("-"))
                wanted += range(first, last + 1)
            else:
                wanted.append(int(text))
    except ValueError:
        wanted = []
    if not wanted or min(wanted) < low or (high and max(wanted) > high):
        whose = "VGG16" if count == 5 else "this model"
        raise ConfigError(
            f"{name} must be {low}..{count}, a range like 1-3, a list like 1,3, or 'all' ({whose} has Block 1 to {count}). "
            f"Received: {value!r}."
        )
    return tuple(sorted(set(wanted)))


def parse_fill(value: Any) -> Any:
    """What stands where a superpixel is hidden: 'mean', 'blur', or a colour 0..255 from 0, '0' or '0,0,0'.

    Raises ConfigError.
    """
    if value in ("mean", "blur"):
        return value
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        colour = tuple(float(part) for part in parts)
    except ValueError:
        colour = ()
    if len(colour) not in (1, 3) or not all(0 <= part <= 255 for part in colour):
        raise ConfigError(f"fill must be mean, blur, or a colour such as 0,0,0 (0..255). Received: {value!r}.")
    return colour if len(colour) == 3 else colour[0]


def parse_rates(value: Any) -> tuple[float, ...] | None:
    """Learning rates, unique and in the order given, from 0.01, '1e-2,1e-3' or [0.01, 0.001]; None stays.

    Raises ConfigError.
    """
    if value is None:
        return None
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        rates = tuple(dict.fromkeys(float(item) for item in items))
    except (TypeError, ValueError):
        rates = ()
    if not rates or not all(0 < rate <= 10 for rate in rates):
        raise ConfigError(
            f"learning_rates must be rates above 0, at most 10, such as 1e-2,1e-3. Received: learning_rates={value!r}."
        )
    return rates


def parse_block_rates(value: Any) -> dict[int | str, float]:
    """Block (or 'head') -> multiplier of the learning rate, from '1-3=0.1,head=10' or {4: 0.1, 'head': 10}.

    Ascending, the head last; {} for None. Raises ConfigError.
    """
    if value is None:
        return {}
    pairs = value.items() if isinstance(value, Mapping) else [str(part).partition("=")[::2] for part in _parts(value)]
    found: dict[int | str, float] = {}
    try:
        for blocks, factor in pairs:
            at_head = str(blocks).strip() == "head"
            found |= dict.fromkeys(("head",) if at_head else parse_blocks(blocks), float(factor))
    except (TypeError, ValueError, ConfigError):
        found = {}
    if not found or not all(0 < factor <= 100 for factor in found.values()):
        raise ConfigError(
            "block_rates must be multipliers above 0, at most 100, of blocks 1..5 or the head, such as 1-3=0.1,head=10. "
            f"Received: block_rates={value!r}."
        )
    return dict(sorted(found.items(), key=lambda pair: str(pair[0])))


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else str(value).split(",")


def check_method(method: Any, blocks: Any = "all", count: int | None = 5) -> None:
    """Raise ConfigError for an unknown way of explaining, or blocks that it does not have.

    `count`: of the model's blocks, None where that is not known yet.
    """
    _choice(method, METHODS, "method")
    wanted = parse_blocks(blocks, high=count)
    if method == "cam" and wanted not in ((5,), (1, 2, 3, 4, 5)):
        raise ConfigError(f"CAM is made at Block 5 alone: leave the block out. Received: block={blocks!r}.")
    if method == "lime" and wanted != (1, 2, 3, 4, 5):
        raise ConfigError(f"LIME looks at the whole model: leave the block out. Received: block={blocks!r}.")


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they are split and resized.

    `path`: class folders, ready-made splits, or a CSV. `masks`: a folder that mirrors the class folders.
    `groups`: a CSV `file,group`, or a regular expression on the file name whose first group names the thing
    photographed. `image_size`: (height, width) in pixels. `split`: shares of train, validation and test.
    """

    path: str = ""
    masks: str | None = None
    groups: str | None = None
    image_size: tuple[int, int] = (224, 224)
    split: tuple[float, ...] = (0.6, 0.2, 0.2)
    split_seed: int = 0
    resize: str = "stretch"

    def __post_init__(self) -> None:
        for name in ("path", "masks", "groups"):
            _as_text(self, name)
        object.__setattr__(self, "image_size", parse_image_size(self.image_size))
        try:
            split = tuple(float(s) for s in self.split)
        except (TypeError, ValueError):
            split = ()
        _check(
            len(split) == 3 and min(split) > 0 and abs(sum(split) - 1) < 1e-6,
            "",
            "split",
            "three shares above 0 (train, validation, test) that sum to 1, such as (0.6, 0.2, 0.2)",
            self.split,
        )
        object.__setattr__(self, "split", split)
        _check(_is_int(self.split_seed, 0), "", "split_seed", "a whole number of at least 0", self.split_seed)
        _choice(self.resize, RESIZE, "resize")


@dataclass(frozen=True)
class TrainConfig:
    """One training: Block 1..`freeze_through` frozen (0 freezes nothing, 5 is feature extraction).

    Stage (a) trains the head alone for `head_epochs` on the frozen base (Adam), stage
    (b) Block k+1..5 and the head for up to `epochs` with `optimizer`, stopped after `patience` epochs without a
    better validation `metric`; stage (c), `final_epochs` of the whole network at a hundredth of the rate, only on
    request. `seed` changes initialisation and order, never the split. `learning_rate` None means the table's.

    Of stage (b): `schedule` holds the rate (constant), lets it fall to 0 along half a cosine over `epochs`, or cuts it
    after epochs without a better validation `metric` (plateau); over the first `warmup_epochs` it rises from 0 in equal
    steps; `block_rates`, such as '1-3=0.1,head=10', multiply it for some blocks or the head.

    `augmentation`, such as 'flip,rotation', changes training images at random after stage (a), all of them or those of
    `augment_classes`. With `augmented_views` n each has n changed copies, taken in turn by epoch, whose frozen features
    are kept; with 0 every step draws anew, which costs the frozen blocks again.
    """

    weights: str = "imagenet"
    head: str = "gap"
    freeze_through: int = 3
    optimizer: str = "nag"
    learning_rate: float | None = None
    seed: int = 0
    head_epochs: int = 5
    epochs: int = 20
    final_epochs: int = 0
    patience: int = 5
    batch_size: int = 32
    metric: str = "f1_macro"
    loss: str = "categorical_crossentropy"
    class_weight: str | None = None
    precision: str = "auto"
    label_smoothing: float = 0.0
    schedule: str = "constant"
    warmup_epochs: int = 0
    block_rates: str | None = None
    augmentation: str | None = None
    augment_classes: str | None = None
    augmented_views: int = 0

    def __post_init__(self) -> None:
        _check(
            _is_int(self.freeze_through, 0) and self.freeze_through <= 5,
            "",
            "freeze_through",
            "0..5 (0 freezes nothing, 5 all of VGG16)",
            self.freeze_through,
        )
        _as_text(self, "weights")
        _check(bool(self.weights), "", "weights", "a name or a path", self.weights)
        _choice(self.head, HEADS, "head")
        _choice(self.optimizer, OPTIMIZERS, "optimizer")
        _choice(self.metric, METRICS, "metric")
        _choice(self.loss, LOSSES, "loss")
        _choice(self.precision, PRECISIONS, "precision")
        _choice(self.schedule, SCHEDULES, "schedule")
        for name, low in (
            ("seed", 0),
            ("head_epochs", 0),
            ("epochs", 0),
            ("final_epochs", 0),
            ("patience", 1),
            ("batch_size", 1),
            ("warmup_epochs", 0),
            ("augmented_views", 0),
        ):
            _check(
                _is_int(getattr(self, name), low), "", name, f"a whole number of at least {low}", getattr(self, name)
            )
        rate = self.learning_rate
        if rate is not None:
            _check(isinstance(rate, float | int) and 0 < rate <= 10, "", "learning_rate", "above 0, at most 10", rate)
        _check(self.class_weight in (None, "balanced"), "", "class_weight", "None or 'balanced'", self.class_weight)
        _check(self.head_epochs + self.epochs > 0, "", "epochs", "above 0 where head_epochs is 0", self.epochs)
        warm = self.warmup_epochs
        _check(warm == 0 or warm < self.epochs, "", "warmup_epochs", f"fewer than epochs ({self.epochs})", warm)
        smoothing = self.label_smoothing
        of_number = isinstance(smoothing, float | int) and not isinstance(smoothing, bool)
        _check(of_number and 0 <= smoothing < 1, "", "label_smoothing", "at least 0 and below 1", smoothing)
        if smoothing and not LOSSES[self.loss][1]:
            raise ConfigError(
                f"label_smoothing needs another loss, such as categorical_crossentropy. Received: {self.loss}."
            )
        rates = ",".join(f"{block}={factor:g}" for block, factor in parse_block_rates(self.block_rates).items())
        object.__setattr__(self, "block_rates", rates or None)
        for name in ("augmentation", "augment_classes"):
            value = getattr(self, name)
            listed = value is None or isinstance(value, str | list | tuple)
            _check(listed, "", name, "names such as flip,rotation", value)
            names = [] if value is None else [str(part).strip() for part in _parts(value)]
            object.__setattr__(self, name, ",".join(dict.fromkeys(filter(None, names))) or None)
        for part in self.augmentation.split(",") if self.augmentation else ():
            _choice(part, AUGMENTATIONS, "augmentation")
        for name in ("augment_classes", "augmented_views"):
            unused = getattr(self, name) and not self.augmentation
            _check(not unused, "", name, "left out without augmentation", getattr(self, name))

    @property
    def classes_to_augment(self) -> tuple[str, ...]:
        """The names in `augment_classes`; none stands for all classes."""
        return tuple(self.augment_classes.split(",")) if self.augment_classes else ()

    @property
    def rate(self) -> float:
        """The learning rate of stage (b): `learning_rate`, or the optimizer table's."""
        return self.learning_rate if self.learning_rate is not None else OPTIMIZERS[self.optimizer][2]


@dataclass(frozen=True)
class SweepConfig:
    """The grid of a sweep: freeze depths x optimizers x seeds (0..seeds-1), and what runs it.

    `learning_rates`: every cell tries them all and keeps the one that is best on validation, its seeds' mean; None
    takes the training's own. `workers` processes share the processor's threads; None takes one for every two cores.

    With engine "ray" the runs are Ray tasks on the cluster at `ray_address` (None: RAY_ADDRESS, or this machine), each
    with `run_cpus` (None: 2, as the local engine's workers have) and `run_gpus` (None: 0); `workers` then bounds the
    runs at one time, None by what the cluster holds.
    """

    freeze_through: tuple[int, ...] = (1, 2, 3, 4, 5)
    optimizers: tuple[str, ...] = ("sgd", "momentum", "nag")
    seeds: int = 3
    engine: str = "local"
    workers: int | None = None
    learning_rates: tuple[float, ...] | None = None
    ray_address: str | None = None
    run_cpus: int | None = None
    run_gpus: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze_through", parse_blocks(self.freeze_through, "freeze_through", low=0))
        given = self.optimizers.split(",") if isinstance(self.optimizers, str) else self.optimizers
        _check(isinstance(given, list | tuple) and bool(given), "", "optimizers", "at least one optimizer", given)
        names = [n.strip() if isinstance(n, str) else n for n in given]
        for name in names:
            _choice(name, OPTIMIZERS, "optimizers")
        object.__setattr__(self, "optimizers", tuple(dict.fromkeys(names)))
        object.__setattr__(self, "learning_rates", parse_rates(self.learning_rates))
        _check(_is_int(self.seeds, 1), "", "seeds", "a whole number of at least 1", self.seeds)
        _choice(self.engine, ENGINES, "engine")
        for name in ("workers", "run_cpus"):
            value = getattr(self, name)
            _check(value is None or _is_int(value, 1), "", name, "a whole number of at least 1", value)
        _as_text(self, "ray_address")
        gpus = self.run_gpus
        if gpus is not None:
            number = isinstance(gpus, int | float) and not isinstance(gpus, bool)
            _check(number and gpus >= 0, "", "run_gpus", "at least 0, such as 0.5", gpus)

    def require_engine(self, given: Iterable[str]) -> None:
        """Raise ConfigError where the settings `given` by name are another engine's; a file's are left unused."""
        for name in given:
            own = name not in RAY_FIELDS or self.engine == "ray"
            _check(own, "", name, "left out unless engine is ray", getattr(self, name))


@dataclass(frozen=True)
class Config:
    """The three tables of xaitune.toml."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


def replace_fields(config: T, options: dict[str, Any]) -> T:
    """A copy of a configuration with `options` set; an unknown name is refused with the nearest one."""
    known = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"Unknown option {name!r} for {type(config).__name__}.{nearest(name, known)} Known: {', '.join(known)}."
            )
    return dataclasses.replace(config, **options)  # type: ignore[type-var]


TABLES = MappingProxyType({"data": DataConfig, "train": TrainConfig, "sweep": SweepConfig})
CONFIG_FILE = "xaitune.toml"


def load_config(path: str | Path = CONFIG_FILE) -> Config:
    """The configuration in a TOML file with tables [data], [train], [sweep].

    Paths in the file are relative to it. Raises ConfigError for a missing or unreadable file, an unknown table or
    key (with the nearest name), or a bad value.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"No configuration at {path}. Make one with 'xaitune init DATA'.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    made = {}
    for table, values in raw.items():
        if table not in TABLES or not isinstance(values, dict):
            raise ConfigError(
                f"{path}: unknown table or key {table!r}.{nearest(table, TABLES)} Tables: data, train, sweep."
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            made[table] = replace_fields(TABLES[table](), values)
        except ConfigError as error:
            raise ConfigError(f"{path} [{table}]: {error}") from None
    return _paths_from(Config(**made), path.resolve().parent)


def _paths_from(config: Config, folder: Path) -> Config:
    """Paths of the file made absolute; regular expressions and named weights stay."""

    def absolute(value: str | None) -> str | None:
        if not value or not (folder / value).exists():
            return value
        return str(folder / value)

    data = dataclasses.replace(
        config.data,
        path=absolute(config.data.path) or "",
        masks=absolute(config.data.masks),
        groups=absolute(config.data.groups),
    )
    weights = config.train.weights
    train = dataclasses.replace(
        config.train, weights=weights if weights in NAMED_WEIGHTS else absolute(weights) or weights
    )
    return dataclasses.replace(config, data=data, train=train)


def config_text(config: Config, comments: dict[str, str] | None = None) -> str:
    """The text of a xaitune.toml that `load_config` reads back to an equal configuration.

    `comments` maps 'table.key' to a remark that is put behind the value. Fields that are None are left out.
    """
    lines = []
    for table in TABLES:
        lines.append(f"[{table}]")
        for f in dataclasses.fields(getattr(config, table)):
            value = getattr(getattr(config, table), f.name)
            if value is None:
                continue
            remark = (comments or {}).get(f"{table}.{f.name}")
            # JSON's strings, numbers and lists are TOML's too; control characters cannot stand in a path here.
            text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
            lines.append(f"{f.name} = {text}" + (f"  # {remark}" if remark else ""))
        lines.append("")
    return "\n".join(lines)
