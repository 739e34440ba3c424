"""Look inside VGG16, decide how many of its blocks to freeze, and check the decision.

Importing this package loads neither TensorFlow nor Keras: every name below is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "advice": ("advise_freeze", "load_advice"),
    "cam": ("class_activation_map",),
    "config": ("Config", "DataConfig", "SweepConfig", "TrainConfig", "load_config"),
    "data": ("ImageData",),
    "errors": (
        "ConfigError",
        "DataError",
        "ImageError",
        "InputError",
        "ModelError",
        "RunError",
        "WeightsError",
        "XaituneError",
    ),
    "explainers": ("explain_images", "load_heatmaps"),
    "gradcam": ("gradcam_blocks",),
    "report": ("write_report",),
    "results": ("AdviceCheck", "BlockHeatmaps", "FreezeAdvice", "Run", "Superpixels", "SweepTable"),
    "runs": ("load_run",),
    "sanity": ("randomisation_check",),
    "scores": ("score_maps",),
    "superpixels": ("lime_superpixels",),
    "sweep": ("check_advice", "load_sweep", "sweep_freeze"),
    "synthetic": ("make_demo_data",),
    "training": ("train_model",),
    "vgg": ("build_vgg16", "freeze_blocks"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = ["__version__", *sorted(_MODULE_OF)]

if TYPE_CHECKING:
    from xaitune.advice import advise_freeze, load_advice  # noqa: F401
    from xaitune.cam import class_activation_map  # noqa: F401
    from xaitune.config import Config, DataConfig, SweepConfig, TrainConfig, load_config  # noqa: F401
    from xaitune.data import ImageData  # noqa: F401
    from xaitune.errors import (  # noqa: F401
        ConfigError,
        DataError,
        ImageError,
        InputError,
        ModelError,
        RunError,
        WeightsError,
        XaituneError,
    )
    from xaitune.explainers import explain_images, load_heatmaps  # noqa: F401
    from xaitune.gradcam import gradcam_blocks  # noqa: F401
    from xaitune.report import write_report  # noqa: F401
    from xaitune.results import AdviceCheck, BlockHeatmaps, FreezeAdvice, Run, Superpixels, SweepTable  # noqa: F401
    from xaitune.runs import load_run  # noqa: F401
    from xaitune.sanity import randomisation_check  # noqa: F401
    from xaitune.scores import score_maps  # noqa: F401
    from xaitune.superpixels import lime_superpixels  # noqa: F401
    from xaitune.sweep import check_advice, load_sweep, sweep_freeze  # noqa: F401
    from xaitune.synthetic import make_demo_data  # noqa: F401
    from xaitune.training import train_model  # noqa: F401
    from xaitune.vgg import build_vgg16, freeze_blocks  # noqa: F401


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"xaitune.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'xaitune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
