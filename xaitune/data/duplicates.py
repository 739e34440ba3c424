"""Search for near-duplicates: photographs of the same thing, in different light and cropped slightly differently.

There are two steps. First, small high-pass-filtered thumbnails, whitened over the data set (so that what all images
share, such as grinding marks or busbars, counts little), give each image its nearest candidates by a matrix product.
Second, each candidate pair is registered by phase correlation at higher resolution, with the spectrum whitened by the
data set's mean spectrum. The peak within a shift of a few pixels is the pair's similarity: 1 for identical content,
near 0 for unrelated content.

Each image has its own threshold. The images ranked just behind its candidates look similar but show other things, so
their similarities show what chance gives. A pair must exceed that by DEVIATIONS standard deviations for both of its
images, so pictures that are alike by design (cells without a mark of their own) are not taken for the same thing.

All of this is done twice: with the pictures as they are, and with one of the two mirrored, turned by 90 degrees, or both
(seven versions), so that copies made by augmentation on disk are found too.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
# Transpose, flip rows, flip columns: the eight ways to mirror and turn a square by multiples of 90 degrees.
ORIENTATIONS = tuple(itertools.product((False, True), repeat=3))
MIN_SIMILARITY = (
    0.15,
    0.4,
)  # of a pair as it is, and of one that is mirrored or turned (a copy has the very same content)
MIN_IMAGES, MAX_IMAGES = 8, 20_000  # memory and time grow with the number of images
_SPECTRUM_FLOOR = 0.2
_CHUNK = 512
_Whitening = Callable[[np.ndarray], np.ndarray]  # pictures -> the same, whitened over the data set


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Pairs of images that show the same thing.

    `pairs`: (m, 2) positions i < j. `similarity`: (m,). `turned`: (m,) whether the two match only when one of them is
    mirrored or turned. `thresholds`: (2, n) what the similarity of a pair exceeds for both of its images, as they are and
    turned. `component`: (n,) a number per image, the same for all images that pairs connect.
    """

    pairs: np.ndarray
    similarity: np.ndarray
    turned: np.ndarray
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
        return NearDuplicates(np.empty((0, 2), int), np.empty(0), np.empty(0, bool), np.ones((2, n)), np.arange(n))
    thumbnails = coarse, fine, _whitening(coarse), _spectral_whitening(fine)
    as_they_are = _similar_pairs(*thumbnails, ORIENTATIONS[:1], MIN_SIMILARITY[0])
    mirrored = _similar_pairs(*thumbnails, ORIENTATIONS[1:], MIN_SIMILARITY[1])
    pairs, first = np.unique(np.concatenate([as_they_are.pairs, mirrored.pairs]), axis=0, return_index=True)
    similarity = np.concatenate([as_they_are.similarity, mirrored.similarity])[first]
    turned = first >= len(as_they_are.pairs)  # a pair that matches both ways counts as it is
    thresholds = np.stack([as_they_are.thresholds, mirrored.thresholds])
    return NearDuplicates(pairs, similarity, turned, thresholds, connected(n, pairs))


class _Similar(NamedTuple):
    """Pairs (m, 2) of similar images, their similarity (m,), and each image's threshold (n,)."""

    pairs: np.ndarray
    similarity: np.ndarray
    thresholds: np.ndarray


def _similar_pairs(
    coarse: np.ndarray,
    fine: np.ndarray,
    whiten: _Whitening,
    spectra_of: _Whitening,
    orientations: Sequence[tuple[bool, ...]],
    lowest: float,
) -> _Similar:
    """The pairs whose similarity, with the first image in its best orientation, exceeds both images' thresholds."""
    near, which, count = _nearest(coarse, whiten, orientations)
    first = np.repeat(np.arange(len(fine)), near.shape[1])
    second, chosen = near.ravel(), which.ravel()
    spectra = spectra_of(fine)
    values = np.empty(near.size, np.float32)
    for start in range(0, near.size, _CHUNK):
        rows = slice(start, start + _CHUNK)
        moved = np.empty((len(values[rows]), *spectra.shape[1:]), spectra.dtype)
        for number in np.unique(chosen[rows]):
            of = np.flatnonzero(chosen[rows] == number)
            moved[of] = spectra_of(_turned(fine[first[rows][of]], orientations[number]))
        values[rows] = _registered(moved, spectra[second[rows]])
    similarity = values.reshape(near.shape)
    by_chance = similarity[:, count:]
    thresholds = np.clip(by_chance.mean(axis=1) + DEVIATIONS * by_chance.std(axis=1), lowest, 0.95)
    pairs = np.sort(np.stack([first.reshape(near.shape), near], axis=-1)[:, :count].reshape(-1, 2), axis=1)
    found = similarity[:, :count].ravel()
    keep = found > thresholds[pairs].max(axis=1)
    return _Similar(pairs[keep], found[keep], thresholds)


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


