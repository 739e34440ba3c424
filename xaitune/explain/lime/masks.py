"""Which superpixels are shown: the lime package's masks, complementary pairs, and balanced ones."""

import functools

import numpy as np
from sklearn.utils import check_random_state

ENUMERATED = (
    16  # superpixels up to which the emulator is averaged over all 2^m masks; beyond, over as many balanced ones
)


def package_masks(superpixels: int, num_samples: int, seed: int) -> np.ndarray:
    """(num_samples, superpixels) in the order of the lime package with random_state=`seed`; the first row all 1."""
    state = check_random_state(seed)
    state.randint(0, high=1000)  # lime draws its segmenter's seed first
    masks = state.randint(0, 2, num_samples * superpixels).reshape(num_samples, superpixels)
    masks[0] = 1
    return masks


def draw_halves(superpixels: int, pairs: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """(at most `pairs`, superpixels): one mask of each complementary pair {z, 1 - z}, no pair twice, all 1 first.

    Pairs are equally likely. Where fewer exist (2^(superpixels - 1)), all of them come.
    """
    rng = np.random.default_rng(seed)
    free = superpixels - 1  # the first superpixel is shown in one mask of each pair, and that one is drawn
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
    """(masks, superpixels): up to ENUMERATED superpixels all 2^m, number i in the bits of i; beyond, 2^16 of them.

    Among those 2^16 every four superpixels are shown and hidden in all 16 ways equally often, so that what two do together
    averages out of the weights of others: an orthogonal array, of the words of the code dual to BCH's that corrects two
    errors (Bose and Ray-Chaudhuri 1960), in the field of 256. That has 255 columns; for more superpixels 2^14 masks
    are drawn at random.
    """
    if superpixels > 255:
        halves = draw_halves(superpixels, 2**13, 0).astype(np.uint8)
        return np.concatenate([halves, 1 - halves])
    columns = 1 << np.arange(superpixels)
    if superpixels > ENUMERATED:
        powers = [1]  # of 2, in the field of 256
        while len(powers) < 255:
            powers.append(powers[-1] << 1 ^ (0x11D if powers[-1] & 0x80 else 0))
        columns = np.array([powers[j] | powers[3 * j % 255] << 8 for j in range(superpixels)])
    parity: np.ndarray = np.arange(2 ** min(superpixels, ENUMERATED), dtype=np.int32)[:, None] & columns.astype(
        np.int32
    )
    for shift in (8, 4, 2, 1):
        parity = parity ^ (parity >> shift)
    return (parity & 1).astype(np.uint8)
