"""Write docs/commands.md and docs/commands/: every command with its options, from the command line itself.

    python scripts/commands_page.py

A test compares the pages with the commands, so they cannot fall behind.
"""

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from pages import write_pages
from rich.markup import render

from xaitune.cli.app import app

WRITTEN = "*Written by `python scripts/commands_page.py` from the command line itself.*\n"
INTRODUCTION = f"""# Commands

Every command takes its settings from `xaitune.toml` in the current folder ([every setting](settings.md)); an option overrides the
file. `xaitune COMMAND --help` prints what these pages say.

{WRITTEN}"""
COMMON = """## What all commands have in common

- `--json` prints one JSON object on stdout, and everything else on stderr. `--runs-dir` is the folder of all results (`runs`),
  `--config` another `xaitune.toml` or a run's `config.json`, which runs it again. `--debug` shows the traceback of an error.
- A command ends by naming the files it wrote and the next command.
- On a terminal it shows a bar with the time left; elsewhere a line every ten seconds.
- A command that was interrupted resumes where it stopped when it is run again. A finished run is never trained again.

| exit status | meaning |
| --- | --- |
| 0 | done |
| 1 | the work failed, or a repeated explanation has moved |
| 2 | the input or the call must be fixed; the message says how |
| 130, 143 | interrupted by Ctrl-C, or ended by the signal SIGTERM; what was finished is kept |
"""
# Pages to read with a command.
SEE = {
    "export": (("Export", "export.md"),),
    "track": (("TensorBoard and MLflow", "tracking.md"),),
    "init": (("Data", "data.md"),),
    "data-check": (("Data", "data.md"), ("Doubtful labels", "labels.md")),
    "train": (("Training", "method.md#training"), ("Segmentation", "segmentation.md")),
    "explain": (
        ("Heatmaps", "method.md#heatmaps"),
        ("Checks of a map", "method.md#checks-of-a-map"),
        ("From heatmap to box", "boxes.md"),
    ),
    "predict": (("What users bring", "field.md"),),
    "advise": (("How the advice is reached, and how far to trust it", "trust.md"),),
    "sweep-freeze": (("The sweep", "method.md#the-sweep"), ("What runs a sweep", "engines.md"), ("Scale", "scale.md")),
    "check-advice": (("Figures and the verdict", "method.md#figures-and-the-verdict"),),
    "compare": (("Comparing any settings", "method.md#comparing-any-settings-compare"), ("The studies", "studies.md")),
    "collect": (("What to collect next", "method.md#what-to-collect-next-collect"),),
    "report": (("The report", "report.md"),),
    "studio": (("The studio", "studio.md"),),
    "demo": (("A first look", "tutorials/first-look.md"),),
}
ARGUMENTS = "Arguments"
METAVARS = {Path: "PATH", str: "TEXT", int: "N", float: "X"}  # of options that name none


def pages() -> dict[str, str]:
    """Path below docs/ -> text, of the overview and of one page per command."""
    commands = {str(made.name): made.callback for made in app.registered_commands}
    lines = ["## All commands\n", "| command | what it does |", "| --- | --- |"]
    for name, function in commands.items():
        lines.append(f"| [`{name}`](commands/{name}.md) | {_paragraphs(function)[0]} |")
    overview = "\n".join([INTRODUCTION, *lines, "", COMMON])
    return {"commands.md": overview} | {f"commands/{n}.md": _page(n, function) for n, function in commands.items()}


def _page(name: str, function: Any) -> str:
    parameters = list(inspect.signature(function).parameters.values())
    usage = "".join(f" {_argument(p)}" for p in parameters if _is_argument(p))
    parts = [f"# xaitune {name}\n", *(f"{text}\n" for text in _paragraphs(function))]
    parts.append(f"```text\nxaitune {name} [OPTIONS]{usage}\n```\n")
    if name in SEE:
        parts.append("See " + ", ".join(f"[{text}](../{target})" for text, target in SEE[name]) + ".\n")
    tables: dict[str, list[str]] = {}
    for parameter in parameters:
        panel = ARGUMENTS if _is_argument(parameter) else _about(parameter).rich_help_panel
        tables.setdefault(panel, []).append(_row(parameter))
    for panel, rows in tables.items():
        head = "argument" if panel == ARGUMENTS else "option"
        parts.append(f"## {panel}\n\n| {head} | what it does |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join([*parts, WRITTEN])


def _about(parameter: inspect.Parameter) -> Any:
    """What Typer was told of a parameter: an OptionInfo or ArgumentInfo."""
    return parameter.annotation.__metadata__[0]


def _is_argument(parameter: inspect.Parameter) -> bool:
    return isinstance(_about(parameter), typer.models.ArgumentInfo)


def _kind(parameter: inspect.Parameter) -> Any:
    """The type of a parameter, without None."""
    kind = get_args(parameter.annotation)[0]
    return next((part for part in get_args(kind) if part is not type(None)), kind) if _optional(kind) else kind


def _optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _argument(parameter: inspect.Parameter) -> str:
    """An argument as a usage line shows it."""
    several = "..." if get_origin(_kind(parameter)) is list else ""
    name = _about(parameter).metavar
    return f"{name}{several}" if parameter.default is inspect.Parameter.empty else f"[{name}]{several}"


def _row(parameter: inspect.Parameter) -> str:
    """A line of a table: the option with what it takes, and its help."""
    about, kind = _about(parameter), _kind(parameter)
    if _is_argument(parameter):
        what = _argument(parameter)
    else:
        what = ", ".join(text for text in (about.default, *about.param_decls) if isinstance(text, str))
        if kind is not bool:
            what += f" {about.metavar or METAVARS[kind]}"
    return "| " + " | ".join(text.replace("|", "\\|") for text in (f"`{what}`", _plain(about.help or ""))) + " |"


def _paragraphs(function: Any) -> list[str]:
    """The help of a command, paragraph by paragraph, each on one line."""
    text = _plain(inspect.getdoc(function) or "")
    return [re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n")]


def _plain(text: str) -> str:
    """Help without Rich's escapes; what Markdown would take for HTML is escaped."""
    return render(text).plain.replace("<", "\\<")


if __name__ == "__main__":
    write_pages(pages(), "commands")
