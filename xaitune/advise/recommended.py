"""The one model of a sweep that is recommended: what the page is about, and what export and predict take."""

import dataclasses

import pandas as pd

from xaitune._names import combination_name
from xaitune.advise.check import AdviceCheck
from xaitune.comparison.cells import head_name
from xaitune.comparison.table import SweepTable, best_or_none


@dataclasses.dataclass(frozen=True)
class Recommended:
    """`run`: its name in the sweep. `title` says which model it is, `why` the reason.

    `depth` and `optimizer` are those of a trained combination; None of a linear head.
    """

    run: str
    title: str
    why: str
    depth: int | None = None
    optimizer: str | None = None


def leading_head(sweep: SweepTable | None) -> pd.Series | None:
    """The linear head on frozen features, where it is to be preferred to every trained combination; else None.

    That is where no block is shown to need training, or where it is at least as good on validation images, which choose
    everything here, and the test images do not contradict.
    """
    head = sweep.best_head if sweep is not None else None
    if sweep is None or head is None or head["verdict"] == "contradicted":
        return None
    best = best_or_none(sweep)
    ahead = best is None or head["validation"] >= best["validation"]
    return head if head["verdict"] == "confirmed" or ahead else None


def recommended_model(
    sweep: SweepTable, check: AdviceCheck | None = None, *, trained: bool = False
) -> Recommended | None:
    """A linear head that leads, else the combination that the check of the advice recommends, else the best on validation.

    `trained`: only combinations. None where no combination has finished. Of several seeds it is the best on validation.
    """
    best = best_or_none(sweep)
    if best is None:
        return None
    head = None if trained else leading_head(sweep)
    if head is not None:
        why = "good enough without training a block" if head["verdict"] == "confirmed" else "the best on validation"
        return Recommended(str(head["name"]), f"the linear head on {head_name(head)}", why)
    depth, optimizer = int(best["freeze_through"]), str(best["optimizer"])
    why = "the best combination on validation"
    if check is not None and check.verdict != "cannot tell":
        confirmed = check.verdict == "confirmed"
        depth = check.advised if confirmed else check.rival
        optimizer = check.optimizers[depth]
        why = "as advised, and the sweep confirms it" if confirmed else "it scored better than the advised depth"
    runs = sweep.cell_runs(depth, optimizer)
    run = str(runs.loc[runs["validation"].idxmax(), "name"])
    return Recommended(run, combination_name(depth, optimizer), why, depth, optimizer)
