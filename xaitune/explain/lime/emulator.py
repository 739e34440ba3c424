"""What a network would answer to masks that it was not asked: a Gaussian process (Rasmussen and Williams 2006) over masks.

Arrays only. What superpixels do to an image they do together, so that a linear model of a network's answers leaves much
over; on VGG16 that is smooth, and learnt from the same few hundred answers.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import softmax

DECAY = 0.5  # the correlation of what is not linear falls to exp(-2 * DECAY) from equal masks to opposite ones
FLOOR = 0.5  # a superpixel's share in how far two masks are apart is at least this part of the average share
NUGGET = 1e-3  # variance of what no neighbour tells, and what keeps the equations solvable
LEARNT = 2000  # the first masks, at most, that it learns from, since its cost grows with their cube
_LEAST = 1e-7  # probability, in a logarithm
_CHUNK = 8192  # masks at a time


class Emulator:
    """Learns from `masks` (n, m) of 0 and 1 and their `probabilities` (n, classes), rows adding up to 1.

    The centred log-probabilities of each class are a Gaussian process with the covariance s + exp(DECAY (s - 1)),
    s = sum_i a_i x_i x'_i over the superpixels i, where x = 2 * mask - 1 and the a_i add up to 1: a part linear in the
    mask, and a part in which every interaction has its place, the higher the smaller. Half of a_i is shared out equally
    and half by the squared slopes of a linear fit, since superpixels that do much do it together.

    `left_out`: (n, classes), for each mask the probabilities foretold from all others (ib. eq. 5.12; the a_i and the mean
    are of all); beyond the first LEARNT masks those foretold from these.
    """

    def __init__(self, masks: np.ndarray, probabilities: np.ndarray) -> None:
        logs = np.log(np.maximum(probabilities, _LEAST))
        logs -= logs.mean(axis=1, keepdims=True)
        learnt = slice(0, LEARNT)
        x, y = 2.0 * masks[learnt] - 1, logs[learnt]
        self._mean = y.mean(axis=0)
        slopes = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (y - self._mean))  # (m, classes)
        strength = (slopes**2).sum(axis=1)
        if not strength.any():
            strength = np.ones_like(strength)
        self._share = (FLOOR + (1 - FLOOR) * strength / strength.mean()) / len(strength)
        self._x = x * np.sqrt(self._share)
        covariance = _covariance(self._x, self._x)
        covariance[np.diag_indices_from(covariance)] += NUGGET
        self._factor = cho_factor(covariance, lower=True, overwrite_a=True)
        self._solved = cho_solve(self._factor, y - self._mean)
        own = 1 / np.diag(cho_solve(self._factor, np.eye(len(x))))[:, None]  # variance of each given all others
        self._size = (self._solved**2 * own).mean(axis=0)  # (classes,): what the covariance is to be multiplied with
        beyond = self(masks[LEARNT:]) if len(masks) > LEARNT else probabilities[:0]
        self.left_out = np.concatenate([softmax(y - self._solved * own, axis=1), beyond])

    def _scaled(self, masks: np.ndarray) -> np.ndarray:
        return (2.0 * masks - 1) * np.sqrt(self._share)

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        """(n, classes) probabilities, in float32."""
        known, solved = self._x.astype(np.float32), self._solved.astype(np.float32)
        out = np.empty((len(masks), len(self._mean)), np.float32)
        for start in range(0, len(masks), _CHUNK):
            part = slice(start, start + _CHUNK)
            out[part] = _covariance(self._scaled(masks[part]).astype(np.float32), known) @ solved
        return softmax(out + self._mean, axis=1)

    def deviations(self, masks: np.ndarray, draws: int, seed: int | list[int]) -> np.ndarray:
        """(draws, n, classes): how far the true probabilities may lie from the foretold ones, to first order."""
        new = self._scaled(masks)
        cross = _covariance(self._x, new)
        known = solve_triangular(self._factor[0], cross, lower=True)
        left = _covariance(new, new) - known.T @ known
        left[np.diag_indices_from(left)] += NUGGET
        normal = np.random.default_rng(seed).normal(size=(len(masks), draws * len(self._size)))
        moved = (np.linalg.cholesky(left) @ normal).reshape(len(masks), draws, -1) * np.sqrt(self._size)
        shares = softmax(cross.T @ self._solved + self._mean, axis=1)[:, None]  # (n, 1, classes)
        return (shares * (moved - (shares * moved).sum(axis=2, keepdims=True))).transpose(1, 0, 2)


def _covariance(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    alike = one @ two.T  # 1 for equal masks, -1 for opposite ones
    return alike + np.exp(DECAY * (alike - 1))
