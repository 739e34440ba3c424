"""Second opinions: published scores of how well frozen features separate the classes, before any training."""

import numpy as np
from sklearn.covariance import ledoit_wolf


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME (You et al. 2021): the log evidence of a Bayesian linear model, per image, for features (n, d) and classes (n,).

    Each class is a target of 0 and 1; the precisions alpha (of the weights) and beta (of the noise) maximise the evidence
    by MacKay's fixed-point steps; the mean over the classes is returned. Higher is better.
    """
    x = np.asarray(features, np.float64)
    n, d = x.shape
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    squares = s**2
    values = []
    for label in np.unique(labels):
        y = (labels == label).astype(np.float64)
        projected = u.T @ y
        rest = y @ y - projected @ projected  # the part of y outside the span of the features
        alpha, beta = 1.0, 1.0
        for _ in range(50):
            shrunk = beta * squares / (alpha + beta * squares)
            gamma = shrunk.sum()
            weight_square = float(((shrunk * projected) ** 2 / np.maximum(squares, 1e-30)).sum())
            error_square = float((((1 - shrunk) * projected) ** 2).sum() + rest)
            new_alpha = gamma / max(weight_square, 1e-12)
            new_beta = (n - gamma) / max(error_square, 1e-12)
            converged = abs(np.log(new_alpha / alpha)) + abs(np.log(new_beta / beta)) < 1e-6
            alpha, beta = new_alpha, new_beta
            if converged:
                break
        values.append(_log_evidence(projected, squares, rest, alpha, beta, n, d))
    return float(np.mean(values)) / n


def _log_evidence(
    projected: np.ndarray, squares: np.ndarray, rest: float, alpha: float, beta: float, n: int, d: int
) -> float:
    """log p(y | alpha, beta) from the singular values of the features; Bishop 2006, equation 3.86."""
    shrunk = beta * squares / (alpha + beta * squares)
    weight_square = float(((shrunk * projected) ** 2 / np.maximum(squares, 1e-30)).sum())
    error_square = float((((1 - shrunk) * projected) ** 2).sum() + rest)
    log_determinant = float(np.log(alpha + beta * squares).sum()) + (d - len(squares)) * np.log(alpha)
    return 0.5 * (
        n * np.log(beta)
        + d * np.log(alpha)
        - n * np.log(2 * np.pi)
        - beta * error_square
        - alpha * weight_square
        - log_determinant
    )


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """The H-score (Bao et al. 2019): the trace of cov(features)^-1 cov(class means). Higher is better.

    The covariance of the features (n, d) is shrunk by Ledoit and Wolf's amount, as Ibrahim et al. 2021 propose: it is
    singular where there are fewer images than features.
    """
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    covariance, _ = ledoit_wolf(x, assume_centered=True)
    means = np.zeros_like(x)
    for label in np.unique(labels):
        means[labels == label] = x[labels == label].mean(axis=0)
    return float(np.trace(np.linalg.solve(covariance, means.T @ means / len(x))))


def transrate(features: np.ndarray, labels: np.ndarray, distortion: float = 1e-4) -> float:
    """TransRate (Huang et al. 2022): the coding rate of the features (n, d) minus its mean within the classes, in nats."""
    x = np.asarray(features, np.float64)
    x = x - x.mean(axis=0)
    x = x / max(float(np.linalg.norm(x)), 1e-12)
    within = sum((labels == label).mean() * _coding_rate(x[labels == label], distortion) for label in np.unique(labels))
    return _coding_rate(x, distortion) - float(within)


def _coding_rate(x: np.ndarray, distortion: float) -> float:
    n, d = x.shape
    gram = x @ x.T if n < d else x.T @ x
    return float(np.linalg.slogdet(np.eye(len(gram)) + gram * d / (n * distortion))[1]) / 2


OPINIONS = {"logme": logme, "h_score": h_score, "transrate": transrate}
