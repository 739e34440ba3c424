"""Masks of shown superpixels: the lime package's, complementary pairs, and balanced ones."""

import functools

import numpy as np
from sklearn.utils import check_random_state

# Up to this many superpixels the emulator is averaged over all 2^m masks, for more over as many balanced ones.
ENUMERATED = 16


def package_masks(superpixels: int, num_samples: int, seed: int) -> np.ndarray:
    """(num_samples, superpixels): the masks of the lime package with random_state=`seed`; the first row is all 1."""
    state = check_random_state(seed)
    state.randint(0, high=1000)  # lime draws its segmenter's seed first
    masks = state.randint(0, 2, num_samples * superpixels).reshape(num_samples, superpixels)
    masks[0] = 1
    return masks


def draw_halves(superpixels: int, pairs: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """(at most `pairs`, superpixels): one mask of each complementary pair {z, 1 - z}, no pair twice, all 1 first.

    All pairs are equally likely. Where fewer than `pairs` exist (2^(superpixels - 1)), all of them are returned.
    """
    rng = np.random.default_rng(seed)
    free = superpixels - 1  # of each pair, the mask that shows the first superpixel is returned
    if free <= 20:
        codes = 1 + rng.permutation(2**free - 1)[: pairs - 1]
        drawn = (codes[:, None] >> np.arange(free)) & 1
    else:
        drawn = rng.integers(0, 2, (pairs + pairs // 8 + 8, free))
        drawn = drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])][: pairs - 1]
    halves = np.ones((len(drawn) + 1, superpixels), np.int64)
    halves[1:, 1:] = 1 - drawn
    return halves


@functools.lru_cache(maxsize=4)
def balanced_masks(superpixels: int) -> np.ndarray:
    """(masks, superpixels): all 2^m masks for up to ENUMERATED superpixels, mask i in the bits of i; for more, 2^16 masks.

    In those 2^16 masks any four superpixels are shown and hidden in all 16 ways equally often, so that the joint effect
    of two averages out of the weights of the others. They are an orthogonal array: the words of the dual of the BCH
    code that corrects two errors (Bose and Ray-Chaudhuri 1960), over the field of 256 elements. It has 255 columns; for
    more superpixels, 2^14 masks are drawn at random.
    """
    if superpixels > 255:
        halves = draw_halves(superpixels, 2**13, 0).astype(np.uint8)
        return np.concatenate([halves, 1 - halves])
    columns = 1 << np.arange(superpixels)
    if superpixels > ENUMERATED:
        powers = [1]  # of 2, in the field of 256 elements
        while len(powers) < 255:
            powers.append(powers[-1] << 1 ^ (0x11D if powers[-1] & 0x80 else 0))
        columns = np.array([powers[j] | powers[3 * j % 255] << 8 for j in range(superpixels)])
    numbers = np.arange(2 ** min(superpixels, ENUMERATED), dtype=np.int32)
    parity: np.ndarray = numbers[:, None] & columns.astype(np.int32)
    for shift in (8, 4, 2, 1):
        parity = parity ^ (parity >> shift)
    return (parity & 1).astype(np.uint8)
