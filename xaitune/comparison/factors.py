"""The factors of a comparison: any settings of a training with the values to compare, checked before anything is trained."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from xaitune.config.choices import ARCHITECTURES, PRESETS, SCRATCH
from xaitune.config.fields import settings_of
from xaitune.config.parse import parse_blocks
from xaitune.config.rules import require_choice
from xaitune.config.settings import SCRATCH_SETTINGS, TrainConfig, replace_fields
from xaitune.errors import ConfigError

WITHIN = ("freeze_through", "optimizer")  # varied within a sweep; every other factor has a sweep for each value
NOT_FACTORS = (
    "seed",
    "precision",
    "task",
)  # repeats are seeds; precision is how a run is computed; tasks differ in score


def parse_factors(names: Sequence[str], values: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Field -> values, from pairs such as ('loss', 'focal,categorical_crossentropy'); a list within a value is joined by +.

    `freeze_through` also takes ranges such as 1-5, and the value none is None. Raises ConfigError for a name that is no
    field of TrainConfig, a name without values or a value that the field does not take.

    Examples:
        >>> parse_factors(["loss", "trained_blocks"], ["focal", "1,4+5"])
        {'loss': ('focal',), 'trained_blocks': ('1', '4,5')}
    """
    if list(names) == ["none"]:  # repeats alone
        names = []
    if len(names) != len(values):
        raise ConfigError(f"Every --factor needs its --values. Received: {len(names)} factors, {len(values)} lists.")
    factors: dict[str, Any] = {}
    for name, text in zip(names, values, strict=True):
        require_choice("factor", name, [n for n in settings_of(TrainConfig) if n not in NOT_FACTORS])
        if name in factors:
            raise ConfigError(f"The factor {name} is given twice. Name all its values in one list.")
        items = (
            parse_blocks(text, name, low=0) if name == "freeze_through" else [part.strip() for part in text.split(",")]
        )
        factors[name] = tuple(_value(name, item) for item in items)
    return check_factors(factors)


def check_factors(factors: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """The factors with their values in one form each, and none twice. Raises ConfigError."""
    checked = {}
    for name, values in factors.items():
        require_choice("factor", name, [n for n in settings_of(TrainConfig) if n not in NOT_FACTORS])
        if isinstance(values, str) or not values:
            raise ConfigError(f"The factor {name} needs a list of values. Received: {values!r}.")
        rule = settings_of(TrainConfig)[name].rule
        if name == "architecture":
            for value in values:
                require_choice(name, value, (*ARCHITECTURES, *PRESETS))
            checked[name] = tuple(dict.fromkeys(values))
        else:
            checked[name] = tuple(dict.fromkeys(rule(name, value) for value in values))
    for value in checked.get("architecture", ()):
        if value in SCRATCH and {"freeze_through", "trained_blocks"} & set(checked):
            raise ConfigError(f"The architecture {value} has no blocks to freeze: compare one of the two factors.")
        for name in set(PRESETS.get(value, {})) & set(checked) - {"architecture"}:
            raise ConfigError(f"The architecture {value} sets {name} itself: compare one of the two factors.")
    if {"freeze_through", "trained_blocks"} <= set(checked):
        raise ConfigError("freeze_through and trained_blocks name the same thing: compare one of them.")
    return checked


def _value(name: str, item: Any) -> Any:
    """One value, from the text of the command line."""
    if not isinstance(item, str) or item == "none":
        return None if item == "none" else item
    rule = settings_of(TrainConfig)[name].rule
    if rule.kind is bool:
        require_choice(name, item.lower(), ("true", "false"))
        return item.lower() == "true"
    try:
        number = rule.kind(item.replace("+", ","))
    except ValueError:
        raise ConfigError(f"{name} must be a number. Received: {name}={item!r}.") from None
    return rule.from_text(name, number)


def parts_of(factors: Mapping[str, Sequence[Any]], train: TrainConfig) -> list[tuple[dict[str, Any], TrainConfig]]:
    """For each combination of the factors that a sweep does not vary itself: their values, and the base training.

    Raises ConfigError where a value contradicts another setting.

    Examples:
        >>> [values for values, _ in parts_of({"loss": ("focal",), "optimizer": ("sgd", "nag")}, TrainConfig())]
        [{'loss': 'focal'}]
    """
    outer = {name: values for name, values in factors.items() if name not in WITHIN}
    combinations = [dict(zip(outer, values, strict=True)) for values in itertools.product(*outer.values())]
    return [(values, replace_fields(train, _changes(values))) for values in combinations]


def _changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a combination of values changes, those that they decide included."""
    preset = PRESETS.get(values.get("architecture", ""), {})
    changes = {**values, **preset}
    free: dict[str, Any] = {"freeze_through": TrainConfig.freeze_through} if "trained_blocks" in values else {}
    if changes.get("architecture") in SCRATCH:
        free = SCRATCH_SETTINGS
    return {**free, **changes}


def value_name(name: str, value: Any) -> str:
    """A value as it is shown.

    Examples:
        >>> value_name("learning_rate", None), value_name("class_weight", None), value_name("epochs", 5)
        ('own', 'none', '5')
    """
    if value is None:
        return "own" if name == "learning_rate" else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def part_name(values: Mapping[str, Any]) -> str:
    """The folder of a part.

    Examples:
        >>> part_name({"loss": "focal", "augment_classes": "crack,burst"}), part_name({})
        ('loss=focal_augment_classes=crack+burst', 'runs')
    """
    text = "_".join(f"{name}={value}" for name, value in values.items())
    return "".join("+" if c == "," else c if c.isalnum() or c in "=_.-+" else "~" for c in text) or "runs"
