"""Optimizers that Keras lacks: RAdam, and AdamP and SGDP, which keep the size of weights from growing without a use."""

from typing import Any

from xaitune.models.backend import keras

# A weight counts as one whose scale has no effect if its gradient's cosine with it is below DELTA / sqrt(size).
DELTA = 0.1
EPSILON = 1e-8


class _Moments(keras.optimizers.Optimizer):
    """Running means of the gradient and of its square, as in Adam."""

    def __init__(self, learning_rate: Any = 1e-3, beta_1: float = 0.9, beta_2: float = 0.999, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta_1, self.beta_2 = beta_1, beta_2

    def build(self, variables: list[Any]) -> None:
        """Make the two moments of each variable."""
        if not self.built:
            super().build(variables)
            self.first, self.second = self.add_optimizer_variables(variables, ["first", "second"])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step for one variable."""
        ops, index = keras.ops, self._get_variable_index(variable)
        gradient, rate = ops.cast(gradient, variable.dtype), ops.cast(learning_rate, variable.dtype)
        self.assign(self.first[index], self.beta_1 * self.first[index] + (1 - self.beta_1) * gradient)
        self.assign(self.second[index], self.beta_2 * self.second[index] + (1 - self.beta_2) * ops.square(gradient))
        step = ops.cast(self.iterations + 1, variable.dtype)
        left_1, left_2 = (ops.power(ops.cast(b, variable.dtype), step) for b in (self.beta_1, self.beta_2))
        mean, root = self.first[index] / (1 - left_1), ops.sqrt(self.second[index])
        self.assign_sub(variable, rate * self.direction(mean, root, step, left_2, variable, gradient))

    def direction(self, mean: Any, root: Any, step: Any, left: Any, variable: Any, gradient: Any) -> Any:
        """The step for a learning rate of 1.

        `mean`: the first moment, corrected for its start at 0; `root`: the root of the second one, not corrected; `left`:
        beta_2^step, what the start still weighs in it.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return super().get_config() | {"beta_1": self.beta_1, "beta_2": self.beta_2}


class RAdam(_Moments):
    """Adam whose step is rectified by the variance of its second moment, so that it needs no warm-up (Liu et al. 2020).

    While the second moment rests on too few steps to have a variance (rho <= 4), a step of momentum is taken instead.
    """

    def direction(self, mean: Any, root: Any, step: Any, left: Any, variable: Any, gradient: Any) -> Any:
        """Algorithm 2."""
        ops, longest = keras.ops, 2 / (1 - self.beta_2) - 1
        rho = longest - 2 * step * left / (1 - left)
        safe = ops.where(rho > 4, rho, longest)
        rectified = ops.sqrt((safe - 4) * (safe - 2) * longest / ((longest - 4) * (longest - 2) * safe))
        adaptive = rectified * ops.sqrt(1 - left) / (root + EPSILON)
        return mean * ops.where(rho > 4, adaptive, ops.ones_like(root))


class AdamP(_Moments):
    """Adam without the part of a step that only makes a scale-free weight longer (Heo et al. 2021, Algorithm 3)."""

    def direction(self, mean: Any, root: Any, step: Any, left: Any, variable: Any, gradient: Any) -> Any:
        """Adam's step, projected."""
        return projected(mean / (root / keras.ops.sqrt(1 - left) + EPSILON), variable, gradient)


class SGDP(keras.optimizers.Optimizer):
    """SGD with Nesterov momentum, projected as in `AdamP` (Heo et al. 2021, Algorithm 2)."""

    def __init__(self, learning_rate: Any = 1e-2, momentum: float = 0.9, nesterov: bool = True, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum, self.nesterov = momentum, nesterov

    def build(self, variables: list[Any]) -> None:
        """Make the velocity of each variable."""
        if not self.built:
            super().build(variables)
            self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step for one variable."""
        ops, index = keras.ops, self._get_variable_index(variable)
        gradient, rate = ops.cast(gradient, variable.dtype), ops.cast(learning_rate, variable.dtype)
        velocity = self.velocities[index]
        self.assign(velocity, self.momentum * velocity + gradient)
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, rate * projected(direction, variable, gradient))

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}


def projected(direction: Any, weight: Any, gradient: Any) -> Any:
    """A step without its part along the weight, if the weight's scale has no effect on the loss (Heo et al. 2021, eq. 11).

    That is told by a gradient at right angles to the weight: of every output channel (the last axis of a Keras kernel), or
    else of the whole weight. Vectors, such as biases, are left as they are.
    """
    if len(weight.shape) < 2:
        return direction
    by_channel, apart = _without_part_along(direction, weight, gradient, tuple(range(len(weight.shape) - 1)))
    whole, as_one = _without_part_along(direction, weight, gradient, None)
    ops = keras.ops
    return ops.where(apart, by_channel, ops.where(as_one, whole, direction))


def _without_part_along(direction: Any, weight: Any, gradient: Any, axis: Any) -> tuple[Any, Any]:
    """(the direction without its part along the weight, whether the gradient is at right angles to all of these parts)."""
    ops = keras.ops
    weight = ops.convert_to_tensor(weight)

    def norm(array: Any) -> Any:
        return ops.sqrt(ops.sum(ops.square(array), axis=axis, keepdims=True))

    size = 1
    for number in axis if axis is not None else range(len(weight.shape)):
        size *= weight.shape[number]
    cosine = ops.abs(ops.sum(gradient * weight, axis=axis, keepdims=True)) / (
        (norm(gradient) + EPSILON) * (norm(weight) + EPSILON)
    )
    unit = weight / (norm(weight) + EPSILON)
    along = ops.sum(unit * direction, axis=axis, keepdims=True)
    return direction - unit * along, ops.max(cosine) < DELTA / size**0.5


OWN = {"RAdam": RAdam, "AdamP": AdamP, "SGDP": SGDP}


def optimizer_class(name: str) -> type[Any]:
    """The optimizer of that class name, from Keras or from here."""
    return OWN[name] if name in OWN else getattr(keras.optimizers, name)
