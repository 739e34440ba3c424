"""The rule of the verdict: what an interval of a difference says about an advice."""

import math

from xaitune.errors import InputError

MARGIN = 0.01  # of the verdict: one point of the score


VERDICTS = ("confirmed", "contradicted", "cannot tell")


def verdict_of(difference: float, low: float, high: float, margin: float = MARGIN) -> str:
    """What a sweep says about an advice: one of VERDICTS.

    `difference` is the advised depth's score minus that of the other depth best on validation, `low` and `high` its
    interval. Confirmed: low > -margin. Contradicted: high < 0. An interval inside (-margin, 0) meets both: the advised
    depth is then worse by less than the margin, and that is what the margin allows, so it is confirmed. Bounds that
    are not finite tell nothing. Raises InputError unless low <= high.
    """
    if not all(map(math.isfinite, (difference, low, high))):
        return "cannot tell"
    if low > high:
        raise InputError(f"The interval's bounds are in the wrong order. Received: low={low}, high={high}.")
    if low > -margin:
        return "confirmed"
    return "contradicted" if high < 0 else "cannot tell"


def images_needed(difference: float, half_width: float, images: int, margin: float = MARGIN) -> int | None:
    """About how many test images it would take for `verdict_of` to be decided, were the difference to stay as it is.

    The half width is taken to shrink with 1 / sqrt(images) at the same images a group. Confirming needs it below
    difference + margin, contradicting below -difference: the easier of the two counts. Never fewer than `images`; None
    where no number would do (margin 0 and difference 0) or a value is not finite.
    """
    target = max(difference + margin, -difference)
    if not (math.isfinite(difference) and math.isfinite(half_width)) or target <= 0:
        return None
    # The bound is strict, so at exactly the target one image more is needed.
    needed = math.floor(images * (half_width / target) ** 2) + 1
    return max(needed, images)
