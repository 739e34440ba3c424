"""What all commands have: the app, options made from the fields of the configurations, and the configuration that they give."""

import contextlib
import dataclasses
import functools
import inspect
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from xaitune.cli.console import Ui, told
from xaitune.config.schema import (
    AUGMENTATIONS,
    CONFIG_FILE,
    HEADS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    SCHEDULES,
    Config,
    DataConfig,
    SweepConfig,
    TrainConfig,
    load_config,
    parse_blocks,
    replace_fields,
)
from xaitune.errors import ConfigError, XaituneWarning

app = typer.Typer(
    name="xaitune",
    help="Look inside VGG16, decide how many of its blocks to freeze, and check the decision.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
HELP = {
    "path": "",
    "masks": "Folder with masks: <class>/<stem>.*, white where the defect is.",
    "groups": "CSV file,group or a regular expression on the file name: images of one thing stay in one split.",
    "image_size": "HEIGHTxWIDTH of the model's input, such as 96x96 [224x224].",
    "split": "Shares of train, validation and test [0.6,0.2,0.2].",
    "split_seed": "Seed of the split; every run of a comparison keeps it [0].",
    "resize": "stretch, or pad to keep the aspect [stretch].",
    "weights": "imagenet, an .h5 in Keras's no-top layout, a run's folder, slim or random [imagenet].",
    "head": f"{' or '.join(HEADS)}: global average pooling (for CAM), or VGG's dense layers [gap].",
    "freeze_through": "Freeze Block 1 to this one: 0 nothing .. 5 feature extraction.",
    "optimizer": f"{', '.join(OPTIMIZERS)} [nag].",
    "learning_rate": "Learning rate of the fine-tuning [the optimizer's own].",
    "seed": "Initialisation and order; never the split [0].",
    "head_epochs": "Epochs of the head alone [5].",
    "epochs": "Most epochs of fine-tuning [20].",
    "final_epochs": "Epochs of the whole network at a hundredth of the rate [0].",
    "patience": "Stop after so many epochs without a better validation score [5].",
    "batch_size": "Images a step [32].",
    "metric": f"What decides: {', '.join(METRICS)} [f1_macro].",
    "loss": f"{', '.join(LOSSES)} [categorical_crossentropy].",
    "class_weight": "balanced: rare classes count more; none: all images alike [none].",
    "label_smoothing": "Share of each target spread over all classes, 0 to below 1 [0].",
    "schedule": f"{', '.join(SCHEDULES)}: how the learning rate goes on [constant].",
    "warmup_epochs": "Epochs in which the learning rate rises from 0 [0].",
    "block_rates": "Multipliers of the learning rate, such as 1-3=0.1,head=10 [all 1].",
    "augmentation": f"Random changes of training images: {','.join(AUGMENTATIONS)} [none].",
    "augment_classes": "Change images of these classes only [all].",
    "augmented_views": "Changed copies of each image whose frozen features are kept; 0: each step draws anew [0].",
    "precision": "auto, float32 or bfloat16 [auto].",
    "optimizers": "Optimizers of the grid [sgd,momentum,nag].",
    "seeds": "Seeds 0..n-1 of the grid [3].",
    "learning_rates": "Rates such as 1e-2,1e-3: each cell keeps the one best on validation [the optimizer's own].",
    "engine": "What runs the trainings: local, or ray: a cluster whose machines share a file system [local].",
    "workers": "Worker processes; they share the processor's threads [one for two cores].",
    "ray_address": "Of the Ray cluster [RAY_ADDRESS, else this machine].",
    "run_cpus": "CPUs of each run, with --engine ray [2].",
    "run_gpus": "GPUs of each run, with --engine ray; may be a share [0].",
}
NUMBERS = {"split_seed", "freeze_through", "seed", "head_epochs", "epochs", "final_epochs", "patience", "batch_size"}
NUMBERS |= {"augmented_views", "warmup_epochs", "seeds", "workers", "run_cpus"}
TABLE_OF = {DataConfig: "data", TrainConfig: "train", SweepConfig: "sweep"}


@dataclasses.dataclass
class Job:
    """One call of the command line: the screen, where runs are kept, and the configuration in force."""

    ui: Ui
    runs_dir: Path
    config_file: Path | None
    given: dict[str, dict[str, Any]]
    fresh: bool = False  # leave an existing xaitune.toml out

    def config(self, path: Path | None = None) -> Config:
        """xaitune.toml (or --config, also a run's config.json) with the given options on top."""
        config = Config() if self.fresh else self.file_config()
        if path is not None:
            data = config.data
            if not data.path or Path(data.path).resolve() != path.resolve():
                data = dataclasses.replace(data, path=str(path), masks=None, groups=None)
            config = dataclasses.replace(config, data=data)
        made = {table: replace_fields(getattr(config, table), values) for table, values in self.given.items()}
        config = dataclasses.replace(config, **made)
        if not config.data.path:
            raise ConfigError(
                "No image folder. Give one (class folders or a .csv), or make xaitune.toml with 'xaitune init DATA'."
            )
        return config

    def file_config(self) -> Config:
        """What xaitune.toml, or the file of --config, says; the defaults where there is none."""
        file = self.config_file
        if file is not None and file.suffix == ".json":
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
                return Config(data=DataConfig(**found["data"]), train=TrainConfig(**found["train"]))
            except FileNotFoundError:
                raise ConfigError(f"No configuration at {file}. Give a xaitune.toml or a run's config.json.") from None
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{file} is not the config.json of a run ({type(error).__name__}: {error})."
                ) from None
        if file is None and not Path(CONFIG_FILE).is_file():
            return Config()
        return load_config(file or CONFIG_FILE)


