"""The tables of names that a user can choose from."""

from types import MappingProxyType
from typing import Any

# Optimizer class (of Keras or models/optimizers.py), its arguments, a learning rate that suits fine-tuning VGG16 (which has
# no batch normalisation), and the rate that Keras takes by default (for our own optimizers that of their relatives).
OPTIMIZERS: MappingProxyType[str, tuple[str, dict[str, Any], float, float]] = MappingProxyType(
    {
        "sgd": ("SGD", {}, 1e-2, 1e-2),
        "momentum": ("SGD", {"momentum": 0.9}, 1e-3, 1e-2),
        "nag": ("SGD", {"momentum": 0.9, "nesterov": True}, 1e-3, 1e-2),
        "adagrad": ("Adagrad", {}, 1e-3, 1e-3),
        "rmsprop": ("RMSprop", {}, 1e-5, 1e-3),
        "adadelta": ("Adadelta", {}, 1e-1, 1e-3),
        "adam": ("Adam", {}, 3e-5, 1e-3),
        "adamw": ("AdamW", {}, 3e-5, 1e-3),
        "nadam": ("Nadam", {}, 3e-5, 1e-3),
        "radam": ("RAdam", {}, 3e-5, 1e-3),
        "adamp": ("AdamP", {}, 3e-5, 1e-3),
        "sgdp": ("SGDP", {"momentum": 0.9}, 1e-3, 1e-2),
    }
)
# Keras loss class, whether its targets are one-hot (else class numbers), and its arguments. The focal loss (Lin et al.
# 2017) is -(1 - p)^2 log p of the true class; classes are weighted by `class_weight`, so its alpha is 1.
LOSSES: MappingProxyType[str, tuple[str, bool, dict[str, Any]]] = MappingProxyType(
    {
        "categorical_crossentropy": ("CategoricalCrossentropy", True, {}),
        "sparse_categorical_crossentropy": ("SparseCategoricalCrossentropy", False, {}),
        "focal": ("CategoricalFocalCrossentropy", True, {"alpha": 1.0, "gamma": 2.0}),
        "dice": ("Dice", True, {}),  # of a segmentation: models/pixel_losses.py
    }
)
SCHEDULES = ("constant", "cosine", "plateau")
# Keras layer and arguments; pixels that move into the frame are filled by reflection.
AUGMENTATIONS = MappingProxyType(
    {
        "flip": ("RandomFlip", {}),  # both ways
        "rotation": ("RandomRotation", {"factor": 0.05}),  # 18 degrees at most
        "zoom": ("RandomZoom", {"height_factor": 0.15}),
        "translation": ("RandomTranslation", {"height_factor": 0.1, "width_factor": 0.1}),
        "brightness": ("RandomBrightness", {"factor": 0.15}),
        "contrast": ("RandomContrast", {"factor": 0.2}),
    }
)
# Networks with five blocks that can be frozen and start from pretrained weights, and those that begin at random weights.
BACKBONES = ("vgg16", "vgg16-bn", "vgg19")
SCRATCH = ("lenet5-tanh", "lenet5-relu", "xray-cnn")
ARCHITECTURES = (*BACKBONES, *SCRATCH)
# Settings by a name, as values of the factor architecture: the models of the freezing study's tables 5 to 8.
PRESETS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "lenet5-tanh-sgd": {"architecture": "lenet5-tanh", "optimizer": "sgd", "learning_rate": "keras"},
        "lenet5-relu-adam": {"architecture": "lenet5-relu", "optimizer": "adam", "learning_rate": "keras"},
        "vgg16-random": {"architecture": "vgg16", "weights": "random", "freeze_through": 0},
        "vgg16-features": {"architecture": "vgg16", "freeze_through": 5},
        "vgg16-block3": {"architecture": "vgg16", "freeze_through": 3},
        "vgg16-block3-final": {"architecture": "vgg16", "freeze_through": 3, "final_epochs": 10},
    }
)
TASKS = ("classify", "segment")
METRICS = ("f1_macro", "f1_weighted", "f1_micro", "accuracy", "balanced_accuracy")
PIXEL_METRICS = ("iou_mean", "f1_at_iou")  # of a segmentation
IGNORED = 255  # the pixel class that is neither trained on nor scored
HEADS = ("gap", "fc", "blocks")
HEAD_BLOCKS = ("all", "best")  # whose features the head 'blocks' takes
NAMED_WEIGHTS = ("imagenet", "slim", "random")  # any other `weights` is a path
# For a model that does not scale its images itself: auto leaves them as they are, and warns; see models/preprocess.py.
PREPROCESSINGS = ("auto", "none", "rescale", "symmetric", "imagenet", "torch")
METHODS = ("gradcam", "cam", "lime")  # of explanation
PRECISIONS = ("auto", "float32", "bfloat16")
RESIZE = ("stretch", "pad")
ENGINES = ("local", "ray")
SEGMENTERS = ("quickshift", "slic", "felzenszwalb")
BOX_REGIONS = ("largest", "all")  # which connected regions of a map get a box
RULES = ("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam")  # for weighting a block's channels
