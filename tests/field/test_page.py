"""The page of situations is what the tests' docstrings say."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_docstrings_say():
    spec = importlib.util.spec_from_file_location("field_page", ROOT / "scripts" / "field_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "field.md").read_text(encoding="utf-8")
    assert written == module.page_text(), "run `python scripts/field_page.py`"
    assert written.count("\n| ") - 2 * written.count("\n## ") >= 60
