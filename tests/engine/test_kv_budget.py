"""Weights and KV stay within what the node may use."""

from pathlib import Path

import pytest
import torch

from engine.harness import WHOLE, load
from families.fixtures import Checkpoints
from families.reference import read_config
from osai.core.errors import AssignmentError
from osai.core.layers import LayerRange
from osai.core.model import ModelFacts
from osai.node.engine.hosted_span import HostedSpan
from osai.node.span_plan import SpanPlan

TOKEN_BYTES = 6 * 2 * 2 * 16 * 4  # layers, keys and values, heads, dim, float32


def plan(path: Path, memory_bytes: int) -> SpanPlan:
    return SpanPlan(
        model_id="me/small",
        layers=LayerRange(0, 6),
        config=read_config(path),
        facts=ModelFacts.from_config(read_config(path)),
        names=(),
        num_bytes=0,
        weight_bytes=1_000_000,
        dtype=torch.float32,
        memory_bytes=memory_bytes,
    )


def test_a_span_that_leaves_no_room_for_a_session_is_refused_before_it_is_loaded(llama: Path) -> None:
    plan(llama, 1_000_000 + 48 * TOKEN_BYTES).check_memory()
    with pytest.raises(AssignmentError, match=r"at least 0.1 MiB more for KV, .* give more with --memory"):
        plan(llama, 1_000_000 + 48 * TOKEN_BYTES - 1).check_memory()


@pytest.mark.parametrize("family", ["llama", "gemma2", "deepseek_v3", "mistral_window"])
def test_pages_take_no_more_than_their_budget(family: str, checkpoints: Checkpoints) -> None:
    for budget in (1_000_000, 4_000_000):
        cache = HostedSpan.create(load(checkpoints(family), WHOLE), budget, 16).cache
        taken = sum(store.numel() * store.element_size() for store in (*cache._keys, *cache._values))
        assert 0.9 * budget < taken <= budget


def test_windows_make_room_for_longer_sessions(checkpoints: Checkpoints) -> None:
    """Half of gemma 2's layers keep three blocks of a session; a token of its others takes 24 / 16 of llama's."""
    full, windowed = (
        HostedSpan.create(load(checkpoints(family), WHOLE), 8_000_000, 16, 64) for family in ("llama", "gemma2")
    )
    assert windowed.kv.num_tokens > 1.9 * full.kv.num_tokens * 16 / 24
