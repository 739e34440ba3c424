"""The site is built as `scripts/docs` builds it, and the generated pages say what the code says."""

import importlib.util
import os
import subprocess
import sys

import pytest
from documents import ROOT

pytest.importorskip("sphinx", reason="pip install 'xaitune[docs]' builds the documentation")


def build(root, out):
    """Run scripts/docs of a checkout."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", root / "scripts" / "docs", out],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=500,
    )


def test_the_site_is_built_without_a_warning(tmp_path):
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    site = tmp_path / "site"
    index = (site / "docs" / "index.html").read_text(encoding="utf-8")
    for caption in ("Tutorials", "How-to guides", "Explanation", "Reference"):
        assert f'<span class="caption-text">{caption}</span>' in index
    assert 'href="commands/train.html"' in (site / "docs" / "commands.html").read_text(encoding="utf-8")
    assert 'id="train-model"' in (site / "docs" / "api" / "training.html").read_text(encoding="utf-8")
    assert list((site / "_downloads").rglob("atlas.csv"))
    assert "docs/index.html" in (site / "index.html").read_text(encoding="utf-8")
    # A reader's browser asks nobody else for anything.
    scripts = [page for page in site.rglob("*.html") if 'src="http' in page.read_text(encoding="utf-8")]
    assert not scripts


def test_broken_links_and_forgotten_pages_are_errors(tmp_path):
    """In a checkout of two pages, so that it is quick."""
    (tmp_path / "docs" / "site").mkdir(parents=True)
    (tmp_path / "scripts").mkdir()
    for name in ("docs/conf.py", "docs/site/pages.css", "scripts/docs"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "docs" / "method.md").write_text("# Method\n", encoding="utf-8")
    index, page = tmp_path / "docs" / "index.md", "# Pages\n\n## All\n\n- [Method](method.md)\n"
    index.write_text(page, encoding="utf-8")
    good = build(tmp_path, tmp_path / "good")
    assert good.returncode == 0, good.stderr
    links = ("[a](method.md#no-heading)", "[a](no-page.md)", "[a](../results/nothing.csv)", "![a](images/nothing.png)")
    index.write_text(page + "".join(f"\n{link}\n" for link in links), encoding="utf-8")
    (tmp_path / "docs" / "forgotten.md").write_text("# Forgotten\n", encoding="utf-8")
    done = build(tmp_path, tmp_path / "bad")
    assert done.returncode != 0
    for warning in ("no-heading", "no-page.md", "nothing.csv", "nothing.png", "forgotten.md"):
        assert warning in done.stderr


@pytest.mark.parametrize("script", ["commands_page", "api_page"])
def test_generated_pages_are_what_the_code_says(script, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # where they find pages.py
    spec = importlib.util.spec_from_file_location(script, ROOT / "scripts" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.pages()
    folder = script.removesuffix("_page")
    written = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs" / folder).glob("*.md")} | {
        f"{folder}.md"
    }
    assert written == set(made), f"run `python scripts/{script}.py`"
    for name, text in made.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, f"run `python scripts/{script}.py`"
