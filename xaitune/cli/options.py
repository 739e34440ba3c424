"""What all commands share: the app, options made from the fields of the configurations, and the configuration they give."""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import json
import logging
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from xaitune.cli.completion import complete_path, names_completion
from xaitune.cli.console import Ui, error_report
from xaitune.config.choices import SCRATCH
from xaitune.config.fields import PANELS, Setting, settings_of
from xaitune.config.settings import SCRATCH_SETTINGS, Config, DataConfig, TrainConfig, replace_fields
from xaitune.config.toml import CONFIG_FILE, TABLES, load_config
from xaitune.errors import ConfigError, XaituneWarning

app = typer.Typer(
    name="xaitune",
    help="Look inside VGG16, decide how many of its blocks to freeze, and check the decision.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
OUTPUT = "Output"  # the last panel of every --help
RUNS_DIR = Path("runs")
TAKEN: dict[str, set[tuple[type, str]]] = {}  # command -> the fields of configurations that it has options of
CHOICES_WIDTH = 24  # characters of names that --help shows instead of a metavar


@dataclasses.dataclass
class Job:
    """One call of the command line: the screen, where runs are kept, and the settings that were given.

    `given`: configuration class -> field name -> value, for what was given as an option. `tables`: the configuration classes
    that the command has options of. `words`: (configuration class, field name) -> the option as it was given.
    """

    ui: Ui
    runs_dir: Path
    config_file: Path | None
    given: dict[type, dict[str, Any]]
    tables: frozenset[type] = frozenset()
    fresh: bool = False  # ignore an existing xaitune.toml
    words: dict[tuple[type, str], list[str]] = dataclasses.field(default_factory=dict)

    def following(self, name: str, data: str | Path | None, *options: str) -> str:
        """A command to go on with, as a user can paste it.

        On the same images, with `options`, those that were given here as far as it takes them, and the places of files.
        """
        given = [words for field, words in self.words.items() if field in TAKEN[name] and words[0] not in options]
        words = [*([data] if data else []), *options, *itertools.chain(*given), *self.runs]
        words += ["--config", self.config_file] if self.config_file else []
        return shlex.join(["xaitune", name, *map(str, words)])

    @property
    def runs(self) -> list[str]:
        """The option that names the folder for results, where it is not the usual one."""
        return [] if self.runs_dir == RUNS_DIR else ["--runs-dir", str(self.runs_dir)]

    def config(self, path: Path | None = None) -> Config:
        """xaitune.toml (or --config, also a run's config.json) with the given options on top."""
        config = Config() if self.fresh else self.file_config()
        if path is not None:
            data = config.data
            if not data.path or Path(data.path).resolve() != path.resolve():
                data = dataclasses.replace(
                    data, path=str(path), masks=None, groups=None, label_fixes=None, pixel_classes=None
                )
            config = dataclasses.replace(config, data=data)
        given = self.given | {TrainConfig: self._training()}
        tables = {name: replace_fields(getattr(config, name), given.get(kind, {})) for name, kind in TABLES.items()}
        config = dataclasses.replace(config, **tables)
        if not config.data.path:
            raise ConfigError(
                "No image folder. Give one (class folders or a .csv), or make xaitune.toml with 'xaitune init DATA'."
            )
        return config

    def _training(self) -> dict[str, Any]:
        """The given options of a training. Raises ConfigError for those that have no effect.

        A network without blocks to freeze also has settings of its own in place of the file's, which are for a VGG.
        """
        given = self.given.get(TrainConfig, {})
        if given.get("architecture") not in SCRATCH:
            return given
        for name, value in SCRATCH_SETTINGS.items():
            if given.get(name, value) != value:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag} has no meaning with architecture {given['architecture']}: leave it out.")
        return SCRATCH_SETTINGS | given

    def file_config(self) -> Config:
        """What xaitune.toml, or the file of --config, says; the defaults where there is none."""
        file = self.config_file
        if file is not None and file.suffix == ".json":
            return _run_config(file)
        if file is None and not Path(CONFIG_FILE).is_file():
            return Config()
        return load_config(file or CONFIG_FILE)

    def options(self, kind: type) -> Any:
        """The given options of a class that xaitune.toml does not hold, such as LimeOptions."""
        return kind(**self.given.get(kind, {}))


