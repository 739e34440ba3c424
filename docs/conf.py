"""How Sphinx builds the documentation from Markdown pages; `scripts/docs` calls it with the checkout as source folder.

The navigation is that of the lists in docs/index.md, docs/commands.md and docs/api.md: a page that is linked there is in it.
README.md, CHANGELOG.md and CONTRIBUTING.md are pages too, so that their links are checked.
"""

import re
from pathlib import Path
from typing import Any

import xaitune

ROOT = Path(__file__).resolve().parents[1]

project = "xaitune"
author = "the authors of xaitune"
project_copyright = author
release = version = xaitune.__version__
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = ["docs/site", ".*", "**/.*", "*venv*", "build", "dist", "runs", "xaitune", "tests", "benchmarks"]
myst_heading_anchors = 4
smartquotes = False  # --option stays two hyphens
highlight_language = "bash"  # of indented blocks, most of which are commands

html_theme = "furo"
html_title = "xaitune"
html_static_path = ["site"]
html_css_files = ["pages.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False

OVERVIEWS = ("docs/index", "docs/commands", "docs/api")  # their links are the navigation
HEADING = re.compile(r"^## (.+)$")
ENTRY = re.compile(
    r"^(?:- |\| )\[([^\]]+)\]\(([^)#]+\.md)(?:#[^)]*)?\)"
)  # the link that a list's item or a table's row begins with


def setup(app: Any) -> None:
    """Let Sphinx call what follows."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_entrance)


def add_navigation(app: Any, page: str, source: list[str]) -> None:
    """Give an overview hidden tables of contents, one for each heading, of the pages that its lists link to."""
    if page not in OVERVIEWS:
        return
    sections: dict[str, list[str]] = {}
    heading = ""
    for line in re.sub(r"<!--.*?-->", "", source[0], flags=re.DOTALL).splitlines():
        if match := HEADING.match(line):
            heading = match[1]
        elif match := ENTRY.match(line):
            target = (ROOT / page).parent.joinpath(match[2]).resolve().relative_to(ROOT).with_suffix("")
            sections.setdefault(heading, []).append(f"{match[1].strip('`')} </{target.as_posix()}>")
    for heading, entries in sections.items():
        caption = f":caption: {heading}\n" if page == root_doc else ""
        source[0] += "\n```{toctree}\n:hidden:\n" + caption + "\n" + "\n".join(entries) + "\n```\n"


def add_entrance(app: Any, error: Exception | None) -> None:
    """Write index.html at the top of the site, which leads to docs/index.html."""
    if error is None and app.builder.name == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>xaitune</title>'
        (Path(app.outdir) / "index.html").write_text(page + '<a href="docs/index.html">xaitune</a>\n', encoding="utf-8")
