"""The tables of names that a user can choose from."""

from types import MappingProxyType

# Optimizer class (of Keras or models/optimizers.py), its arguments, and a learning rate that suits fine-tuning VGG16 (which
# has no batch normalisation).
OPTIMIZERS = MappingProxyType(
    {
        "sgd": ("SGD", {}, 1e-2),
        "momentum": ("SGD", {"momentum": 0.9}, 1e-3),
        "nag": ("SGD", {"momentum": 0.9, "nesterov": True}, 1e-3),
        "adagrad": ("Adagrad", {}, 1e-3),
        "rmsprop": ("RMSprop", {}, 1e-5),
        "adadelta": ("Adadelta", {}, 1e-1),
        "adam": ("Adam", {}, 3e-5),
        "adamw": ("AdamW", {}, 3e-5),
        "nadam": ("Nadam", {}, 3e-5),
        "radam": ("RAdam", {}, 3e-5),
        "adamp": ("AdamP", {}, 3e-5),
        "sgdp": ("SGDP", {"momentum": 0.9}, 1e-3),
    }
)
# Keras loss class, whether its targets are one-hot (else class numbers), and its arguments. The focal loss (Lin et al.
# 2017) is -(1 - p)^2 log p of the true class; classes are weighted by `class_weight`, so its alpha is 1.
LOSSES = MappingProxyType(
    {
        "categorical_crossentropy": ("CategoricalCrossentropy", True, {}),
        "sparse_categorical_crossentropy": ("SparseCategoricalCrossentropy", False, {}),
        "focal": ("CategoricalFocalCrossentropy", True, {"alpha": 1.0, "gamma": 2.0}),
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
METRICS = ("f1_macro", "f1_weighted", "f1_micro", "accuracy", "balanced_accuracy")
HEADS = ("gap", "fc", "blocks")
HEAD_BLOCKS = ("all", "best")  # whose features the head 'blocks' takes
NAMED_WEIGHTS = ("imagenet", "slim", "random")  # any other `weights` is a path
METHODS = ("gradcam", "cam", "lime")  # of explanation
PRECISIONS = ("auto", "float32", "bfloat16")
RESIZE = ("stretch", "pad")
ENGINES = ("local", "ray")
SEGMENTERS = ("quickshift", "slic", "felzenszwalb")
RULES = ("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam")  # for weighting a block's channels
