"""The verdict rule: what bounds of score differences say about a piece of advice, and how many test images would do."""

import math

from scipy.stats import norm

from xaitune.errors import InputError

MARGIN = 0.01  # one point of the score
POWER = 0.8
VERDICTS = ("confirmed", "contradicted", "cannot tell")


def verdict_of(lowest: float, high: float, *, reliable: bool = True, margin: float = MARGIN) -> str:
    """What a sweep says about the advice: one of VERDICTS.

    `lowest` is the lowest of the simultaneous lower bounds of the advised depth's score minus that of each other depth,
    `high` the upper bound of its difference from the one that is best on validation. Confirmed: lowest > -margin, so no
    other depth is better by more than the margin. Contradicted: high < 0. Where both hold, the advised depth is worse
    by less than the margin allows, so it is confirmed. Bounds that are not finite, or not `reliable`, decide nothing.
    Raises InputError for a negative margin.

    Examples:
        >>> verdict_of(lowest=-0.005, high=0.025)
        'confirmed'
        >>> verdict_of(lowest=-0.005, high=0.025, reliable=False)
        'cannot tell'
    """
    if margin < 0:
        raise InputError(f"margin must be 0 or more. Received: margin={margin!r}.")
    if not reliable or not math.isfinite(lowest) or not math.isfinite(high):
        return "cannot tell"
    if lowest > -margin:
        return "confirmed"
    return "contradicted" if high < 0 else "cannot tell"


def images_needed(group_error: float, seed_error: float, images: int, margin: float = MARGIN) -> int | None:
    """About how many test images would confirm two equal depths with a power of 80 %, rounded up to one significant digit.

    `group_error` and `seed_error` are the standard errors of their difference over the test groups and over the seeds
    on `images` images. The first shrinks with 1 / sqrt(images) at a constant number of images per group, the second
    does not: None where no number of images would do, or an error is not finite. It is an order of magnitude: an
    estimated error that is 30 % off makes it 1.7 times too large or half as large.

    Examples:
        >>> images_needed(group_error=0.03, seed_error=0.0, images=300)
        30000
        >>> images_needed(group_error=0.03, seed_error=0.01, images=300) is None
        True
    """
    reachable = (margin / float(norm.ppf(0.975) + norm.ppf(POWER))) ** 2 - seed_error**2
    if not (math.isfinite(group_error) and math.isfinite(seed_error)) or reachable <= 0:
        return None
    needed = max(images * group_error**2 / reachable, images)
    digits = 10 ** math.floor(math.log10(needed))
    return int(math.ceil(needed / digits) * digits)
