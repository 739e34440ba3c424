"""Write docs/settings.md: every setting of xaitune.toml and the command line, from the fields of the configurations.

    python scripts/settings_page.py

A test compares the page with the fields, so it cannot fall behind.
"""

from pathlib import Path

from xaitune.config.explain_settings import BoxOptions, ExplainOptions, LimeOptions, ModelOptions, ScoreOptions
from xaitune.config.fields import settings_of
from xaitune.config.toml import TABLES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
INTRODUCTION = """# Settings

Written by `python scripts/settings_page.py` from the fields in `xaitune/config`: change them there.

A key of `xaitune.toml` and an option of the command line have the same name (`freeze_through`, `--freeze-through`). An
option overrides the file, the file overrides the default. In Python they are fields of `DataConfig`, `TrainConfig`,
`SweepConfig` and `TrackingConfig`; those of the first three every function that takes such a configuration also accepts by name.
"""
HEADINGS = {
    "data": "`[data]`, DataConfig",
    "train": "`[train]`, TrainConfig",
    "sweep": "`[sweep]`, SweepConfig",
    "tracking": "`[tracking]`, TrackingConfig",
}
EXPLAIN = """## `xaitune explain`

These are options of the command. In Python most of them are arguments of `explain_images`, `lime_superpixels`,
`boxes_from_maps`, `score_boxes` and `score_maps`, whose docstrings name them and their defaults.
"""


def rows(table: type) -> str:
    """A Markdown table of the fields of one configuration."""
    lines = ["| name | default | what it does |", "| --- | --- | --- |"]
    for name, about in settings_of(table).items():
        choices = f" One of {', '.join(about.rule.choices)}." if about.rule.choices else ""
        default = about.shown_default(getattr(table(), name)) or "required"
        lines.append(f"| `{about.flag or name}` | {default} | {about.help}{choices} |".replace("|REGEX", "\\|REGEX"))
    return "\n".join(lines) + "\n"


def page() -> str:
    """The text of docs/settings.md."""
    parts = [INTRODUCTION]
    parts += [f"## {HEADINGS[name]}\n\n{rows(table)}" for name, table in TABLES.items()]
    parts += [
        EXPLAIN,
        *(rows(table) for table in (ExplainOptions, ModelOptions, LimeOptions, BoxOptions, ScoreOptions)),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