def _turned(pictures: np.ndarray, orientation: tuple[bool, ...]) -> np.ndarray:
    """Square pictures (..., side, side) in one of the ORIENTATIONS."""
    transpose, down, across = orientation
    pictures = pictures.swapaxes(-1, -2) if transpose else pictures
    return pictures[..., :: -1 if down else 1, :: -1 if across else 1]


def _whitening(rows: np.ndarray) -> _Whitening:
    """A function that whitens rows (m, d) by the principal axes of `rows` (n, d), and returns unit rows.

    The axes are scaled to equal variance, but axes below the mean variance stay smaller.
    """
    rows = _unit(rows)
    mean = rows.mean(axis=0)
    rows = rows - mean
    variance, axes = np.linalg.eigh(rows.T @ rows / len(rows))
    scaled = axes / np.sqrt(variance.clip(0) + variance.mean() + 1e-12)
    return lambda new: _unit((_unit(new) - mean) @ scaled).astype(np.float32)


def _spectral_whitening(fine: np.ndarray) -> _Whitening:
    """A function: pictures (m, FINE, FINE) -> spectra (m, FINE, FINE // 2 + 1) of unit energy.

    They are divided by the mean amplitude of `fine` (n, FINE, FINE).
    """
    mean = fine.mean(axis=0)
    edge = np.hanning(FINE + 2)[1:-1] ** 0.25
    window = np.outer(edge, edge).astype(np.float32)

    def plain(pictures: np.ndarray) -> np.ndarray:
        flat = _unit((pictures - mean).reshape(len(pictures), -1)).reshape(pictures.shape)
        return scipy.fft.rfft2(flat * window).astype(np.complex64)

    amplitude = np.sqrt((np.abs(plain(fine)) ** 2).mean(axis=0))
    divisor = amplitude + _SPECTRUM_FLOOR * amplitude.mean() + 1e-12
    multiplicity = np.full(divisor.shape[1], 2.0)  # rfft2 omits the conjugate of every column but the first and last
    multiplicity[[0, -1]] = 1

    def whitened(pictures: np.ndarray) -> np.ndarray:
        spectra = plain(pictures) / divisor
        energy = ((np.abs(spectra) ** 2) * multiplicity).sum(axis=(1, 2)) / FINE**2
        return spectra / (np.sqrt(energy)[:, None, None].astype(np.float32) + 1e-9)

    return whitened


def _registered(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m,) each pair's highest correlation over shifts of up to SHIFT pixels."""
    surface = scipy.fft.irfft2(first * second.conj(), s=(FINE, FINE))
    near = np.r_[-SHIFT : SHIFT + 1]
    return surface[:, near[:, None], near].max(axis=(1, 2))


def _nearest(
    coarse: np.ndarray, whiten: _Whitening, orientations: Sequence[tuple[bool, ...]]
) -> tuple[np.ndarray, np.ndarray, int]:
    """The nearest other images of each image in its best orientation.

    Returns (n, k) the images, nearest first; (n, k) the number of the orientation; and how many of the k are candidates.
    """
    n = len(coarse)
    count = min(NEIGHBOURS, (n - 1) // 2)
    k = min(2 * NEIGHBOURS, n - 1)
    features = whiten(coarse)
    near, which = np.empty((n, k), int), np.empty((n, k), int)
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        similar = np.full((len(rows), n), -np.inf, np.float32)
        best = np.zeros((len(rows), n), np.int8)
        for number, orientation in enumerate(orientations):
            turned = _turned(coarse[rows].reshape(-1, COARSE, COARSE), orientation).reshape(len(rows), -1)
            new = whiten(turned) @ features.T
            best[new > similar] = number
            np.maximum(similar, new, out=similar)
        similar[np.arange(len(rows)), rows] = -np.inf
        chosen = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similar, chosen, axis=1), axis=1, kind="stable")
        near[rows] = np.take_along_axis(chosen, order, axis=1)
        which[rows] = np.take_along_axis(best, near[rows], axis=1)
    return near, which, count
