"""The package's shape: imports run downward only, TensorFlow stands in one module, the public names import lazily."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import xaitune

PACKAGE = Path(xaitune.__file__).parent
# Each module may import only those before it (DESIGN, section 3). From `device` on, Keras may be used.
PLAIN = (
    "errors config images splits datafiles duplicates datacheck data synthetic stats maparrays imputation localisation "
    "faithfulness mapscores segments emulator surrogate overlays figures plots results"
)
KERAS = (
    "device winograd graphs vgg baselines runs features subjects gradcam cam superpixels scores sanity explainers "
    "scorefiles rates augment training probe advice"
)
ABOVE = "_worker engine rayengine sweep cost report pages demo console options datacommands explaincommands freezecommands cli"
ORDER = [*PLAIN.split(), *KERAS.split(), *ABOVE.split()]
# These stand above the line but load no Keras until they are called: a terminal's --help must stay fast.
LIGHT = [*PLAIN.split(), "_worker", "engine", "rayengine", "report", "console", "options"]
LIGHT += ["datacommands", "explaincommands", "freezecommands", "cli"]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def tree(module):
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


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
    return {name.split(".")[1] for name in names if name.startswith("xaitune.") and not name.endswith("__")}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_order_names_every_module():
    assert set(MODULES) - set(ORDER) == set()
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module):
    below = set(ORDER[: ORDER.index(module)])
    used = own_modules(imported(ast.walk(tree(module))))  # imports inside functions too
    assert used <= below, f"{module} imports {sorted(used - below)}, which stand above it"


@pytest.mark.parametrize("module", MODULES)
def test_tensorflow_and_keras_are_imported_in_device_alone(module):
    roots = {name.split(".")[0] for name in imported(ast.walk(tree(module)))}
    if module == "device":
        assert {"tensorflow", "keras"} <= roots
    else:
        assert not roots & {"tensorflow", "tf_keras", "keras", "pickle", "joblib"}


def test_results_and_report_know_no_keras_module():
    for module in ("results", "report"):
        assert not own_modules(imported(ast.walk(tree(module)))) & set(KERAS.split())


def test_light_modules_load_no_tensorflow():
    lines = "\n".join(f"import xaitune.{module}" for module in LIGHT)
    done = python(f"{lines}\nimport sys\nprint([m for m in ('tensorflow', 'keras') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_importing_the_package_loads_almost_nothing():
    code = "import sys, xaitune; print([m for m in ('tensorflow', 'keras', 'numpy', 'matplotlib') if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


def test_every_public_name_imports():
    for name in xaitune.__all__:
        value = getattr(xaitune, name)
        assert name == "__version__" or value.__name__ == name
        assert name == "__version__" or value.__doc__


def test_nothing_else_is_public():
    assert sorted(dir(xaitune)) == sorted(xaitune.__all__)
    assert len(set(xaitune.__all__)) == len(xaitune.__all__)
    with pytest.raises(AttributeError, match="module 'xaitune' has no attribute 'train'"):
        _ = xaitune.train


def test_type_checkers_see_the_same_names():
    """The imports under TYPE_CHECKING are the lazy ones."""
    block = next(node for node in tree("__init__").body if isinstance(node, ast.If))
    seen = {tuple(name.split(".")[1:]) for name in imported(block.body)}
    assert seen == {(module, name) for name, module in xaitune._MODULE_OF.items()}


def test_no_function_shares_a_modules_name():
    assert not set(xaitune.__all__) & set(MODULES)
    names = {
        (module, node.name)
        for module in MODULES
        for node in tree(module).body
        if isinstance(node, ast.FunctionDef) and node.name in MODULES
    }
    assert names <= {("demo", "demo"), *((m, n) for m, n in names if m == "cli")}  # the commands' own names


def test_version_is_the_packages():
    from importlib.metadata import version

    assert xaitune.__version__ == version("xaitune")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sweep-freeze", "--help"]])
def test_help_loads_no_tensorflow(arguments):
    code = f"""
import sys
from xaitune.cli import main
sys.argv = ["xaitune", *{arguments!r}]
try:
    main()
except SystemExit as ended:
    print("status", ended.code)
print("loaded", [m for m in ("tensorflow", "keras") if m in sys.modules])
"""
    done = python(code)
    assert "Usage" in done.stdout
    assert done.stdout.strip().endswith("loaded []"), done.stdout[-500:] + done.stderr[-500:]
    assert "status 0" in done.stdout or "status None" in done.stdout
