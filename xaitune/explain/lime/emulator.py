"""Gaussian-process surrogate of a network's answers to superpixel masks (Rasmussen and Williams 2006).

Arrays only. Superpixels act on an image together, so a linear model of a network's answers leaves a large residual; on
VGG16 this residual is a smooth function of the mask and can be learnt from the same few hundred answers.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import softmax

DECAY = 0.5  # the correlation of the nonlinear part falls to exp(-2 * DECAY) between opposite masks
FLOOR = 0.5  # the smallest relevance of a superpixel in the covariance, as a fraction of the average relevance
NUGGET = 1e-3  # variance that no similar mask explains; it also keeps the linear system solvable
MAX_TRAINING_MASKS = 2000  # it learns from the first masks only, since the cost grows with the cube of their number
_MIN_PROBABILITY = 1e-7  # lower bound before taking the logarithm
_CHUNK = 8192  # masks predicted at once


class Emulator:
    """Learns from `masks` (n, m) of 0 and 1 and their `probabilities` (n, classes), whose rows sum to 1.

    The centred log-probabilities of each class are a Gaussian process with covariance s + exp(DECAY (s - 1)), where
    s = sum_i a_i x_i x'_i over the superpixels i, x = 2 * mask - 1, and the relevances a_i sum to 1. The first term is
    linear in the mask; the second contains every interaction, with less variance for higher orders. Half of the total
    relevance is shared equally, the other half in proportion to the squared slopes of a linear fit, since superpixels
    with large effects also interact strongly.

    `leave_one_out`: (n, classes), the probabilities predicted for each mask from all other masks (ibid., eq. 5.12; the
    a_i and the mean are those of all masks). Masks beyond the first MAX_TRAINING_MASKS are predicted from these.
    """

    def __init__(self, masks: np.ndarray, probabilities: np.ndarray) -> None:
        logs = np.log(np.maximum(probabilities, _MIN_PROBABILITY))
        logs -= logs.mean(axis=1, keepdims=True)
        training = slice(0, MAX_TRAINING_MASKS)
        x, y = 2.0 * masks[training] - 1, logs[training]
        self._mean = y.mean(axis=0)
        slopes = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (y - self._mean))  # (m, classes)
        strength = (slopes**2).sum(axis=1)
        if not strength.any():
            strength = np.ones_like(strength)
        self._relevance = (FLOOR + (1 - FLOOR) * strength / strength.mean()) / len(strength)
        self._inputs = x * np.sqrt(self._relevance)
        covariance = _covariance(self._inputs, self._inputs)
        covariance[np.diag_indices_from(covariance)] += NUGGET
        self._cholesky = cho_factor(covariance, lower=True, overwrite_a=True)
        self._coefficients = cho_solve(self._cholesky, y - self._mean)
        # Leave-one-out predictive variance of each mask, and from it the variance scale of each class.
        variance = 1 / np.diag(cho_solve(self._cholesky, np.eye(len(x))))[:, None]
        self._scale = (self._coefficients**2 * variance).mean(axis=0)  # (classes,)
        beyond = self(masks[MAX_TRAINING_MASKS:]) if len(masks) > MAX_TRAINING_MASKS else probabilities[:0]
        self.leave_one_out = np.concatenate([softmax(y - self._coefficients * variance, axis=1), beyond])

    def _scaled(self, masks: np.ndarray) -> np.ndarray:
        return (2.0 * masks - 1) * np.sqrt(self._relevance)

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """The predicted probabilities (n, classes), computed in float32."""
        inputs, coefficients = self._inputs.astype(np.float32), self._coefficients.astype(np.float32)
        logs = np.empty((len(masks), len(self._mean)), np.float32)
        for start in range(0, len(masks), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            logs[chunk] = _covariance(self._scaled(masks[chunk]).astype(np.float32), inputs) @ coefficients
        return softmax(logs + self._mean, axis=1)

    def posterior_deviations(self, masks: np.ndarray, draws: int, seed: int | list[int]) -> np.ndarray:
        """(draws, n, classes): posterior draws of true minus predicted probabilities, to first order in the logarithms."""
        inputs = self._scaled(masks)
        cross = _covariance(self._inputs, inputs)
        whitened = solve_triangular(self._cholesky[0], cross, lower=True)
        posterior = _covariance(inputs, inputs) - whitened.T @ whitened
        posterior[np.diag_indices_from(posterior)] += NUGGET
        normal = np.random.default_rng(seed).normal(size=(len(masks), draws * len(self._scale)))
        logs = (np.linalg.cholesky(posterior) @ normal).reshape(len(masks), draws, -1) * np.sqrt(self._scale)
        predicted = softmax(cross.T @ self._coefficients + self._mean, axis=1)[:, None]  # (n, 1, classes)
        return (predicted * (logs - (predicted * logs).sum(axis=2, keepdims=True))).transpose(1, 0, 2)


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    similarity = a @ b.T  # 1 for equal masks, -1 for opposite ones
    return similarity + np.exp(DECAY * (similarity - 1))
