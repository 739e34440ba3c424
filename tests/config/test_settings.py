"""One field is the whole of a setting: what the command line, the docs and a run's identity make of it."""

import importlib.util
import inspect
from pathlib import Path

import pytest

from xaitune.cli.options import command
from xaitune.config.fields import PANELS, STAGES, identity_of, later_defaults, settings_of
from xaitune.config.settings import DataConfig, SweepConfig, TrainConfig
from xaitune.errors import ConfigError
from xaitune.training.folder import identity_difference, run_identity

ROOT = Path(__file__).parents[2]
TABLES = (DataConfig, TrainConfig, SweepConfig)


def settings_page():
    spec = importlib.util.spec_from_file_location("settings_page", ROOT / "scripts" / "settings_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_what_the_fields_say():
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == settings_page().page(), "run `python scripts/settings_page.py`"


@pytest.mark.parametrize("table", TABLES)
def test_every_field_is_a_setting_with_a_known_place(table):
    for name, about in settings_of(table).items():
        assert about.panel in PANELS, name
        assert about.stage in ("", *STAGES), name
        assert about.help.endswith("."), name
        assert len(about.help) < 120, name
    assert all(about.stage for about in settings_of(TrainConfig).values())


def test_an_option_is_made_from_its_field():
    """The default stands in the help, text becomes the field's value, and an option that is not given changes nothing."""
    seen = []

    @command("a-test", TrainConfig, SweepConfig, skip=("seed",))
    def a_test(job):
        seen.append(job.given)

    from xaitune.cli.options import app

    registered = app.registered_commands.pop()
    parameters = inspect.signature(registered.callback).parameters
    flags = {p.annotation.__metadata__[0].default: name for name, p in parameters.items()}  # typer keeps a flag there
    assert "--seed" not in flags
    assert flags["--freeze-through"] == "SweepConfig_freeze_through"  # of two tables the later one's
    optimizer = parameters[flags["--optimizer"]].annotation.__metadata__[0]
    assert "(default: nag)" in optimizer.help
    assert optimizer.rich_help_panel == "Training"
    values = dict.fromkeys(parameters, None) | {"json_output": True, "debug": False, "runs_dir": Path("runs")}
    values |= {flags["--freeze-through"]: "1-3", flags["--class-weight"]: "none", flags["--epochs"]: 7}
    registered.callback(**values)
    assert seen == [{TrainConfig: {"class_weight": "none", "epochs": 7}, SweepConfig: {"freeze_through": "1-3"}}]


def test_a_runs_identity_follows_from_the_fields():
    plain = identity_of(TrainConfig())
    assert not {"precision", "weights"} & set(plain)  # how it is computed; the weights' digest stands for their name
    assert not set(later_defaults(TrainConfig)) & set(plain)
    assert identity_of(TrainConfig(schedule="cosine"))["schedule"] == "cosine"
    head = identity_of(TrainConfig(), "head")
    assert set(head) == {"head", "seed", "head_epochs", "batch_size", "loss", "class_weight"}
    assert identity_of(TrainConfig(optimizer="sgd", epochs=3), "head") == head  # the head of stage (a) is the same
    assert identity_of(TrainConfig(label_smoothing=0.1), "head") == head | {"label_smoothing": 0.1}


def test_runs_differ_where_a_field_of_their_identity_does():
    def identity(**options):
        return run_identity(TrainConfig(**options), DataConfig("x"), "f" * 16, "w" * 12)

    assert identity(precision="float32") == identity()
    assert identity(optimizer="nag", learning_rate=1e-3) == identity()  # the table's rate, given or not
    assert identity_difference(identity(), identity(warmup_epochs=2)) == "warmup_epochs 0 -> 2"


def test_settings_of_another_engine_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"run_cpus must be left out unless engine is ray\. Received: run_cpus=4"):
        SweepConfig(run_cpus=4).require_engine(["run_cpus", "seeds"])
    SweepConfig(run_cpus=4, engine="ray").require_engine(["run_cpus", "seeds"])
