"""The verdict rule: what the interval of a score difference says about a piece of advice."""

import math

from xaitune.errors import InputError

MARGIN = 0.01  # one point of the score
VERDICTS = ("confirmed", "contradicted", "cannot tell")


def verdict_of(difference: float, low: float, high: float, margin: float = MARGIN) -> str:
    """What a sweep says about the advice: one of VERDICTS.

    `difference` is the advised depth's score minus that of the other depth that is best on validation; `low` and `high`
    bound its interval. Confirmed: low > -margin. Contradicted: high < 0. An interval inside (-margin, 0) satisfies both
    rules: the advised depth is then worse by less than the margin allows, so it is confirmed. Bounds that are not finite
    decide nothing. Raises InputError unless low <= high.

    Examples:
        >>> verdict_of(0.01, low=-0.005, high=0.025)
        'confirmed'
    """
    if not all(map(math.isfinite, (difference, low, high))):
        return "cannot tell"
    if low > high:
        raise InputError(f"The interval's bounds are in the wrong order. Received: low={low}, high={high}.")
    if low > -margin:
        return "confirmed"
    return "contradicted" if high < 0 else "cannot tell"


def images_needed(difference: float, half_width: float, images: int, margin: float = MARGIN) -> int | None:
    """About how many test images `verdict_of` would need to decide, if the difference stayed the same.

    The half width is assumed to shrink with 1 / sqrt(images) at a constant number of images per group. To confirm, it
    must fall below difference + margin; to contradict, below -difference. The easier of the two counts. The result is
    never less than `images`; it is None where no number would do (margin 0 and difference 0) or a value is not finite.

    Examples:
        >>> images_needed(difference=0.0, half_width=0.03, images=100)
        901
    """
    target = max(difference + margin, -difference)
    if not (math.isfinite(difference) and math.isfinite(half_width)) or target <= 0:
        return None
    # The bound is strict: at exactly the target one more image is needed.
    needed = math.floor(images * (half_width / target) ** 2) + 1
    return max(needed, images)
