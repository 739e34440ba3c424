"""docs/formulas.md has every method that a user can name."""

import pytest
from documents import ROOT

from xaitune.advise.opinions import OPINIONS
from xaitune.config import choices
from xaitune.evaluate.table import SCORES

PAGE = (ROOT / "docs" / "formulas.md").read_text(encoding="utf-8")
TABLES = {
    "architectures": choices.ARCHITECTURES,
    "heads": choices.HEADS,
    "weights": choices.NAMED_WEIGHTS,
    "optimizers": choices.OPTIMIZERS,
    "losses": choices.LOSSES,
    "schedules": choices.SCHEDULES,
    "augmentations": choices.AUGMENTATIONS,
    "rules": choices.RULES,
    "methods": choices.METHODS,
    "segmenters": choices.SEGMENTERS,
    "metrics": choices.METRICS,
    "pixel metrics": choices.PIXEL_METRICS,
    "scores": SCORES,
    "second opinions": OPINIONS,
}


@pytest.mark.parametrize("table", TABLES)
def test_every_method_has_a_line(table):
    missing = [name for name in TABLES[table] if f"`{name}`" not in PAGE]
    assert not missing, f"docs/formulas.md lacks {missing}"


def test_the_rates_are_those_of_the_table():
    rates = [choices.OPTIMIZERS[name][2] for name in ("adagrad", "rmsprop", "adadelta", "adam", "adamw", "nadam")]
    assert rates == [1e-3, 1e-5, 0.1, 3e-5, 3e-5, 3e-5]
    assert "own rates of 1e-3, 1e-5, 0.1, 3e-5, 3e-5, 3e-5" in PAGE
