"""Find photographs of one thing by content, under other lighting and cut a little differently.

Two steps. First, small high-passed thumbnails, whitened over the data set (so that what all images share, such as
grinding marks or busbars, counts little), give each image its nearest candidates by a matrix product. Second, each
candidate pair is registered by phase correlation at higher resolution, with the spectrum whitened by the data set's
mean spectrum: the peak within a few pixels' shift is the pair's similarity, 1 for equal content, near 0 for unlike.

The threshold is each image's own: its similarity to the images that come next after its candidates, which look
alike but are others, tells what chance gives; a pair must stand DEVIATIONS standard deviations above that for both
of its images. So pictures that are alike by design (cells without a mark of their own) are not taken for one thing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import scipy.fft
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from xaitune._progress import Progress
from xaitune.data.images import read_image
from xaitune.data.listing import run_threaded

COARSE, FINE = 24, 64  # sides of the thumbnails, pixels
BLUR = 4.0  # sigma of the high-pass, in thumbnail pixels
SHIFT = 4  # how far two pictures of one thing may be displaced, in FINE pixels
NEIGHBOURS = 24  # candidates of an image, and as many behind them to learn what chance gives
DEVIATIONS = 6.0
LEAST = 0.15  # no pair below it, however narrow the distribution of others is
LEAST_IMAGES, MOST_IMAGES = 8, 20_000  # a search's memory and time grow with the images
_SPECTRUM_FLOOR = 0.2
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """`pairs`: (m, 2) positions i < j; `similarity`: (m,) above both images' `thresholds` (n,); `component`:
    (n,) a number for each image, shared by those that pairs connect."""

    pairs: np.ndarray
    similarity: np.ndarray
    thresholds: np.ndarray
    component: np.ndarray


def find_near_duplicates(paths: Sequence[Path], progress: Progress | None = None) -> NearDuplicates:
    """Pairs of files that show the same thing; `progress(done, count, what)` is called as they are read.

    Fewer than LEAST_IMAGES give none: there is nothing to compare with. Of one thing at most NEIGHBOURS pictures (in
    a small set half of the images) are told from the rest. Memory: about 100 kB an image. Raises ImageError.
    """
    coarse = np.empty((len(paths), COARSE * COARSE), np.float32)
    fine = np.empty((len(paths), FINE, FINE), np.float32)

    def work(i: int) -> None:
        grey = cv2.cvtColor(read_image(paths[i]), cv2.COLOR_RGB2GRAY).astype(np.float32)
        coarse[i] = _flattened(grey, COARSE).ravel()
        fine[i] = _flattened(grey, FINE)

    run_threaded(work, len(paths), progress)
    return match(coarse, fine)


def match(coarse: np.ndarray, fine: np.ndarray) -> NearDuplicates:
    """`find_near_duplicates` on thumbnails: `coarse` (n, COARSE ** 2) and `fine` (n, FINE, FINE), float32."""
    n = len(fine)
    if n < LEAST_IMAGES:
        return NearDuplicates(np.empty((0, 2), int), np.empty(0), np.ones(n), np.arange(n))
    near, count = _nearest(_whitened(coarse))
    pairs = np.stack([np.repeat(np.arange(n), near.shape[1]), near.ravel()], axis=1)
    similarity = _registered(_whitened_spectra(fine), pairs).reshape(near.shape)
    others = similarity[:, count:]
    thresholds = np.clip(others.mean(axis=1) + DEVIATIONS * others.std(axis=1), LEAST, 0.95)

    ordered = np.sort(pairs.reshape(*near.shape, 2)[:, :count].reshape(-1, 2), axis=1)
    pairs, first = np.unique(ordered, axis=0, return_index=True)
    values = similarity[:, :count].ravel()[first]
    keep = values > thresholds[pairs].max(axis=1)
    return NearDuplicates(pairs[keep], values[keep], thresholds, connected(n, pairs[keep]))


def connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """(n,) the number of each image's connected component, 0.. in the order of first members."""
    first, second = np.asarray(pairs, dtype=int).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, members, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(members))[numbers]


def _flattened(grey: np.ndarray, side: int) -> np.ndarray:
    """A (side, side) thumbnail without slow brightness changes and with even contrast."""
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    detail = small - cv2.GaussianBlur(small, (0, 0), BLUR)
    return detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), BLUR)) + 1)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)


def _whitened(rows: np.ndarray) -> np.ndarray:
    """(n, d) unit rows: principal axes scaled to even variance, those below the mean variance shrunk."""
    rows = _unit(rows)
    rows = rows - rows.mean(axis=0)
    variance, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    return _unit((rows @ axes) / np.sqrt(variance.clip(0) + variance.mean() + 1e-12)).astype(np.float32)


def _whitened_spectra(fine: np.ndarray) -> np.ndarray:
    """(n, FINE, FINE // 2 + 1) spectra of unit energy, divided by the data set's mean amplitude."""
    flat = _unit((fine - fine.mean(axis=0)).reshape(len(fine), -1)).reshape(fine.shape)
    edge = np.hanning(FINE + 2)[1:-1] ** 0.25
    spectra = scipy.fft.rfft2(flat * np.outer(edge, edge).astype(np.float32)).astype(np.complex64)
    amplitude = np.sqrt((np.abs(spectra) ** 2).mean(axis=0))
    spectra /= amplitude + _SPECTRUM_FLOOR * amplitude.mean() + 1e-12
    twice = np.full(spectra.shape[2], 2.0)  # a real picture's spectrum stores all columns but two only once
    twice[[0, -1]] = 1
    energy = ((np.abs(spectra) ** 2) * twice).sum(axis=(1, 2)) / FINE**2
    return spectra / (np.sqrt(energy)[:, None, None].astype(np.float32) + 1e-9)


def _registered(spectra: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(m,) the highest correlation of each pair over shifts up to SHIFT pixels."""
    out = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _CHUNK):
        i, j = pairs[start : start + _CHUNK].T
        surface = scipy.fft.irfft2(spectra[i] * spectra[j].conj(), s=(FINE, FINE))
        near = np.r_[-SHIFT : SHIFT + 1]
        out[start : start + _CHUNK] = surface[:, near[:, None], near].max(axis=(1, 2))
    return out


def _nearest(features: np.ndarray) -> tuple[np.ndarray, int]:
    """(n, k) each image's nearest others, nearest first, and how many of the k are candidates."""
    n = len(features)
    count = min(NEIGHBOURS, (n - 1) // 2)
    k = min(2 * NEIGHBOURS, n - 1)
    near = np.empty((n, k), int)
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        similar = features[rows] @ features.T
        similar[np.arange(len(rows)), rows] = -np.inf
        chosen = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similar, chosen, axis=1), axis=1, kind="stable")
        near[rows] = np.take_along_axis(chosen, order, axis=1)
    return near, count
