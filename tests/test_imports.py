"""The package's shape: imports run downward only, TensorFlow stands in one module, the public names import lazily."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import xaitune

PACKAGE = Path(xaitune.__file__).parent
# The street of houses, in the order of the data: each folder (or file of the package itself) may import those before it.
FOLDERS = [
    "errors",
    "_files",
    "_machine",
    "_names",
    "_notebook",
    "_progress",
    "config",
    "data",
    "stats",
    "plots",
    "models",
    "tracking",
    "training",
    "explain",
    "export",
    "evaluate",
    "comparison",
    "advise",
    "report",
    "demo",
    "doctor",
    "studio",
    "cli",
    "__main__",
    "mapscores",
]
# These load no Keras until they are called: a terminal's --help must stay fast.
LIGHT = [
    *("config", "data", "stats", "plots", "explain.lime.segments", "explain.lime.fit", "explain.lime.emulator"),
    *("explain.rows", "explain.pixels", "export.formats", "export.session", "export.exported", "models.batches"),
    *("evaluate.agreement", "evaluate.faithfulness", "evaluate.localisation", "evaluate.maps", "evaluate.road"),
    *("comparison.engines", "report.page", "demo.scans", "doctor", "studio", "cli"),
]
# What no --help and no `import xaitune` may load: each takes longer than all that they need.
HEAVY = ("tensorflow", "keras", "torch", "matplotlib", "sklearn", "scipy", "skimage", "cv2", "pandas", "numpy", "PIL")
HEAVY += ("h5py", "jinja2", "mlflow", "tensorboard", "ray", "starlette")
MODULES_OF_HELP = 600  # how many modules a --help may load; about 500 when this was written
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)


def tree(module):
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def imported(nodes):
    """Every dotted name that these statements import, `from x import y` as x.y."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_modules(names):
    """The modules of the package that hold these imported names; a folder's own names are its __init__'s."""
    parts = (name.split(".")[1:] for name in names if name.startswith("xaitune.") and not name.endswith("__version__"))
    found = (next((m for m in (".".join(p[:i]) for i in range(len(p), 0, -1)) if m in MODULES), p[0]) for p in parts)
    return set(found)


def folder(module):
    return module.split(".")[0]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_the_order_names_every_folder():
    assert {folder(module) for module in MODULES} <= set(FOLDERS)
    assert len(FOLDERS) == len(set(FOLDERS))


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module):
    below = FOLDERS[: FOLDERS.index(folder(module)) + 1]
    used = {folder(name) for name in own_modules(imported(ast.walk(tree(module))))}  # imports inside functions too
    assert used <= set(below), f"{module} imports {sorted(used - set(below))}, which stand above it"


def test_no_module_imports_itself_through_others():
    """Within a folder too the imports form no circle."""
    below = {module: own_modules(imported(ast.walk(tree(module)))) for module in MODULES}
    order = graphlib.TopologicalSorter(below).static_order()  # raises CycleError
    assert set(MODULES) <= set(order)


@pytest.mark.parametrize("module", MODULES)
def test_backends_are_imported_in_models_alone(module):
    roots = {name.split(".")[0] for name in imported(ast.walk(tree(module)))}
    if folder(module) != "models":
        assert not roots & {"tensorflow", "torch", "tf_keras", "keras"}
    assert not roots & {"pickle", "joblib"}


def test_light_modules_load_no_tensorflow():
    light = [module for module in MODULES if any(f"{module}.".startswith(f"{name}.") for name in LIGHT)]
    assert len(light) > len(LIGHT)
    lines = "\n".join(f"import xaitune.{module}" for module in light)
    done = python(f"{lines}\nimport sys\nprint([m for m in ('tensorflow', 'keras') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_importing_the_package_loads_almost_nothing():
    code = f"import sys; before = set(sys.modules); import xaitune; print([m for m in {HEAVY} if m in sys.modules])"
    done = python(f"{code}; print(len(set(sys.modules) - before))").stdout.split()
    assert done[0] == "[]"
    assert int(done[1]) < 60


def test_every_public_name_imports():
    for name in xaitune.__all__:
        value = getattr(xaitune, name)
        assert name == "__version__" or value.__name__ == name
        assert name == "__version__" or value.__doc__


def test_nothing_else_is_public():
    assert sorted(dir(xaitune)) == sorted(xaitune.__all__)
    assert len(set(xaitune.__all__)) == len(xaitune.__all__)
    with pytest.raises(AttributeError, match=r"xaitune attribute train$"):
        _ = xaitune.train


def test_no_function_shares_a_modules_name():
    names = {part for module in MODULES for part in module.split(".")}
    assert not set(xaitune.__all__) & names
    for module in MODULES:
        functions = {node.name for node in tree(module).body if isinstance(node, ast.FunctionDef)}
        assert not functions & names or folder(module) == "cli", module  # commands are named as a user types them


def test_version_is_the_packages():
    from importlib.metadata import version

    assert xaitune.__version__ == version("xaitune")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sweep-freeze", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"""
import sys
from xaitune.cli.app import main
sys.argv = ["xaitune", *{arguments!r}]
try:
    main()
except SystemExit as ended:
    print("status", ended.code)
print("modules", len(sys.modules))
print("loaded", [m for m in {HEAVY} if m in sys.modules])
"""
    done = python(code)
    assert "Usage" in done.stdout
    assert done.stdout.strip().endswith("loaded []"), done.stdout[-500:] + done.stderr[-500:]
    assert int(done.stdout.split("modules ")[-1].split()[0]) < MODULES_OF_HELP
    assert "status 0" in done.stdout or "status None" in done.stdout
