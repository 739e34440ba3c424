"""The losses of a segmentation, over the pixels of a batch."""

from collections.abc import Callable
from typing import Any

from xaitune.config.choices import LOSSES
from xaitune.models.backend import keras

SMOOTH = 1.0  # pixels added above and below, so that a class of a few pixels does not decide alone


def pixel_loss(name: str, num_classes: int, label_smoothing: float = 0.0) -> Callable[[Any, Any, Any], Any]:
    """(class numbers (n, h, w), logits (n, h, w, C), weights (n, h, w)) -> the loss; a weight of 0 leaves a pixel out.

    Cross-entropy and focal loss: Keras's, the mean over the pixels of weight x loss. 'dice': see `dice_loss`.
    """
    if name == "dice":
        return dice_loss
    kind, _, options = LOSSES[name.removeprefix("sparse_")]  # both forms of the cross-entropy give the same loss
    if label_smoothing:
        options = {**options, "label_smoothing": label_smoothing}
    entropy = getattr(keras.losses, kind)(from_logits=True, **options)
    return lambda targets, logits, weights: entropy(_one_hot(targets, num_classes), logits, sample_weight=weights)


def dice_loss(targets: Any, logits: Any, weights: Any) -> Any:
    """1 minus the mean over the classes in a batch of 2 sum(p y) / (sum(p) + sum(y)), each over all its pixels.

    Arguments as for `pixel_loss`; p is the softmax, y 1 where a pixel is of the class. Unlike Milletari et al. (2016), who have
    p^2 and y^2 below and two classes, it is a mean over classes, weighted by the weights of their pixels.
    """
    one_hot = _one_hot(targets, logits.shape[-1])
    counted = keras.ops.cast(weights > 0, "float32")[..., None]
    p, axes = keras.ops.softmax(keras.ops.cast(logits, "float32")) * counted, (0, 1, 2)
    one_hot = one_hot * counted
    true = keras.ops.sum(one_hot, axes)
    dice = (2 * keras.ops.sum(p * one_hot, axes) + SMOOTH) / (keras.ops.sum(p, axes) + true + SMOOTH)
    of_class = keras.ops.sum(one_hot * weights[..., None], axes) / keras.ops.maximum(true, 1.0)
    total = keras.ops.sum(of_class)  # 0 where no pixel counts: such a batch has no loss
    return keras.ops.where(total > 0, 1 - keras.ops.sum(of_class * dice) / keras.ops.maximum(total, 1e-9), 0.0)


def _one_hot(targets: Any, num_classes: int) -> Any:
    numbers = keras.ops.cast(targets, "int32")
    return keras.ops.one_hot(
        keras.ops.where(numbers < num_classes, numbers, -1), num_classes
    )  # zeros for ignored pixels