def command(name: str, *tables: type, skip: tuple[str, ...] = ()) -> Callable[..., Any]:
    """Register a function (job, ...) as a command with the options of the given configurations, and the common ones.

    `skip` names fields that get no option.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "job"]
        fields = [(t, f.name) for t in tables for f in dataclasses.fields(t) if f.name not in (*skip, "path")]
        # Of two configurations with one field (freeze_through), the later table's option stands.
        owner = {field: table for table, field in fields}
        made = [_option(field) for field in owner]

        @functools.wraps(function)
        def call(**values: Any) -> None:
            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # its remarks on retracing help no user
            ui = Ui(values.pop("json_output"))
            aside = contextlib.redirect_stdout(sys.stderr) if ui.json_only else contextlib.nullcontext()
            try:
                with aside, warnings.catch_warnings():
                    warnings.simplefilter("always", XaituneWarning)
                    warnings.showwarning = functools.partial(_say_warning, ui)
                    work(ui, values)
            except Exception as error:
                ui.fail(*told(error))
                raise

        def work(ui: Ui, values: dict[str, Any]) -> None:
            given: dict[str, dict[str, Any]] = {}
            for field, table in owner.items():
                value = values.pop(field)
                if value is not None:
                    given.setdefault(TABLE_OF[table], {})[field] = _parsed(table, field, value)
            values.pop("debug")
            job = Job(ui, values.pop("runs_dir"), values.pop("config"), given)
            function(job, **values)

        parameters = own + [p for p in made + COMMON if p.name not in {q.name for q in own}]
        call.__signature__ = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(call)
        return function

    return register


def _say_warning(ui: Ui, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Ours go to the screen; those of the libraries help no user of a command."""
    if issubclass(category, XaituneWarning):
        ui.warn(str(message))


def _parameter(
    name: str, kind: Any, default: Any, *flags: str, text: str, panel: str | None = None
) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*flags, help=text, show_default=False, rich_help_panel=panel)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


COMMON = [
    _parameter("runs_dir", Path, Path("runs"), "--runs-dir", text="Where results are kept [runs].", panel="Common"),
    _parameter("config", Path | None, None, "--config", text="A xaitune.toml or a run's config.json.", panel="Common"),
    _parameter(
        "json_output", bool, False, "--json", text="One JSON object on stdout, all else on stderr.", panel="Common"
    ),
    _parameter("debug", bool, False, "--debug", text="Show the traceback of an error.", panel="Common"),
]


def _option(field: str) -> inspect.Parameter:
    kind: Any = str | None
    if field == "freeze_through":
        kind = str | None
    elif field in NUMBERS:
        kind = int | None
    elif field in ("learning_rate", "label_smoothing", "run_gpus"):
        kind = float | None
    return _parameter(field, kind, None, f"--{field.replace('_', '-')}", text=HELP[field])


def _parsed(table: type, field: str, value: Any) -> Any:
    """Text as the configuration wants it."""
    if field == "freeze_through":
        blocks = parse_blocks(value, "freeze_through", low=0)
        if table is TrainConfig and len(blocks) > 1:
            raise ConfigError(f"freeze_through must be one of 0..5 here. Received: {value}.")
        return blocks if table is SweepConfig else blocks[0]
    if field == "class_weight" and value == "none":
        return None
    if field == "split":
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            raise ConfigError(f"split must be three shares like 0.6,0.2,0.2. Received: {value}.") from None
    return value
