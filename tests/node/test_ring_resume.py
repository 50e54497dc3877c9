"""A session over real links and engines survives the loss of its stages, with the tokens of an undisturbed run."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from engine.harness import PROMPT, WHOLE, load, running
from families.fixtures import Checkpoints
from node.ring_pipeline import SESSION, Conductor, StageNode, stage_node
from osai.core.errors import AssignmentError, UnavailableError, from_proto
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.node.stages.journal import DEFAULT_BYTES
from osai.proto import common_pb2, edge_pb2

SPANS = {"a": LayerRange(0, 2), "b": LayerRange(2, 4), "c": LayerRange(4, 6)}
MAX_TOTAL = len(PROMPT) + 90
SAMPLING = SamplingParams(temperature=1.2, top_p=0.95, seed=5, repetition_penalty=1.1, frequency_penalty=0.2)


class Swarm:
    """Nodes by name; the first letter says which span they host."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, AsyncExitStack()
        self.nodes: dict[str, StageNode] = {}
        self.conductor = Conductor(PROMPT, MAX_TOTAL, wire(SAMPLING))

    async def add(self, *names: str, journal_bytes: int = DEFAULT_BYTES) -> list[StageNode]:
        for name in names:
            node = stage_node(name, self._path, SPANS[name[0]], journal_bytes)
            self.nodes[name] = await self._stack.enter_async_context(node)
        return [self.nodes[name] for name in names]

    async def begin(self, *names: str, num_tokens: int = 6) -> None:
        """Open the session and wait for some tokens."""
        await self.conductor.begin(*(self.nodes[name] for name in names))
        await self.tokens(num_tokens)

    async def reroute(self, *names: str, journals: bool = True) -> list[int]:
        return await self.conductor.reroute(*(self.nodes[name] for name in names), journals=journals)

    async def tokens(self, count: int) -> None:
        await self.conductor.until(lambda: len(self.conductor.tokens) >= count or self.conductor.is_finished)
        assert not self.conductor.is_finished, "the session was to be disturbed before its end"

    async def ends(self) -> list[int]:
        await self.conductor.until(lambda: self.conductor.is_finished)
        return self.conductor.tokens

    async def loses(self, name: str, told_by: str) -> None:
        """A node dies, and the one that pushes to it tells so."""
        await self.nodes[name].die()
        epoch = self.conductor.epoch

        def told() -> list[edge_pb2.SessionFailed]:
            return [f for by, f in self.conductor.failed if by == told_by and f.epoch == epoch]

        await self.conductor.until(lambda: bool(told()))
        error = from_proto(told()[0].error)
        assert (told()[0].open, type(error), error.subject) == (True, UnavailableError, name)

    async def close(self) -> None:
        await self.conductor.__aexit__()
        await self._stack.aclose()


def wire(sampling: SamplingParams) -> common_pb2.SamplingParams:
    return common_pb2.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )


@pytest.fixture
async def swarm(checkpoints: Checkpoints) -> AsyncIterator[Swarm]:
    it = Swarm(checkpoints("llama"))
    try:
        yield it
    finally:
        await it.close()


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, list[int]]:
    return {}


@pytest.fixture
async def expected(checkpoints: Checkpoints, undisturbed: dict[str, list[int]]) -> list[int]:
    """The tokens of one engine alone."""
    if "llama" not in undisturbed:
        async with running(load(checkpoints("llama"), WHOLE)) as harness:
            await harness.open(1, len(PROMPT), MAX_TOTAL, SAMPLING, prompt_token_ids=PROMPT)
            undisturbed["llama"] = [s.token_id for s in await harness.generate(1, PROMPT)]
    return undisturbed["llama"]


async def test_a_middle_stage_is_replaced_twice_in_a_row(swarm: Swarm, expected: list[int]) -> None:
    await swarm.add("a", "b", "b2", "b3", "c")
    await swarm.begin("a", "b", "c")
    await swarm.loses("b", told_by="a")
    num_known = len(swarm.conductor.known)
    starts = await swarm.reroute("a", "b2", "c")
    assert starts[1] == 0
    assert min(starts[0], starts[2]) >= num_known - 2, "survivors run the last known token's row again, and no others"
    await swarm.nodes["b2"].die()  # at once: it may not have run a row yet
    await swarm.reroute("a", "b3", "c")
    assert await swarm.ends() == expected
    assert [f for _, f in swarm.conductor.failed if not f.open] == []


@pytest.mark.parametrize(("lost", "told_by"), [("a", "c"), ("c", "b")])
async def test_head_and_tail_are_replaced(swarm: Swarm, expected: list[int], lost: str, told_by: str) -> None:
    await swarm.add("a", "b", "c", f"{lost}2")
    await swarm.begin("a", "b", "c")
    await swarm.loses(lost, told_by)
    starts = await swarm.reroute(*(f"{name}2" if name == lost else name for name in "abc"))
    assert starts["abc".index(lost)] == 0
    assert sum(start > 0 for start in starts) == 2
    assert await swarm.ends() == expected


