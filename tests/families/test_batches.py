"""A session's logits are those that it gets alone, to the bit, whatever runs with it and however its rows are cut."""

from collections.abc import Sequence

import pytest
import torch

from families.checkpoints import FAMILIES
from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.layers import LayerRange
from osai.node.engine.attention import install
from osai.node.engine.block_table import BlockTable
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_shapes import measure_shapes
from osai.node.engine.layout import Part
from osai.node.engine.packed_step import run_packed_step
from osai.node.engine.span_model import load_span

LENGTHS = (5, 21, 33, 12)
NUM_STEPS = 6
Cuts = Sequence[Sequence[tuple[int, int]]]  # of each session: (position, number of rows) of one step after the other


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_to_the_bit_those_of_the_session_alone(
    family: str, dtype: torch.dtype, checkpoints: Checkpoints
) -> None:
    path = checkpoints(family)
    span = load_span(read_config(path), lazy_tensors(path), LayerRange(0, 6), dtype=dtype)
    binding = install(span)
    shapes = measure_shapes(span, binding)
    generator = torch.Generator().manual_seed(3)
    tokens = [torch.randint(3, 370, (length + NUM_STEPS,), generator=generator) for length in LENGTHS]
    tables = [BlockTable(range(i * 4, i * 4 + 4), 16) for i in range(len(LENGTHS))]

    def logits(sessions: Sequence[int], cuts: Cuts) -> list[torch.Tensor]:
        """Of each session [len(its tokens), vocab_size]; all take their steps together."""
        cache: KVCache = KVCache(shapes, 16, 16)
        outs: list[list[torch.Tensor]] = [[] for _ in sessions]
        for step in zip(*cuts, strict=True):
            parts = [Part(tables[i], position, count) for i, (position, count) in zip(sessions, step, strict=True)]
            data = torch.cat([tokens[i][part.position : part.end] for i, part in zip(sessions, parts, strict=True)])
            out = run_packed_step(span, binding, cache, parts, data, list(range(len(data))))
            for own, rows in zip(outs, torch.split(out, [part.count for part in parts]), strict=True):
                own.append(rows)
        return [torch.cat(own) for own in outs]

    decoded: Cuts = [[(0, n), *((n + i, 1) for i in range(NUM_STEPS))] for n in LENGTHS]
    chunked: Cuts = [[(0, 4), (4, n - 4), *((n + i, 2) for i in range(0, NUM_STEPS, 2))] for n in LENGTHS]
    everyone = range(len(LENGTHS))
    alone = [logits([i], [decoded[i]])[0] for i in everyone]
    others = [logits(everyone, decoded), logits(everyone, chunked)]
    others += [[logits([i], [[(0, n + NUM_STEPS)]])[0] for i, n in enumerate(LENGTHS)]]  # as a lost span is replayed
    for want, *found in zip(alone, *others, strict=True):
        assert len({int(row.argmax()) for row in want}) > 1, "constant logits would prove nothing"
        assert all(torch.equal(want, each) for each in found)
