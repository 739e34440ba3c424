from .advise.advice import FreezeAdvice, load_advice
from .advise.check import AdviceCheck, check_advice
from .advise.collection import CollectionAdvice, advise_collection, load_collection
from .advise.labels import LabelCheck, doubtful_labels
from .advise.mask_labels import MaskCheck, doubtful_masks
from .advise.recommend import advise_freeze
from .advise.unlabelled import UnlabelledDrift, drift_without_labels
from .comparison.comparison import compare
from .comparison.comparison_table import ComparisonTable, load_comparison
from .comparison.sweep import sweep_freeze
from .comparison.table import SweepTable, load_sweep
from .config.settings import Config, DataConfig, SweepConfig, TrackingConfig, TrainConfig
from .config.toml import load_config
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
from .evaluate.detection import BoxScores, score_boxes
from .evaluate.reliability import check_maps
from .evaluate.sanity import randomisation_check
from .evaluate.table import score_maps
from .explain.api import explain_images
from .explain.boxes import Boxes, boxes_from_maps
from .explain.cam import class_activation_map
from .explain.classifier import Classifier, open_classifier
from .explain.gradcam import gradcam_blocks
from .explain.heatmaps import BlockHeatmaps
from .explain.lime.explain import lime_superpixels
from .explain.lime.result import Superpixels
from .explain.map_checks import MapChecks
from .explain.pixels import Segmentation, segment_images
from .explain.store import load_heatmaps
from .explain.verification import Verification, verify_explanation
from .export.exported import ExportedModel, open_exported
from .export.writer import Export, export_run
from .models.blocks import freeze_blocks
from .models.vgg import build_vgg16
from .report.page import write_report
from .training.run import Run, load_run
from .training.train import train_model

__version__: str
__all__ = [
    "AdviceCheck",
    "BlockHeatmaps",
    "BoxScores",
    "Boxes",
    "Classifier",
    "CollectionAdvice",
    "ComparisonTable",
    "Config",
    "ConfigError",
    "DataConfig",
    "DataError",
    "Export",
    "ExportedModel",
    "FreezeAdvice",
    "ImageData",
    "ImageError",
    "InputError",
    "LabelCheck",
    "MapChecks",
    "MaskCheck",
    "ModelError",
    "Run",
    "RunError",
    "Segmentation",
    "Superpixels",
    "SweepConfig",
    "SweepTable",
    "TrackingConfig",
    "TrainConfig",
    "UnlabelledDrift",
    "Verification",
    "WeightsError",
    "XaituneError",
    "__version__",
    "advise_collection",
    "advise_freeze",
    "boxes_from_maps",
    "build_vgg16",
    "check_advice",
    "check_maps",
    "class_activation_map",
    "compare",
    "doubtful_labels",
    "doubtful_masks",
    "drift_without_labels",
    "explain_images",
    "export_run",
    "freeze_blocks",
    "gradcam_blocks",
    "lime_superpixels",
    "load_advice",
    "load_collection",
    "load_comparison",
    "load_config",
    "load_heatmaps",
    "load_run",
    "load_sweep",
    "make_demo_data",
    "open_classifier",
    "open_exported",
    "randomisation_check",
    "score_boxes",
    "score_maps",
    "segment_images",
    "sweep_freeze",
    "train_model",
    "verify_explanation",
    "write_report",
]
