"""How much of a prompt's KV is here already. Pure."""

from collections.abc import Callable, Sequence
from itertools import takewhile

from osai.node.engine.windows import Window


def longest_match(windows: Sequence[Window], block_size: int, limit: int, is_known: Callable[[int, int], bool]) -> int:
    """Blocks that a session may skip: each group has what the first row behind them sees.

    Args:
        windows: of the groups.
        block_size: tokens in a block.
        limit: blocks at most.
        is_known: whether a group has the block of a number, both counted from 0.
    """
    full = [group for group, window in enumerate(windows) if window.kind == "full"]
    limit = sum(1 for _ in takewhile(lambda i: all(is_known(g, i) for g in full), range(limit)))
    fits = [True] * (limit + 1)
    for group, window in enumerate(windows):
        if window.kind == "full":
            continue
        run = 0  # known blocks up to here without a gap
        for count in range(1, limit + 1):
            run = run + 1 if is_known(group, count - 1) else 0
            fits[count] &= count - window.first_key(count * block_size) // block_size <= run
    return max(count for count, fit in enumerate(fits) if fit)
