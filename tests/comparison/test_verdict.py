"""The verdict rule, and how many test images it would take."""

import math

import pytest
from scipy.stats import norm

from xaitune.comparison import verdict
from xaitune.errors import InputError


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0.01, 0.05), "confirmed"),
        ((-0.009, 0.009), "confirmed"),
        ((-0.009, -0.001), "confirmed"),  # worse, but by less than the margin
        ((-0.01, 0.01), "cannot tell"),  # the bound is strict
        ((-0.03, 0.07), "cannot tell"),
        ((-0.1, 0.0), "cannot tell"),
        ((-0.09, -0.01), "contradicted"),
        ((math.nan, math.nan), "cannot tell"),
        ((-math.inf, math.inf), "cannot tell"),
    ],
)
def test_the_verdict_follows_its_rule(bounds, expected):
    assert verdict.verdict_of(*bounds) == expected
    assert expected in verdict.VERDICTS
    assert verdict.verdict_of(*bounds, reliable=False) == "cannot tell"


def test_a_negative_margin_is_refused():
    with pytest.raises(InputError, match="margin must be 0 or more"):
        verdict.verdict_of(0.0, 0.1, margin=-0.01)


def test_images_needed_reach_the_power_that_they_promise():
    """At that many images the margin of 1 point is 1.96 + 0.84 standard errors of two equal depths."""
    for group_error, seed_error, images in ((0.03, 0.0, 300), (0.02, 0.002, 72), (0.1, 0.001, 60)):
        needed = verdict.images_needed(group_error, seed_error, images)
        error = math.hypot(group_error * math.sqrt(images / needed), seed_error)
        power = norm.cdf(0.01 / error - norm.ppf(0.975))
        assert 0.8 <= power < 0.97  # rounded up to one digit
        assert needed == int(f"{needed:.0e}".partition("e")[0]) * 10 ** int(math.log10(needed))


def test_images_needed_where_no_number_would_do():
    assert verdict.images_needed(0.03, 0.01, 300) is None  # the seeds alone are too different
    assert verdict.images_needed(math.nan, 0.0, 300) is None
    assert verdict.images_needed(0.0001, 0.0, 300) == 300  # never fewer than there are
