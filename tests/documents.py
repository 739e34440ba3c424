"""The pages of the documentation, their blocks of code, and the shell commands in them."""

import argparse
import re
import runpy
import shlex
import sys
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from driving import xaitune

from xaitune.cli import options
from xaitune.cli.console import Ui
from xaitune.comparison.factors import parse_factors
from xaitune.config.settings import DataConfig, SweepConfig, TrainConfig

ROOT = Path(__file__).parents[1]
GENERATED = ("api", "commands")  # whose code is a signature or a usage; the examples of the API run as doctests
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.relative_to(ROOT / "docs").parts[0] not in GENERATED),
]
TUTORIALS = ("first-look", "images-to-report", "freezing-point")
KINDS = ("commands", "python", "text", "toml")
SHELL = {  # lines that set a shell up, and work with nothing of ours
    "python3.11 -m venv .venv",
    ". .venv/bin/activate",
}
PROGRAMS = ("jupyter", "mlflow", "tensorboard")  # of others: not checked
TABLES = {DataConfig, TrainConfig, SweepConfig}


@dataclass(frozen=True)
class Block:
    """A block of code: the page, the line on which it begins, one of KINDS, and its text."""

    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def page_name(path: Path) -> str:
    """The path below the checkout."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """The blocks of a page: fenced ones are of the kind that they name, indented ones are commands.

    A list's continuation lines are no block. Raises AssertionError for a fence without one of KINDS.
    """
    found, lines = [], path.read_text(encoding="utf-8").splitlines()
    i = 0
    while i < len(lines):
        start = i
        if lines[i].startswith("```"):
            kind = lines[i][3:].strip()
            assert kind in KINDS, f"{page_name(path)}:{i + 1}: a block must be one of {KINDS}, not {kind!r}"
            while not lines[i := i + 1].startswith("```"):
                pass
            found.append(Block(page_name(path), start + 1, kind, "\n".join(lines[start + 1 : i])))
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()) and not _in_a_list(lines, i):
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                i += 1
            text = "\n".join(line[4:] for line in lines[start:i]).strip()
            found.append(Block(page_name(path), start + 1, "commands", text))
            continue
        i += 1
    return found


def _in_a_list(lines: list[str], i: int) -> bool:
    """Whether the paragraph before line `i` is a list's item."""
    before = [line for line in lines[:i] if line.strip() and not line.startswith(" ")]
    return bool(before) and re.match(r"[-*] |\d+\. ", before[-1]) is not None


def commands(text: str) -> list[str]:
    """The shell commands of a block: continued lines in one, without comments, those joined by && one by one."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines()]
    return [part.strip() for line in lines for part in line.split(" && ") if part.strip()]


def words_of(command: str) -> list[str]:
    """The words of a command, without leading NAME=value, optional parts and braces written out."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    return [
        word.strip("[]") if not word.startswith("xaitune[") and not word.startswith(".[") else word for word in words
    ]


def check_command(command: str, folder: Path) -> None:
    """Parse a command up to the point where its work would begin, in `folder`. Raises AssertionError if it is wrong."""
    words = words_of(command)
    if words[0] == "xaitune":
        parse_xaitune(words[1:], folder)
    elif words[0] == "python" and words[1].endswith(".py"):
        parse_script(ROOT / words[1], words[2:])
    elif words[:2] == ["pip", "install"]:
        check_extras(words[2:])
    elif words[0].startswith("scripts/"):
        script = ROOT / words[0]
        assert script.is_file(), command
        assert all(option in script.read_text(encoding="utf-8") for option in words[1:]), command
    elif words[0] == "cd" or words[0] in PROGRAMS:
        pass
    else:
        assert command in SHELL, f"nobody knows how to check the command {command!r}"


def check_extras(words: list[str]) -> None:
    """Every extra of `pip install` must be in setup.cfg."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for word in words:
        for extra in re.findall(r"\[([\w,]+)\]", word):
            assert all(setup.has_option("options.extras_require", name) for name in extra.split(",")), word


def parse_xaitune(arguments: list[str], folder: Path) -> None:
    """Read a command line with the real application, up to where a command would begin its work.

    The options must exist, their values must be valid, by themselves and together with those of xaitune.toml in `folder`, and
    the images and models that it names as arguments must be there.
    """
    with mock.patch.object(options._Command, "__call__", _only_parse):
        answer = xaitune(folder, *arguments)
    assert answer.status == 0, f"xaitune {' '.join(arguments)}: {answer.err}"


def _only_parse(self, **values):
    values.pop("json_output")
    job = self.job(Ui(), values)
    tables = {table for table, _ in self.fields.values()}
    if tables & TABLES:
        job.config(values.get("data"))
    for table in tables - TABLES:
        job.options(table)
    if "factor" in values:
        parse_factors(values["factor"] or [], values["values"] or [])
    named = [value for name in ("data", "images", "run", "sweep", "path") for value in _listed(values.get(name))]
    missing = [str(path) for path in named if not Path(path).exists() and "*" not in str(path)]
    assert not missing, f"{missing} are not there"


def _listed(value):
    return value if isinstance(value, list) else [] if value is None else [value]


class _Parsed(BaseException):
    """A script has read its arguments."""


def parse_script(script: Path, arguments: list[str]) -> None:
    """Run a script of the checkout up to where it has read its arguments."""
    assert script.is_file(), script
    if "ArgumentParser" not in script.read_text(encoding="utf-8"):
        assert not arguments, f"{script.name} takes no arguments"
        return
    read = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        read(self, args, namespace)
        raise _Parsed

    with (
        mock.patch.object(sys, "argv", [str(script), *arguments]),
        mock.patch.object(sys, "path", [str(script.parent), *sys.path]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
    ):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except _Parsed:
            return
        except SystemExit as end:
            pytest.fail(f"{script.name} {' '.join(arguments)}: exit {end.code}")
    pytest.fail(f"{script.name} read no arguments")
