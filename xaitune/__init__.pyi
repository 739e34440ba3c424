from .advise.advice import advise_freeze, load_advice
from .comparison.sweep import check_advice, load_sweep, sweep_freeze
from .config.schema import Config, DataConfig, SweepConfig, TrainConfig, load_config
from .data.dataset import ImageData
from .demo.scans import make_demo_data
from .errors import (
    ConfigError,
    DataError,
    ImageError,
    InputError,
    ModelError,
    RunError,
    WeightsError,
    XaituneError,
)
from .evaluate.sanity import randomisation_check
from .evaluate.table import score_maps
from .explain.api import explain_images, load_heatmaps
from .explain.cam import class_activation_map
from .explain.gradcam import gradcam_blocks
from .explain.lime.explain import lime_superpixels
from .models.vgg import build_vgg16, freeze_blocks
from .report.page import write_report
from .results import AdviceCheck, BlockHeatmaps, FreezeAdvice, Run, Superpixels, SweepTable
from .training.folder import load_run
from .training.train import train_model

__version__: str
__all__ = [
    "AdviceCheck",
    "BlockHeatmaps",
    "Config",
    "ConfigError",
    "DataConfig",
    "DataError",
    "FreezeAdvice",
    "ImageData",
    "ImageError",
    "InputError",
    "ModelError",
    "Run",
    "RunError",
    "Superpixels",
    "SweepConfig",
    "SweepTable",
    "TrainConfig",
    "WeightsError",
    "XaituneError",
    "__version__",
    "advise_freeze",
    "build_vgg16",
    "check_advice",
    "class_activation_map",
    "explain_images",
    "freeze_blocks",
    "gradcam_blocks",
    "lime_superpixels",
    "load_advice",
    "load_config",
    "load_heatmaps",
    "load_run",
    "load_sweep",
    "make_demo_data",
    "randomisation_check",
    "score_maps",
    "sweep_freeze",
    "train_model",
    "write_report",
]
