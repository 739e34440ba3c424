"""What the advice chooses from: freezing Block 1 to k, or training nothing and using frozen features."""

from collections.abc import Sequence

from xaitune import _names
from xaitune.models.blocks import multiply_adds

DEPTHS = (0, 1, 2, 3, 4, 5)
HEADS = ("frozen-all-blocks", "frozen-best-block")  # linear heads on frozen features, by the names of their runs
CANDIDATES = (*(str(depth) for depth in DEPTHS), *HEADS)


def candidate_name(candidate: str | int) -> str:
    """A candidate in words: the blocks that are frozen, or the linear head.

    Examples:
        >>> candidate_name("3"), candidate_name("frozen-all-blocks")
        ('Block 1-3', 'linear head on all blocks')
    """
    text = str(candidate)
    if text in HEADS:
        return f"linear head on {'all blocks' if text == HEADS[0] else 'the best block'}"
    return "nothing frozen" if text == "0" else _names.frozen_name(int(text))


def training_costs(image_size: Sequence[int], architecture: str = "vgg16") -> dict[str, float]:
    """Candidate -> multiply-adds of its training with cached frozen features, over those with nothing frozen."""
    blocks = multiply_adds(image_size, architecture=architecture)
    trained = {str(k): sum(cost for block, cost in blocks.items() if block > k) for k in DEPTHS}
    return {name: trained.get(name, 0.0) / sum(blocks.values()) for name in CANDIDATES}
