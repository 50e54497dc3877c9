"""Which layers of a span share KV pages, and how many pages a budget pays for. Pure.

Layers that see the same window make groups of equal numbers of layers; a page holds a block of tokens for all layers of
one group, so that all pages take the same bytes and any group can use any page (the idea of vLLM's hybrid KV cache).
A group whose layers see a window keeps only what they can see.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from osai.core.errors import ResourceExhaustedError
from osai.node.engine.windows import Window

OWN_BLOCKS = 2  # of the cache itself: one of zeros, one for measurements
_TYPICAL_TOKENS = 4096  # of a session, by which groupings are compared: a chat with some turns behind it
_MAX_GROUPS = 8  # each costs some work in every step, whatever it saves ...
_TOLERATED_COST = 1.03  # ... so fewer are better, if they take little more memory


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What one layer caches of one token.

    Attributes:
        key: (heads, dim) of what the layer hands to `update` first.
        value: (heads, dim) of what it hands second.
        dtype: of both.
        window: which keys its queries may see.
        expands: whether the layer makes keys and values of the cached tensors after `update`, as latent attention
            does; then `update` must hand back the sessions' whole past.
    """

    key: tuple[int, int]
    value: tuple[int, int]
    dtype: torch.dtype
    window: Window
    expands: bool

    @property
    def token_bytes(self) -> int:
        """Bytes of one token."""
        return (self.key[0] * self.key[1] + self.value[0] * self.value[1]) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers whose KV lies in the same pages.

    Attributes:
        window: what is kept of a session.
        layers: of the span, counted from 0.
    """

    window: Window
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KVPlan:
    """How a span's KV lies in memory.

    Attributes:
        groups: every layer is in one of them.
        stores: what the tensors of a page hold: layer i of each group uses tensor i.
    """

    groups: tuple[LayerGroup, ...]
    stores: tuple[LayerShape, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        """What each group keeps."""
        return tuple(group.window for group in self.groups)

    @property
    def places(self) -> dict[int, tuple[int, int]]:
        """Layer -> (its group, its tensor)."""
        return {layer: (g, i) for g, group in enumerate(self.groups) for i, layer in enumerate(group.layers)}

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in one page."""
        return sum(store.token_bytes for store in self.stores)


def full_plan(shapes: Sequence[LayerShape]) -> KVPlan:
    """One group of all layers, which keeps everything."""
    return KVPlan((LayerGroup(Window(), tuple(range(len(shapes)))),), tuple(shapes))


def grouped_plan(shapes: Sequence[LayerShape]) -> KVPlan:
    """Groups by window where all layers cache the same, else one group of all layers."""
    kinds: dict[Window, list[int]] = {}
    for layer, shape in enumerate(shapes):
        kinds.setdefault(shape.window, []).append(layer)
    alike = {(shape.key, shape.value, shape.dtype, shape.expands) for shape in shapes}
    if len(alike) > 1 or shapes[0].expands or set(kinds) == {Window()}:
        return full_plan(shapes)
    counts = {window: len(layers) for window, layers in kinds.items()}
    costs = {size: _cost(counts, size) for size in range(1, max(counts.values()) + 1)}
    least = min(costs.values())
    if least > len(shapes) * _TYPICAL_TOKENS:
        return full_plan(shapes)
    size = max(size for size, cost in costs.items() if cost <= least * _TOLERATED_COST)
    groups = [
        LayerGroup(window, tuple(layers[at : at + size]))
        for window, layers in kinds.items()
        for at in range(0, len(layers), size)
    ]
    return KVPlan(tuple(groups), tuple(shapes[:size]))


def _cost(counts: dict[Window, int], size: int) -> float:
    """What a typical session takes in groups of `size` layers, as tokens times layers; infinite for too many groups."""
    num_groups = {window: -(-count // size) for window, count in counts.items()}
    if sum(num_groups.values()) > max(_MAX_GROUPS, len(counts)):
        return float("inf")
    return size * sum(
        n * (_TYPICAL_TOKENS if window.kind == "full" else min(window.size, _TYPICAL_TOKENS))
        for window, n in num_groups.items()
    )


def window_blocks(window: Window, block_size: int) -> int:
    """Blocks that a session needs at most for what a window shows, and for the next row.

    One row sees blocks of which (size - 2) // block_size + 2 are needed at worst; one more takes the rows that come,
    but for whole blocks of theirs, which are the span's to lend (see `step_blocks`).
    """
    return -(-(window.size - 1) // block_size) + 2


def step_blocks(windows: Iterable[Window], block_size: int, max_step_rows: int) -> int:
    """Blocks that the sessions of one step need at most beyond `window_blocks`, while it runs."""
    return sum(window.kind != "full" for window in windows) * (max_step_rows // block_size)


def session_blocks(window: Window, block_size: int, num_tokens: int) -> int:
    """Blocks that a session of so many tokens holds at most between steps."""
    blocks = -(-num_tokens // block_size)
    return blocks if window.kind == "full" else min(blocks, window_blocks(window, block_size))


def most_tokens(windows: Sequence[Window], block_size: int, num_blocks: int, max_context: int) -> int:
    """The longest session, in tokens and whole blocks, that `num_blocks` hold.

    Where all layers see windows, no length is too much: then it is `max_context`, or what would fit if all were kept.
    """
    fits = range(max(num_blocks, -(-max_context // block_size)) + 1)

    def is_too_long(blocks: int) -> bool:
        return sum(session_blocks(window, block_size, blocks * block_size) for window in windows) > num_blocks

    return (bisect_left(fits, True, key=is_too_long) - 1) * block_size


def plan_kv(
    shapes: Sequence[LayerShape], block_size: int, kv_budget_bytes: int, max_step_rows: int
) -> tuple[KVPlan, int]:
    """The plan for a budget, and the KV blocks for sessions that it pays for; OWN_BLOCKS more are the cache's own.

    Where a budget is so small that what windows need would not leave room for one session, everything is kept.

    Raises:
        ResourceExhaustedError: if the budget does not pay for one block.
    """
    plan = grouped_plan(shapes)
    num_blocks = kv_budget_bytes // (plan.token_bytes * block_size) - OWN_BLOCKS
    most = max((window_blocks(w, block_size) for w in plan.windows if w.kind != "full"), default=0)
    one_session = sum(session_blocks(window, block_size, most * block_size) for window in plan.windows)
    if num_blocks < one_session + step_blocks(plan.windows, block_size, max_step_rows):
        plan = full_plan(shapes)
    block_bytes = plan.token_bytes * block_size
    num_blocks = kv_budget_bytes // block_bytes - OWN_BLOCKS
    if num_blocks < 1:
        least = (OWN_BLOCKS + 1) * block_bytes
        raise ResourceExhaustedError(
            f"a KV budget of {kv_budget_bytes} bytes is too small: a block of {block_size} tokens takes {block_bytes} "
            f"bytes, and at least {OWN_BLOCKS + 1} are needed; give {least} bytes or more"
        )
    return plan, num_blocks
