"""What a setting's field records: its help, rule, panel and stage. The settings themselves stand in `settings`.

The command line with its --help, xaitune.toml, docs/settings.md, the check of the value and the identity of a run all
follow from a field: a new option is one field.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from xaitune.config.rules import Rule

PANELS = (
    *("Data", "Model", "Training", "Augmentation", "Comparison", "Engine", "Tracking"),
    *("Explanation", "LIME", "Boxes", "Scores"),
)
STAGES = ("head", "fine-tune")


@dataclass(frozen=True)
class Setting:
    """Everything about one field.

    `help`: one line, without the default. `rule`: checks the value. `panel`: its heading in --help and the docs.
    `otherwise`: what a default of None stands for. `stage`: the first stage of training that it affects, 'head' or
    'fine-tune' ('' for none). `identity`: whether runs that differ in it are different runs. `since`: the layout of run
    folders that introduced it; a field that came after layout 1 is part of a run's identity only where it is not at its
    default. `engine`: the only engine that uses it ('' for any). `flag`: its option, where that has another name.
    """

    help: str
    rule: Rule
    panel: str
    otherwise: str = ""
    stage: str = ""
    identity: bool = True
    since: int = 1
    engine: str = ""
    flag: str = ""

    def shown_default(self, default: Any) -> str:
        """The default as a user would write it, or what it stands for."""
        if self.otherwise or default is None:
            return self.otherwise or "none"
        if isinstance(default, tuple):
            return ("x" if self.rule.kind is str and self.help.startswith("HEIGHT") else ",").join(map(str, default))
        return str(default)


def setting(default: Any, rule: Rule, help: str, *, panel: str, **about: Any) -> Any:
    """A dataclass field with its `Setting`; `about` are further fields of it."""
    return dataclasses.field(default=default, metadata={"setting": Setting(help, rule, panel, **about)})


def settings_of(table: Any) -> dict[str, Setting]:
    """Field name -> Setting of a configuration (a class or an object of it), in order."""
    return {f.name: f.metadata["setting"] for f in dataclasses.fields(table) if "setting" in f.metadata}


def check_fields(config: Any) -> None:
    """Check every field of a frozen configuration and put it into its one form. Raises ConfigError."""
    for name, about in settings_of(config).items():
        object.__setattr__(config, name, about.rule(name, getattr(config, name)))


def identity_of(config: Any, stage: str | None = None) -> dict[str, Any]:
    """Field name -> value of the fields that make two configurations two runs; with a `stage`, of that stage's fields.

    A field that came after the first layout of run folders is included only where it is not at its default, so that older
    folders keep their identity.

    Examples:
        >>> from xaitune.config.settings import TrainConfig
        >>> identity_of(TrainConfig(), "head")["batch_size"]
        32
    """
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    values = {name: getattr(config, name) for name in settings_of(config)}
    return {
        name: values[name]
        for name, about in settings_of(config).items()
        if about.identity and stage in (None, about.stage) and (about.since == 1 or values[name] != defaults[name])
    }


def later_defaults(table: type) -> dict[str, Any]:
    """Field name -> default of the fields that came after the first layout of run folders."""
    return {f.name: f.default for f in dataclasses.fields(table) if settings_of(table)[f.name].since > 1}
