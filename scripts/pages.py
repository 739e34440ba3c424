"""The generated pages of the documentation on disk: what api_page.py and commands_page.py share."""

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write_pages(made: dict[str, str], folder: str) -> None:
    """Write pages, given as path below docs/ -> text, and remove those in docs/`folder` that are no longer made."""
    for old in (DOCS / folder).glob("*.md"):
        if f"{folder}/{old.name}" not in made:
            old.unlink()
    for name, text in made.items():
        (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")
    print(f"wrote {DOCS / folder}.md and {DOCS / folder}")
