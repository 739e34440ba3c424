"""The former place of `xaitune.evaluate`; it goes with the next release."""

import warnings

from xaitune.evaluate import *  # noqa: F403
from xaitune.evaluate import map_agreement as agreement  # noqa: F401
from xaitune.evaluate import map_concentration as concentration  # noqa: F401
from xaitune.evaluate import map_stability as stability  # noqa: F401
from xaitune.evaluate import road_scores as road  # noqa: F401

warnings.warn(
    "xaitune.mapscores is now xaitune.evaluate; the old name goes with the next release.",
    DeprecationWarning,
    stacklevel=2,
)
