"""What one peer may take of a node: never more than its budget, and nothing of anybody else's."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from node.fake_engine import HIDDEN_SIZE, MIDDLE, NEXT, hidden, node, open_session, rows, until
from osai.core.errors import ResourceExhaustedError, SetupError, from_proto
from osai.core.link import edge_link
from osai.node import budgets as budgets_module
from osai.node.budget_cli import budget_options
from osai.node.budgets import BudgetConfig, Budgets
from osai.node.wire import write_batch
from osai.proto import edge_pb2

SMALL = BudgetConfig(tokens_a_second=10.0, bytes_a_second=1000.0, burst_s=2.0, kv_tokens=100, num_links=2)
WAITS = st.floats(0, 5, allow_nan=False)


def granted(ask: Callable[[], None]) -> bool:
    try:
        ask()
    except ResourceExhaustedError:
        return False
    return True


@given(asked=st.lists(st.tuples(WAITS, st.sampled_from([1, 2]), st.integers(0, 20), st.integers(0, 2000)), max_size=60))
def test_nobody_gets_more_in_any_stretch_of_time_than_its_burst_and_its_rate(
    asked: list[tuple[float, int, int, int]],
) -> None:
    budgets, now_s = Budgets(SMALL), 0.0
    taken: dict[int, list[tuple[float, int, int]]] = {1: [], 2: []}
    for link in taken:
        budgets.attach(link, f"peer {link}", now_s)
    for wait_s, link, num_tokens, num_bytes in asked:
        now_s += wait_s
        if granted(lambda: budgets.take(link, num_tokens, num_bytes, now_s)):  # noqa: B023 - called at once
            taken[link].append((now_s, num_tokens, num_bytes))
    for mine in taken.values():
        for first in range(len(mine)):
            for last in range(first, len(mine)):
                part, span_s = mine[first : last + 1], mine[last][0] - mine[first][0]
                assert sum(tokens for _, tokens, _ in part) <= 10.0 * (2.0 + span_s) + 1e-6
                assert sum(num_bytes for _, _, num_bytes in part) <= 1000.0 * (2.0 + span_s) + 1e-6


@given(theirs=st.lists(st.tuples(WAITS, st.integers(0, 100)), max_size=30), mine=st.lists(WAITS, max_size=30))
def test_what_others_do_changes_nothing_for_a_peer_within_its_budget(
    theirs: list[tuple[float, int]], mine: list[float]
) -> None:
    budgets = Budgets(SMALL)
    budgets.attach(1, "greedy", 0.0)
    budgets.attach(2, "modest", 0.0)
    events: list[tuple[float, int]] = [(at_s, num_tokens) for at_s, num_tokens in theirs]
    events += [(float(i), -1) for i, _ in enumerate(mine)]
    for now_s, num_tokens in sorted(events):
        if num_tokens >= 0:
            granted(lambda: budgets.take(1, num_tokens, 0, now_s))  # noqa: B023 - called at once
        else:
            budgets.take(2, 10, 1000, now_s)


@given(waits=st.lists(WAITS, max_size=20), amount=st.integers(1, 40))
def test_who_waits_as_long_as_it_is_told_to_is_let_in(waits: list[float], amount: int) -> None:
    budgets, now_s = Budgets(SMALL), 0.0
    budgets.attach(1, "p", now_s)
    for wait_s in waits:
        now_s += wait_s
        try:
            budgets.take(1, amount, 0, now_s)
        except ResourceExhaustedError as e:
            assert e.retry_after_s > 0  # noqa: PT017 - it need not be raised
            now_s += e.retry_after_s + 1e-6
            budgets.take(1, amount, 0, now_s)


@settings(max_examples=60)
@given(
    events=st.lists(
        st.tuples(st.sampled_from(["open", "close"]), st.integers(1, 3), st.integers(1, 8), st.integers(1, 70)),
        max_size=60,
    )
)
def test_the_kv_that_a_peer_holds_is_that_of_its_open_sessions(events: list[tuple[str, int, int, int]]) -> None:
    budgets = Budgets(SMALL)
    held: dict[int, tuple[int, int]] = {}  # session -> link, tokens
    for link in (1, 2, 3):
        budgets.attach(link, f"peer {link}", 0.0)
    for kind, link, session, num_tokens in events:
        if kind == "close":
            budgets.released(session)
            held.pop(session, None)
            continue
        mine = sum(tokens for other, (owner, tokens) in held.items() if owner == link and other != session)
        fits = mine + num_tokens <= SMALL.kv_tokens
        assert granted(lambda: budgets.check_open(link, session, num_tokens)) is fits  # noqa: B023 - called at once
        if fits:  # in a later epoch perhaps, or adopted from another peer
            budgets.opened(link, session, num_tokens)
            held[session] = (link, num_tokens)


def test_links_are_counted_for_each_peer() -> None:
    budgets = Budgets(SMALL)
    budgets.attach(1, "p", 0.0)
    budgets.attach(2, "p", 0.0)
    with pytest.raises(ResourceExhaustedError, match="p holds 2 links"):
        budgets.attach(3, "p", 0.0)
    budgets.attach(4, "q", 0.0)
    budgets.detach(1)
    budgets.attach(5, "p", 0.0)
    for unknown in (3, 99):
        budgets.detach(unknown)


def test_dialling_anew_gives_nobody_a_new_budget_and_who_has_rested_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets_module, "MAX_REMEMBERED", 10)
    budgets = Budgets(SMALL)
    for link in range(1000):
        budgets.attach(link, f"peer {link}", 10.0 * link)
        budgets.take(link, 20, 0, 10.0 * link)
        budgets.detach(link)
        budgets.attach(-1, f"peer {link}", 10.0 * link)
        assert not granted(lambda: budgets.take(-1, 20, 0, 10.0 * link))  # noqa: B023 - called at once
        budgets.detach(-1)
    assert len(budgets._accounts) <= 11


async def test_a_peer_over_its_budget_is_refused_alone() -> None:
    """Over real links: its rows are refused to it, session by session, and another's are run."""
    async with node(MIDDLE) as it:
        it.ring._budgets = Budgets(replace(SMALL, tokens_a_second=3.0, burst_s=1.0, num_links=3))
        told: list[edge_pb2.LinkMessage] = []
        greedy = edge_link("me", it.address, "greedy", told.append)
        running = asyncio.create_task(greedy.run())
        greedy.send(edge_pb2.LinkMessage(open=open_session(7, MIDDLE, NEXT)))
        await until(lambda: len(told) == 1)
        for link, peer in it.ring._budgets._peers.items():  # one address, as far as the test's loopback goes
            assert peer == "127.0.0.1", link
        greedy.send(edge_pb2.LinkMessage(open=open_session(8, MIDDLE, NEXT, max_total_tokens=95)))
        await until(lambda: len(told) == 2)
        refused = from_proto(told[1].failed.error)
        assert (told[1].failed.session, type(refused)) == (8, ResourceExhaustedError)
        assert "would hold the KV of 105 tokens" in refused.message
        for _ in range(2):
            greedy.send(write_batch([rows(7)], hidden(3)))
        await until(lambda: len(told) == 3 and bool(it.engine.inputs))
        late = from_proto(told[2].failed.error)
        assert isinstance(late, ResourceExhaustedError)
        assert 0 < late.retry_after_s <= 1
        assert (told[2].failed.session, len(it.engine.inputs), it.ring.num_sessions) == (7, 1, 1)
        assert it.engine.inputs[0].data.shape == (3, HIDDEN_SIZE)
        running.cancel()
        await asyncio.wait([running])
        await until(lambda: len(it.ring._budgets._peers) == 1)


def test_the_operator_sets_what_one_peer_may_take() -> None:
    told: list[BudgetConfig] = []

    @click.command()
    @budget_options
    def command(budgets: BudgetConfig) -> None:
        told.append(budgets)

    assert CliRunner().invoke(command, []).exit_code == 0
    few = ["--peer-rows", "500", "--peer-bytes", "1.5MiB", "--peer-kv", "4096", "--peer-links", "8"]
    assert CliRunner().invoke(command, few).exit_code == 0
    set_ = BudgetConfig(tokens_a_second=500, bytes_a_second=1.5 * 2**20, kv_tokens=4096, num_links=8)
    assert told == [BudgetConfig(), set_]
    for wrong in (["--peer-rows", "0"], ["--peer-links", "-1"], ["--peer-kv", "many"]):
        assert CliRunner().invoke(command, wrong).exit_code == 2
    with pytest.raises(SetupError, match="no size"):
        CliRunner().invoke(command, ["--peer-bytes", "lots"], catch_exceptions=False)