async def test_all_stages_but_one_are_replaced_at_once(swarm: Swarm, expected: list[int]) -> None:
    await swarm.add("a", "b", "c", "b2", "c2")
    await swarm.begin("a", "b", "c")
    await swarm.nodes["c"].die()
    await swarm.loses("b", told_by="a")
    starts = await swarm.reroute("a", "b2", "c2")
    assert starts[1:] == [0, 0]
    assert starts[0] > 0, "the head has it all in its journal"
    assert await swarm.ends() == expected


async def test_a_slow_stage_that_is_given_up_does_not_disturb_its_successor(swarm: Swarm, expected: list[int]) -> None:
    """It goes on with what it has been given; its rows are of an older epoch, and nobody takes them."""
    await swarm.add("a", "b", "b2", "c")
    await swarm.begin("a", "b", "c")
    await swarm.reroute("a", "b2", "c")
    assert await swarm.ends() == expected
    assert swarm.conductor.failed == []


async def test_stages_whose_journals_are_gone_run_all_rows_again(swarm: Swarm, expected: list[int]) -> None:
    (head,) = await swarm.add("a", journal_bytes=0)
    await swarm.add("b", "b2", "c")
    await swarm.begin("a", "b", "c")
    await swarm.loses("b", told_by="a")
    head.rows.clear()
    assert (await swarm.reroute("a", "b2", "c"))[:2] == [0, 0]
    assert await swarm.ends() == expected
    assert head.rows[0].position == 0


async def test_a_journal_that_is_evicted_in_between_is_told_and_the_next_epoch_does_without(
    swarm: Swarm, expected: list[int]
) -> None:
    await swarm.add("a", journal_bytes=0)
    await swarm.add("b", "b2", "c")
    await swarm.begin("a", "b", "c")
    await swarm.loses("b", told_by="a")
    swarm.conductor.failed.clear()
    assert (await swarm.reroute("a", "b2", "c", journals=False))[0] > 0
    await swarm.conductor.until(lambda: bool(swarm.conductor.failed))
    ((by, failed),) = swarm.conductor.failed
    error = from_proto(failed.error)
    assert (by, failed.open, failed.epoch, type(error), error.subject) == ("a", True, 2, UnavailableError, "")
    assert (await swarm.reroute("a", "b2", "c"))[:2] == [0, 0]
    assert await swarm.ends() == expected


@pytest.mark.parametrize(("lost", "before"), [("b", "a"), ("c", "b")])
async def test_a_standby_catches_up_and_takes_over(swarm: Swarm, expected: list[int], lost: str, before: str) -> None:
    await swarm.add("a", "b", "c")
    (standby,) = await swarm.add(f"{lost}2")
    await swarm.begin("a", "b", "c")
    pipeline = [swarm.nodes[name] for name in "abc"]
    await swarm.conductor.follow(standby, swarm.nodes[before], *pipeline)
    await swarm.tokens(20)
    await swarm.conductor.until(lambda: bool(standby.rows) and standby.rows[-1].position > len(PROMPT) + 15)
    standby.ring.tick(0.0)
    await swarm.conductor.until(lambda: swarm.conductor.progress.get(standby.node_id, 0) > len(PROMPT) + 15)
    await swarm.loses(lost, told_by=before)
    num_rows = sum(rows.count for rows in standby.rows)
    starts = await swarm.reroute(*(f"{name}2" if name == lost else name for name in "abc"))
    assert min(starts) >= num_rows - 1 > len(PROMPT) + 15, "nearly nothing is to be run again"
    assert await swarm.ends() == expected
    positions = [rows.position for rows in standby.rows if rows.epoch == 1]
    assert positions == sorted(set(positions))
    assert all(by != standby.node_id for by, _ in swarm.conductor.failed)


async def test_a_span_that_is_withdrawn_is_told_and_another_node_takes_over(swarm: Swarm, expected: list[int]) -> None:
    _, old, *_ = await swarm.add("a", "b", "b2", "c")
    await swarm.begin("a", "b", "c")
    old.ring.withdraw("me/small")
    await swarm.conductor.until(lambda: any(by == "b" for by, _ in swarm.conductor.failed))
    failed = next(f for by, f in swarm.conductor.failed if by == "b")
    assert (failed.session, failed.open, type(from_proto(failed.error))) == (SESSION, False, UnavailableError)
    await swarm.reroute("a", "b2", "c")
    assert await swarm.ends() == expected


async def test_another_coordinator_adopts_a_session_and_the_first_one_is_fenced(
    swarm: Swarm, expected: list[int]
) -> None:
    await swarm.add("a", "b", "c")
    await swarm.begin("a", "b", "c")
    first, pipeline = swarm.conductor, [swarm.nodes[name] for name in "abc"]
    async with Conductor(PROMPT, MAX_TOTAL, wire(SAMPLING)) as second:
        second.tokens, second.epoch = first.tokens[:-1], 1 << 16
        starts = await second.reroute(*pipeline)
        assert min(starts) == len(second.known) - 1
        first.deadline_s = 0.5
        with pytest.raises(TimeoutError):
            await first.reroute(*pipeline)
        assert {type(from_proto(f.error)) for _, f in first.failed} == {AssignmentError}
        assert len(first.failed) == 3
        await second.until(lambda: second.is_finished)
        assert second.tokens == expected