def _run_config(file: Path) -> Config:
    """The configuration in a run's config.json. Raises ConfigError."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Config(data=DataConfig(**values["data"]), train=TrainConfig(**values["train"]))
    except FileNotFoundError:
        raise ConfigError(f"No configuration at {file}. Give a xaitune.toml or a run's config.json.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not the config.json of a run ({type(error).__name__}: {error}).") from None


def command(name: str, *tables: type, skip: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Register a function (job, ...) as a command with the options of the given configurations, and the common ones.

    `skip` names fields that get no option. Where two configurations have a field of one name (freeze_through), the
    later one's option stands.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        runner = _Command(function, [(t, n) for t in tables for n in settings_of(t) if n not in (*skip, "path")])
        TAKEN[name] = set(runner.fields.values())
        app.command(name)(runner.typed())
        return function

    return register


class _Command:
    """A command: what typer calls with the values that it has read."""

    def __init__(self, function: Callable[..., None], fields: list[tuple[type, str]]) -> None:
        self.function = function
        flags = {_flag(name, settings_of(table)[name]): (table, name) for table, name in fields}  # the later one stands
        self.fields = {f"{table.__name__}_{name}": (table, name) for table, name in flags.values()}

    def __call__(self, **values: Any) -> None:
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its remarks on retracing help no user
        ui = Ui(values.pop("json_output"))
        aside = contextlib.redirect_stdout(sys.stderr) if ui.json_only else contextlib.nullcontext()
        try:
            with aside, warnings.catch_warnings():
                warnings.simplefilter("always", XaituneWarning)
                warnings.showwarning = functools.partial(_show_warning, ui, set())
                self.function(self.job(ui, values), **values)
        except Exception as error:
            ui.fail(*error_report(error))
            raise

    def job(self, ui: Ui, values: dict[str, Any]) -> Job:
        """What the options say; takes them out of `values`. Raises ConfigError."""
        given: dict[type, dict[str, Any]] = {}
        words: dict[tuple[type, str], list[str]] = {}
        for key, (table, name) in self.fields.items():
            value = values.pop(key)
            if value is not None:
                about = settings_of(table)[name]
                given.setdefault(table, {})[name] = about.rule.from_text(name, value)
                words[table, name] = [_flag(name, about), *([] if value is True else [str(value)])]
        values.pop("debug")
        tables = frozenset(table for table, _ in self.fields.values())
        return Job(ui, values.pop("runs_dir"), values.pop("config"), given, tables, words=words)

    def typed(self) -> Callable[..., None]:
        """The command as a function whose signature tells typer its options, panel by panel."""
        own = [p for p in inspect.signature(self.function, eval_str=True).parameters.values() if p.name != "job"]
        made = [_option(key, table, name) for key, (table, name) in self.fields.items()]
        parameters = sorted([*made, *own, *COMMON], key=_panel_number)

        @functools.wraps(self.function)
        def run_command(**values: Any) -> None:
            self(**values)

        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        run_command.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        run_command.__annotations__ = {p.name: p.annotation for p in parameters}
        run_command.__doc__ = escape(inspect.getdoc(self.function) or "")
        return run_command


def _show_warning(ui: Ui, shown: set[str], message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Ours go to the screen, each text once; those of the libraries help no user of a command."""
    if issubclass(category, XaituneWarning) and str(message) not in shown:
        shown.add(str(message))
        ui.warn(str(message))


def option(
    *flags: str, help: str, panel: str = OUTPUT, default: str = "", metavar: str | None = None, **checks: Any
) -> Any:
    """A typer option: its help, with the `default` as a user would give it, below the heading `panel`."""
    text = help + (f" (default: {default})" if default else "")
    return typer.Option(*flags, help=escape(text), show_default=False, rich_help_panel=panel, metavar=metavar, **checks)


def _panel_number(parameter: inspect.Parameter) -> int:
    """Arguments first, then the options in the order of the panels, those of the output last."""
    made = parameter.annotation.__metadata__[0]
    panel = getattr(made, "rich_help_panel", None)
    return -1 if panel is None else (*PANELS, OUTPUT).index(panel)


def _parameter(name: str, kind: Any, default: Any, made: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])


def _flag(name: str, about: Setting) -> str:
    return about.flag or f"--{name.replace('_', '-')}"


def _completion(about: Setting) -> Any:
    """What a shell offers for the value of a field: its names, paths, or nothing."""
    rule = about.rule
    several = getattr(rule, "known", ()) or (() if rule.choices else getattr(rule, "names", ()))
    if several:
        return names_completion(several, several=True)
    if rule.choices:
        return names_completion(rule.choices)
    return complete_path if any(word in rule.metavar for word in ("PATH", "CSV", "JSON")) else None


def _option(key: str, table: type, name: str) -> inspect.Parameter:
    """The option of one field of a configuration."""
    about, default = settings_of(table)[name], getattr(table(), name)
    if about.rule.kind is bool:
        return _parameter(key, bool | None, None, option(_flag(name, about), help=about.help, panel=about.panel))
    text, choices, metavar = about.help, about.rule.choices, about.rule.metavar
    if sum(map(len, choices)) > CHOICES_WIDTH:  # they would leave no room for the help
        text, metavar = f"{text.rstrip('.')}: {', '.join(choices)}.", "NAME"
    elif choices:
        metavar = "|".join(choices)
    shown = about.shown_default(default)
    offer = _completion(about)
    made = option(
        _flag(name, about), help=text, panel=about.panel, default=shown, metavar=metavar, autocompletion=offer
    )
    return _parameter(key, about.rule.kind | None, None, made)


COMMON = [
    _parameter("runs_dir", Path, RUNS_DIR, option("--runs-dir", help="Folder for results.", default="runs")),
    _parameter("config", Path | None, None, option("--config", help="A xaitune.toml or a run's config.json.")),
    _parameter(
        "json_output", bool, False, option("--json", help="Print one JSON object on stdout, all else on stderr.")
    ),
    _parameter("debug", bool, False, option("--debug", help="Show the traceback of an error.")),
]
