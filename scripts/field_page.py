"""Write docs/field.md: every situation of tests/field with what xaitune does, from the tests' docstrings.

    python scripts/field_page.py

A docstring 'situation -> what xaitune does' is a row; a comment '# ---- name' begins a kind.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS, PAGE = ROOT / "tests" / "field", ROOT / "docs" / "field.md"
INTRODUCTION = """# What users bring

Situations from public bug reports of this field (Grad-CAM and LIME on Keras models, fine-tuning, folders of images), and what
xaitune does in each. Every row is a test in `tests/field/` that builds its own input and knows the right answer from elsewhere
(a GradientTape, Pillow, OpenCV, or by hand).

*Written by `python scripts/field_page.py` from these tests.*
"""


def page_text() -> str:
    """The page as the tests' docstrings say it. Raises ValueError for a test without a row."""
    parts = [INTRODUCTION]
    for file in sorted(TESTS.glob("test_*.py")):
        source = file.read_text(encoding="utf-8")
        kinds = {
            number: line[7:].strip() for number, line in enumerate(source.splitlines(), 1) if line.startswith("# ---- ")
        }
        tests = [
            node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"
        ]
        if file.name == "test_page.py":
            continue
        for kind, rows in _by_kind(tests, kinds).items():
            parts.append(f"\n## {kind[0].upper()}{kind[1:]}\n\n| situation | what xaitune does |\n| --- | --- |")
            parts += [f"| {situation} | {answer} |" for situation, answer in rows]
    return "\n".join(parts) + "\n"


def _by_kind(tests: list[ast.FunctionDef], kinds: dict[int, str]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for test in tests:
        text = re.sub(r"\s+", " ", ast.get_docstring(test) or "").replace("|", "\\|")
        situation, arrow, answer = text.partition(" -> ")
        if not arrow:
            raise ValueError(f"{test.name} has no docstring 'situation -> what xaitune does'.")
        kind = [name for number, name in kinds.items() if number < test.lineno]
        found.setdefault(kind[-1] if kind else "other", []).append((situation, answer))
    return found


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
    print(f"wrote {PAGE}")
