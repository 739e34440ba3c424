"""The scale on which maps of different blocks are compared: noise finds nothing, the mask itself all, a fixed place nothing."""

import numpy as np
import pandas as pd
import pytest

from xaitune.advise import masks as masks_module
from xaitune.advise.masks import found, said

GRIDS = {1: 32, 2: 16, 3: 8, 4: 4, 5: 2}


def drawn_masks(count, rng, size=32, side=5):
    masks = np.zeros((count, size, size), bool)
    for mask in masks:
        top, left = rng.integers(0, size - side, 2)
        mask[top : top + side, left : left + side] = True
    return masks


def test_noise_ranks_no_block():
    rng = np.random.default_rng(0)
    masks = drawn_masks(200, rng)
    raw = {block: rng.random((200, side, side)).astype(np.float32) for block, side in GRIDS.items()}
    mean, low, high = found(raw, masks, np.arange(200) // 2)
    assert np.abs(mean[:4]).max() < 0.05
    assert (low < 0).all()
    assert (high > 0).all()


def test_the_mask_itself_finds_all_at_every_resolution_and_a_fixed_place_nothing():
    rng = np.random.default_rng(1)
    masks = drawn_masks(60, rng)
    ideal = {b: np.stack([masks_module._at_grid(m, (side, side)) for m in masks]) for b, side in GRIDS.items()}
    mean, low, _ = found(ideal, masks, np.arange(60))
    np.testing.assert_allclose(mean, 1, atol=2e-3)  # maps are float32
    assert (low > 0.5).all()
    blob = np.exp(-((np.linspace(-2, 2, 16)[:, None]) ** 2) - np.linspace(-2, 2, 16)[None] ** 2)
    mean, _, _ = found(dict.fromkeys(GRIDS, np.repeat(blob[None], 60, axis=0)), masks, np.arange(60))
    np.testing.assert_allclose(mean, 0, atol=1e-12)


def test_a_mask_at_a_grid_keeps_its_area():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    for grid in ((6, 9), (3, 3), (4, 5), (1, 1)):
        cells = masks_module._at_grid(mask, grid)
        assert cells.mean() == pytest.approx(mask.mean())
        assert cells.min() >= -1e-12
        assert cells.max() <= 1 + 1e-12
    np.testing.assert_allclose(masks_module._at_grid(mask, (6, 9)), mask)


def table_of(own, gradcam, share=(0.1, 0.2, 0.4, 0.2, 0.1)):
    table = pd.DataFrame({"images": 40, "groups": 20, "own": own, "gradcam": gradcam, "share": share})
    for name in ("own", "gradcam"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.05, table[name] + 0.05
    return table.set_index(pd.Index(range(1, 6), name="block"))


def test_only_what_the_intervals_tell_is_said():
    lost = said(table_of([0.1, 0.5, 0.3, 0.2, 0.1], [0.0, 0.1, 0.2, 0.2, 0.1]))
    later = said(table_of([0.1, 0.5, 0.3, 0.2, 0.1], [0.0, 0.1, 0.2, 0.2, 0.5]))
    assert "not visible" not in later  # Block 5 shows it
    assert "0.50 [0.45, 0.55] with the linear head of Block 2 alone" in lost
    assert "What Block 2 holds of them is not visible in Grad-CAM at any block." in lost
    assert "40% of the decision of the head on all blocks comes from Block 3." in lost
    assert "Look at the maps" not in lost
    alike = said(table_of([0.1, 0.5, 0.3, 0.2, 0.1], [0.0, 0.45, 0.2, 0.2, 0.1]))
    assert "not visible" not in alike
    nothing = said(table_of([0.0, 0.04, 0.0, 0.0, 0.0], [0.0] * 5))
    assert "No map finds the masks for certain" in nothing
