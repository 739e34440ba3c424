"""Write docs/api.md and docs/api/: every public name of the package, from its signature and docstring.

    python scripts/api_page.py

A test compares the pages with the package, so they cannot fall behind. The examples are run by the suite as doctests.
"""

import inspect
import re
from typing import Any

from pages import write_pages

import xaitune

WRITTEN = "*Written by `python scripts/api_page.py` from the docstrings: change them there.*\n"
INTRODUCTION = f"""# The Python API

```python
import xaitune as xt
```

Every public name is listed here. `import xaitune` loads neither TensorFlow nor Keras; they are loaded when they are first needed.
Functions that train take the fields of [the settings](settings.md) by name. Results are small frozen objects: `.plot()` draws on
Matplotlib axes and never shows them, `.to_dataframe()` gives the figures, and a notebook shows a table.

{WRITTEN}"""
# Folder of the package -> title of its page; a folder that is not named here has its own name.
TITLES = {
    "data": "Images",
    "config": "Settings",
    "training": "Training",
    "explain": "Explanations",
    "evaluate": "How good a map is",
    "advise": "Advice",
    "comparison": "Sweeps and comparisons",
    "report": "The report",
    "models": "Networks",
    "demo": "The demo's images",
    "errors": "Errors",
}
WIDTH = 100  # characters of a signature on one line


def pages() -> dict[str, str]:
    """Path below docs/ -> text, of the overview and of one page per folder of the package."""
    names: dict[str, list[str]] = {}
    for name in xaitune.__all__:
        if name != "__version__":
            names.setdefault(getattr(xaitune, name).__module__.split(".")[1], []).append(name)
    order = sorted(names, key=lambda folder: ([*TITLES, folder].index(folder), folder))
    made = {"api.md": INTRODUCTION}
    for folder in order:
        title = TITLES.get(folder, folder.capitalize())
        listed = ", ".join(f"[`{name}`](api/{folder}.md#{name.lower()})" for name in names[folder])
        made["api.md"] += f"\n## {title}\n\n- [{title}](api/{folder}.md): {listed}\n"
        text = [f"# {title}\n", WRITTEN, *(_entry(name, getattr(xaitune, name)) for name in names[folder])]
        made[f"api/{folder}.md"] = "\n".join(text)
    return made


def _entry(name: str, thing: Any) -> str:
    """The section of a public name."""
    parts = [f"## {name}\n"]
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return "\n".join([*parts, f"A {_bases(thing)}. {_markdown(thing)}"])
    parts += [f"```python\n{_signature(name, thing)}\n```\n", _markdown(thing)]
    if inspect.isclass(thing):
        parts += [_member(name, *member) for member in _members(thing)]
    return "\n".join(parts)


def _bases(thing: type) -> str:
    return " and a ".join(f"`{base.__name__}`" for base in thing.__bases__)


def _members(thing: type) -> list[tuple[str, Any]]:
    """The public methods and properties that a class defines itself and documents."""
    kinds = (property, classmethod, staticmethod)
    own = ((name, value) for name, value in vars(thing).items() if not name.startswith("_"))
    return [(n, v) for n, v in own if (isinstance(v, kinds) or inspect.isfunction(v)) and inspect.getdoc(v)]


def _member(owner: str, name: str, member: Any) -> str:
    if isinstance(member, property):
        head = f"`.{name}`"
    else:
        function = getattr(member, "__func__", member)
        before = f"{owner}." if isinstance(member, (classmethod, staticmethod)) else "."
        signature = inspect.signature(function)
        rest = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        arguments = re.sub(r" -> .*$", "", _plain(str(signature.replace(parameters=rest))))
        head = f"`{before}{name}{arguments}`"
    return f"**{head}**\n\n{_markdown(member)}"


def _signature(name: str, thing: Any) -> str:
    """The call, with one argument per line where it is long."""
    signature = inspect.signature(thing)
    text = f"{name}{_plain(str(signature))}"
    if inspect.isclass(thing):
        text = text.removesuffix(" -> None")
    if len(text) <= WIDTH:
        return text
    arguments, star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            arguments, star = [*arguments, "*"], True
        arguments.append(_plain(str(parameter)))
    end = "" if inspect.isclass(thing) else _plain(str(signature.replace(parameters=[])))[2:]
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){end}"


def _plain(signature: str) -> str:
    """A signature without the modules of its types, and without addresses of defaults."""
    text = re.sub(r"(?<![\w'\"])(?:[a-z_]\w*\.)+(?=[A-Z]\w*)", "", signature)
    text = text.replace("numpy.ndarray", "np.ndarray").replace("<factory>", "...")
    text = text.replace("'", '"') if '"' not in text else re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    return re.sub(r'((?:: |-> ))"([^"]*)"', r"\1\2", text)


def _markdown(thing: Any) -> str:
    """A docstring as Markdown: its examples in a code block, and what would be taken for HTML or emphasis escaped."""
    lines, code = [], False
    for line in (inspect.getdoc(thing) or "").splitlines():
        if line.strip() == "Examples:":
            continue
        example = line.strip().startswith((">>>", "...")) or (code and line.strip())
        if example and not code:
            lines.append("```pycon")
        elif code and not example:
            lines.append("```")
        code = bool(example)
        lines.append(line.removeprefix("    ").split("  # doctest:")[0] if code else _escaped(line))
    return "\n".join([*lines, *(["```"] if code else [])]) + "\n"


def _escaped(line: str) -> str:
    """A line of prose; what is between backticks stays."""
    parts = line.split("`")
    return "`".join(re.sub(r"([<*])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts))


if __name__ == "__main__":
    write_pages(pages(), "api")
