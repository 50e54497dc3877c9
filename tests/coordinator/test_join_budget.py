"""Who joins over and over is told no more manifests than its due; others are told as before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.test_control_service import coordinator, join, member
from osai.coordinator import join_budget
from osai.coordinator.join_budget import JoinBudget, JoinBudgetConfig
from osai.coordinator.text import Tokenizer
from osai.core.errors import ResourceExhaustedError

SMALL = JoinBudgetConfig(bytes_a_second=10.0, burst_bytes=100.0, join_bytes=5)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 60)), max_size=60))
def test_nobody_is_told_more_than_a_burst_a_rate_and_one_answer(joins: list[tuple[float, int]]) -> None:
    budget, now_s, told = JoinBudget(SMALL), 0.0, list[tuple[float, int]]()
    for wait_s, num_bytes in joins:
        now_s += wait_s
        try:
            budget.check("peer", now_s)
        except ResourceExhaustedError:
            budget.check("another", now_s)
            continue
        budget.told("peer", num_bytes, now_s)
        told.append((now_s, max(num_bytes, SMALL.join_bytes)))
    for first in range(len(told)):
        for last in range(first, len(told)):
            span_s = told[last][0] - told[first][0]
            assert sum(count for _, count in told[first : last + 1]) <= 100.0 + 10.0 * span_s + 60 + 1e-6


def test_a_refusal_says_when_and_keeps_its_word() -> None:
    budget = JoinBudget(SMALL)
    budget.told("greedy", 200, 0.0)
    with pytest.raises(ResourceExhaustedError, match="greedy has joined too often") as caught:
        budget.check("greedy", 0.0)
    budget.check("modest", 0.0)
    assert caught.value.retry_after_s is not None
    budget.check("greedy", caught.value.retry_after_s + 0.1)


def test_so_many_peers_are_remembered_and_the_worst_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_budget, "MAX_REMEMBERED", 8)
    budget = JoinBudget(SMALL)
    budget.told("greedy", 10_000, 0.0)
    for i in range(100):
        budget.told(f"peer {i}", 50, 0.0)
        assert len(budget._accounts) <= 8
    with pytest.raises(ResourceExhaustedError):
        budget.check("greedy", 0.0)


async def test_a_node_that_joins_over_and_over_is_refused_with_when_to_come_again(tokenizer: Tokenizer) -> None:
    budget = JoinBudget(JoinBudgetConfig(bytes_a_second=1.0, burst_bytes=100_000.0, join_bytes=40_000))
    async with coordinator(tokenizer, budget) as it, member(it.address) as node:
        for i in range(3):
            node.link.send(join(sequence=i + 1))
            assert (await node.kinds(2 * i + 2))[-1] == "assignment"
        node.link.send(join(sequence=4))
        error = await node.ended
        assert isinstance(error, ResourceExhaustedError)
        assert "127.0.0.1 has joined too often" in error.message
