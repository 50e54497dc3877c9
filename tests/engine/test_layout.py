"""Reads of a packed step against attention written out from its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osai.node.engine import kv_reads
from osai.node.engine.attention import How, attend
from osai.node.engine.block_table import BlockTable
from osai.node.engine.kv_cache import KVCache, LayerShape
from osai.node.engine.layout import Part, StepLayout
from osai.node.engine.windows import Window

BLOCK_SIZE = 4
NUM_BLOCKS = 40
HEADS, KV_HEADS, DIM = 4, 2, 8


def test_runs_are_found_across_blocks() -> None:
    table = BlockTable([7, 8, 2, 3, 4], BLOCK_SIZE)
    assert table.slots(0, 20).tolist() == [*range(28, 36), *range(8, 20)]
    assert table.run(1, 8) == slice(29, 36)
    assert table.run(8, 20) == slice(8, 20)
    assert table.run(9, 10) == slice(9, 10)
    assert table.run(7, 9) is None


def test_windows_see_what_they_should() -> None:
    positions = torch.arange(9)
    for window in (Window(), Window("sliding", 3), Window("chunked", 4)):
        mask = window.mask(positions, positions)
        for q in range(9):
            seen = mask[q].nonzero().squeeze(1).tolist()
            assert seen == list(range(window.first_key(q), q + 1))
            assert window.first_read(q) <= window.first_key(q)
    assert Window("sliding", 3).first_key(8) == 6
    assert Window("chunked", 4).first_key(7) == 4


def naive(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: Window, how: How) -> torch.Tensor:
    """Attention of the last queries [n, heads, dim] over all keys [m, kv_heads, dim] of one session, one by one."""
    out = torch.empty(*query.shape[:2], values.shape[-1])
    for i in range(len(query)):
        position = len(keys) - len(query) + i
        seen = slice(window.first_key(position), position + 1)
        for head in range(HEADS):
            group = head // (HEADS // KV_HEADS)
            scores = keys[seen, group] @ query[i, head] * how.scaling
            if how.softcap:
                scores = torch.tanh(scores / how.softcap) * how.softcap
            weights = scores.exp()
            total = weights.sum() + (how.sinks[head].exp() if how.sinks is not None else 0)
            out[i, head] = weights @ values[seen, group] / total
    return out


sessions = st.lists(st.tuples(st.integers(0, 19), st.integers(1, 9)), min_size=1, max_size=5)
windows = st.sampled_from([Window(), Window("sliding", 3), Window("sliding", 50), Window("chunked", 5)])
hows = st.sampled_from([How(0.3), How(0.3, softcap=2.0), How(0.3, sinks=torch.tensor([0.1, -1.0, 2.0, 0.0]))])


@settings(max_examples=150)
@given(sessions, windows, hows, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_packed_attention_is_each_sessions_own(
    parts: list[tuple[int, int]], window: Window, how: How, gathers: bool, expands: bool, random: "object"
) -> None:
    """Whatever the blocks, the other sessions, and what lies in memory that is not theirs."""
    torch.manual_seed(random.randrange(1000))  # type: ignore[attr-defined]
    blocks = list(range(NUM_BLOCKS))
    random.shuffle(blocks) if random.random() < 0.5 else None  # type: ignore[attr-defined]
    shape = LayerShape(key=(KV_HEADS, DIM), value=(KV_HEADS, 6), dtype=torch.float32, window=window, expands=expands)
    cache = KVCache([shape], NUM_BLOCKS, BLOCK_SIZE)
    for store in (cache._keys[0], cache._values[0]):  # what others left behind must not be read
        store[: NUM_BLOCKS * BLOCK_SIZE] = torch.nan
    keys, values, tables = [], [], []
    for position, count in parts:
        taken, blocks = blocks[:7], blocks[7:]
        tables.append(BlockTable(taken, BLOCK_SIZE))
        keys.append(torch.randn(position + count, KV_HEADS, DIM))
        values.append(torch.randn(position + count, KV_HEADS, 6))
        cache._keys[0][tables[-1].slots(0, position)] = keys[-1][:position]
        cache._values[0][tables[-1].slots(0, position)] = values[-1][:position]
    order = sorted(range(len(parts)), key=lambda i: parts[i][1] > 1)
    step = [Part(tables[i], *parts[i]) for i in order]
    queries = [torch.randn(parts[i][1], HEADS, DIM) for i in order]
    packed_keys = torch.cat([keys[i][parts[i][0] :] for i in order]).transpose(0, 1)[None]
    packed_values = torch.cat([values[i][parts[i][0] :] for i in order]).transpose(0, 1)[None]
    with pytest.MonkeyPatch.context() as patch, cache.step(StepLayout(step, null_slot=cache.null_slot)):
        patch.setattr(kv_reads, "MAX_GATHERED_KEYS", 10_000 if gathers else 0)
        key, value = cache.update(packed_keys, packed_values, 0)
        out = cache.attend(0, torch.cat(queries).transpose(0, 1)[None], key, value, how)[0].transpose(0, 1)
    want = [naive(query, keys[i], values[i], window, how) for query, i in zip(queries, order, strict=True)]
    torch.testing.assert_close(out, torch.cat(want), rtol=1e-4, atol=1e-5)


def test_grouped_heads_need_no_copies_of_keys() -> None:
    query, key, value = (
        torch.randn(3, HEADS, 1, DIM),
        torch.randn(3, KV_HEADS, 5, DIM),
        torch.randn(3, KV_HEADS, 5, DIM),
    )
    want = attend(query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), None, How(0.3))
    torch.testing.assert_close(attend(query, key, value, None, How(0.3)), want)
