"""Search for near-duplicates: photographs of the same thing, in different light and cropped slightly differently.

There are two steps. First, small high-pass-filtered thumbnails, whitened over the data set (so that what all images
share, such as grinding marks or busbars, counts little), give each image its nearest candidates by a matrix product.
Second, each candidate pair is registered by phase correlation at higher resolution, with the spectrum whitened by the
data set's mean spectrum. The peak within a shift of a few pixels is the pair's similarity: 1 for identical content,
near 0 for unrelated content.

Each image has its own threshold. The images ranked just behind its candidates look similar but show other things, so
their similarities show what chance gives. A pair must exceed that by DEVIATIONS standard deviations for both of its
images, so pictures that are alike by design (cells without a mark of their own) are not taken for the same thing.
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
BLUR = 4.0  # sigma of the high-pass filter, in thumbnail pixels
SHIFT = 4  # largest displacement between two pictures of the same thing, in pixels of the FINE thumbnail
NEIGHBOURS = 24  # candidates per image, and the number of images ranked behind them that show what chance gives
DEVIATIONS = 6.0
MIN_SIMILARITY = 0.15  # of a pair, however little the chance similarities vary
MIN_IMAGES, MAX_IMAGES = 8, 20_000  # memory and time grow with the number of images
_SPECTRUM_FLOOR = 0.2
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Pairs of images that show the same thing.

    `pairs`: (m, 2) positions i < j. `similarity`: (m,), above the `thresholds` (n,) of both images. `component`: (n,)
    a number per image, the same for all images that pairs connect.
    """

    pairs: np.ndarray
    similarity: np.ndarray
    thresholds: np.ndarray
    component: np.ndarray


def find_near_duplicates(paths: Sequence[Path], progress: Progress | None = None) -> NearDuplicates:
    """Pairs of files that show the same thing; calls `progress(done, count, what)` after each file is read.

    Fewer than MIN_IMAGES files give no pairs: there is nothing to compare with. At most NEIGHBOURS pictures of one
    thing (in a small set, half of the images) can be recognised. Memory: about 100 kB per image. Raises ImageError.
    """
    coarse = np.empty((len(paths), COARSE * COARSE), np.float32)
    fine = np.empty((len(paths), FINE, FINE), np.float32)

    def read_thumbnails(i: int) -> None:
        grey = cv2.cvtColor(read_image(paths[i]), cv2.COLOR_RGB2GRAY).astype(np.float32)
        coarse[i] = _flattened(grey, COARSE).ravel()
        fine[i] = _flattened(grey, FINE)

    run_threaded(read_thumbnails, len(paths), progress)
    return match(coarse, fine)


def match(coarse: np.ndarray, fine: np.ndarray) -> NearDuplicates:
    """`find_near_duplicates` for thumbnails: `coarse` (n, COARSE ** 2) and `fine` (n, FINE, FINE), float32."""
    n = len(fine)
    if n < MIN_IMAGES:
        return NearDuplicates(np.empty((0, 2), int), np.empty(0), np.ones(n), np.arange(n))
    near, count = _nearest(_whitened(coarse))
    pairs = np.stack([np.repeat(np.arange(n), near.shape[1]), near.ravel()], axis=1)
    similarity = _registered(_whitened_spectra(fine), pairs).reshape(near.shape)
    by_chance = similarity[:, count:]
    thresholds = np.clip(by_chance.mean(axis=1) + DEVIATIONS * by_chance.std(axis=1), MIN_SIMILARITY, 0.95)

    ordered = np.sort(pairs.reshape(*near.shape, 2)[:, :count].reshape(-1, 2), axis=1)
    pairs, first = np.unique(ordered, axis=0, return_index=True)
    values = similarity[:, :count].ravel()[first]
    keep = values > thresholds[pairs].max(axis=1)
    return NearDuplicates(pairs[keep], values[keep], thresholds, connected(n, pairs[keep]))


def connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """(n,) the number of each image's connected component, counted from 0 in the order of their first members."""
    first, second = np.asarray(pairs, dtype=int).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    _, members, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(members))[numbers]


def _flattened(grey: np.ndarray, side: int) -> np.ndarray:
    """A (side, side) thumbnail without gradual brightness changes and with uniform contrast."""
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    detail = small - cv2.GaussianBlur(small, (0, 0), BLUR)
    return detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), BLUR)) + 1)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows shifted to mean 0 and scaled to length 1."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)


def _whitened(rows: np.ndarray) -> np.ndarray:
    """(n, d) unit rows: principal axes scaled to equal variance, but axes below the mean variance stay smaller."""
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
    multiplicity = np.full(spectra.shape[2], 2.0)  # rfft2 omits the conjugate of every column but the first and last
    multiplicity[[0, -1]] = 1
    energy = ((np.abs(spectra) ** 2) * multiplicity).sum(axis=(1, 2)) / FINE**2
    return spectra / (np.sqrt(energy)[:, None, None].astype(np.float32) + 1e-9)


def _registered(spectra: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(m,) each pair's highest correlation over shifts of up to SHIFT pixels."""
    out = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _CHUNK):
        i, j = pairs[start : start + _CHUNK].T
        surface = scipy.fft.irfft2(spectra[i] * spectra[j].conj(), s=(FINE, FINE))
        near = np.r_[-SHIFT : SHIFT + 1]
        out[start : start + _CHUNK] = surface[:, near[:, None], near].max(axis=(1, 2))
    return out


def _nearest(features: np.ndarray) -> tuple[np.ndarray, int]:
    """(n, k) the nearest other images of each image, nearest first, and how many of the k are candidates."""
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
