"""Sessions that go on, over real links to stages that follow a script."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from coordinator.builders import EOS, MODEL
from coordinator.fake_stage import FakeStage, Keeping, failed, progress, refusing, stages, tokens
from coordinator.world import REQUEST, World, all_closed, collected, dead_stage, failure, three
from osai.coordinator.admission import QueueConfig
from osai.coordinator.api import (
    Chunk,
    Finished,
    GenerationEvent,
    GenerationRequest,
    KnownToken,
    Rerouted,
    Resumption,
    StageView,
    Started,
    Waiting,
)
from osai.coordinator.sessions.session import SupervisionConfig
from osai.coordinator.text import Tokenizer
from osai.core.errors import (
    AssignmentError,
    ContextExceededError,
    InvalidRequestError,
    NotCoveredError,
    ResourceExhaustedError,
    UnavailableError,
)
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.proto import edge_pb2

SOON_S = 1.0
SESSION = 0x0123456789ABCDEF


@asynccontextmanager
async def with_spare(
    tokenizer: Tokenizer, config: SupervisionConfig | None = None, *, standby: bool = False, version: int = 2
) -> AsyncIterator[tuple[World, list[FakeStage], FakeStage]]:
    """Three stages, and a node that could be the middle one but costs more."""
    spare = FakeStage("spare", Keeping())
    async with stages(spare), three(tokenizer, config, standby=standby) as (it, members):
        for member in members:
            member.script = Keeping()
        it.announce(spare, 2, 4, step_time_s=9.0, protocol_version=version)
        yield it, members, spare


def ids(message: edge_pb2.LinkMessage) -> tuple[int, int, list[int]]:
    """Epoch, position and ids of what the head was sent."""
    (frame,) = message.frames.frames
    return frame.epoch, frame.position, list(struct.unpack(f"<{frame.count}i", message.frames.data))


def resumes(member: FakeStage) -> list[tuple[int, int, int]]:
    return [(m.resume.epoch, m.resume.position, m.resume.push_from) for m in member.of("resume")]


def token_ids(events: list[GenerationEvent]) -> list[int]:
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert [chunk.index for chunk in chunks] == list(range(chunks[0].index, chunks[0].index + len(chunks)))
    return [token.token_id for chunk in chunks for token in chunk.tokens]


async def begun(it: World, head: FakeStage, tail: FakeStage) -> tuple[asyncio.Task[list[GenerationEvent]], int]:
    """A generation that has two tokens."""
    running = asyncio.create_task(collected(it))
    session = (await head.got("frames")).frames.frames[0].session
    tail.say(tokens(session, 60, 61))
    await asyncio.sleep(0.05)
    return running, session


async def test_a_stage_that_dies_is_replaced_and_the_tokens_go_on(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer) as (it, (head, middle, tail), spare):
        running, session = await begun(it, head, tail)
        died_s = time.monotonic()
        await middle.die()
        resumed = await spare.got("resume")
        assert time.monotonic() - died_s < SOON_S
        assert resumed.resume.epoch == 2
        for member in (head, tail):
            await member.got("resume")
        assert (resumes(head), resumes(spare), resumes(tail)) == ([(2, 4, 0)], [(2, 0, 4)], [(2, 4, 4)])
        assert ids(await head.got("frames", 2)) == (2, 4, [61])  # 5 are known; the last one's row is run again
        again = head.of("open")[1].open
        assert (again.session, again.resume, again.num_known_tokens, again.successor.node_id) == (
            session, True, 5, "spare"
        )  # fmt: skip
        tail.say(tokens(session, 99, first=2, epoch=1))  # too late
        tail.say(tokens(session, 62, 63, first=2, epoch=2, finish="stop"))
        events = await running
        assert token_ids(events) == [60, 61, 62, 63]
        (rerouted,) = [event for event in events if isinstance(event, Rerouted)]
        assert (rerouted.reason, rerouted.pipeline[1].node_id) == ("node middle was lost", "spare")
        assert 0 < rerouted.pause_s < SOON_S
        finished = events[-1]
        assert isinstance(finished, Finished)
        assert (finished.num_recoveries, finished.num_generated_tokens) == (1, 4)
        for member in (head, spare, tail):
            close = (await member.got("close")).close
            assert (close.session, close.epoch) == (session, 2)
        assert (it.generations.recoveries.num_recoveries, it.generations.recoveries.pause_s) == (1, rerouted.pause_s)
        assert it.generations._running == {}


async def test_all_sessions_of_a_lost_stage_go_on_at_once(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer) as (it, (head, middle, tail), spare):
        runs = [asyncio.create_task(collected(it)) for _ in range(5)]
        await head.got("frames", 5)
        used = {message.open.session for message in middle.of("open")}
        await middle.die()
        async with asyncio.timeout(SOON_S):
            await spare.got("resume", 5)
        for message in head.of("frames")[:5]:
            number = message.frames.frames[0].session
            tail.say(tokens(number, 60, finish="stop", epoch=2 if number in used else 1))
        for events in await asyncio.gather(*runs):
            assert token_ids(events) == [60]


async def test_a_session_waits_until_a_node_comes(tokenizer: Tokenizer) -> None:
    late = FakeStage("late", Keeping())
    async with stages(late), three(tokenizer) as (it, members):
        head, middle, tail = members
        running, session = await begun(it, head, tail)
        await middle.die()
        await asyncio.sleep(0.2)
        it.announce(late, 2, 4)
        it.generations.swarm_changed()
        async with asyncio.timeout(0.3):
            await late.got("resume")
        tail.say(tokens(session, 62, first=2, epoch=2, finish="stop"))
        events = await running
        assert [type(event) for event in events] == [Started, Chunk, Chunk, Waiting, Rerouted, Chunk, Finished]


@pytest.mark.parametrize("finds_out", ["before", "as it opens"])
async def test_a_request_soon_after_a_loss_waits_for_the_node_to_come_back(
    tokenizer: Tokenizer, finds_out: str
) -> None:
    """As of a network that was split for a moment: the simulator lost such requests."""
    config = SupervisionConfig(settle_s=1.0, retry_s=0.05)
    async with three(tokenizer, config) as (it, (head, middle, tail)):
        await asyncio.sleep(1.1)  # its start is long ago
        address = middle.address
        if finds_out == "before":
            it.swarm.lost("middle", time.monotonic())
        else:
            middle.address = dead_stage().address
            it.announce(middle, 2, 4)
        running = asyncio.create_task(collected(it))
        await asyncio.sleep(0.3)
        assert not running.done()
        middle.address = address
        it.announce(middle, 2, 4)
        session = (await head.got("frames")).frames.frames[0].session
        tail.say(tokens(session, *range(60, 70), finish="length"))
        assert len(token_ids(await running)) == 10


async def test_a_request_waits_for_news_of_a_node_that_serves_something_else_by_now(tokenizer: Tokenizer) -> None:
    """As of one that restarted with other layers behind a split network: the simulator lost such a request (3304)."""
    config, late = SupervisionConfig(settle_s=1.0, retry_s=0.05), FakeStage("late", Keeping())
    async with stages(late), three(tokenizer, config) as (it, (head, middle, tail)):
        await asyncio.sleep(1.1)  # its start is long ago
        middle.script = refusing(AssignmentError("this node serves none of it"))
        running = asyncio.create_task(collected(it))
        await middle.got("open", 2)
        assert not running.done()
        it.announce(late, 2, 4)
        session = (await late.got("open")).open.session
        assert (await head.got("frames")).frames.frames[0].session == session  # no answer before the prompt
        tail.say(tokens(session, *range(60, 70), finish="length"))
        assert len(token_ids(await running)) == 10


async def test_a_node_that_goes_on_refusing_ends_a_request_in_time(tokenizer: Tokenizer) -> None:
    config = SupervisionConfig(settle_s=0.2, retry_s=0.05, coverage_wait_s=0.5)
    async with three(tokenizer, config) as (it, (_, middle, _)):
        middle.script = refusing(AssignmentError("this node serves none of it"))
        async with asyncio.timeout(2.0):
            error = await failure(it)
        assert isinstance(error, AssignmentError)
        assert len(middle.of("open")) > 1


async def test_a_request_long_after_a_loss_is_told_what_is_missing_at_once(tokenizer: Tokenizer) -> None:
    config = SupervisionConfig(settle_s=0.5, retry_s=0.05)
    async with three(tokenizer, config) as (it, _):
        it.swarm.lost("middle", time.monotonic() - 61)
        await asyncio.sleep(0.6)
        asked_s = time.monotonic()
        assert isinstance(await failure(it), NotCoveredError)
        assert time.monotonic() < asked_s + 0.2


async def test_an_edge_that_broke_is_gone_around(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer) as (it, (head, middle, tail), spare):
        running, session = await begun(it, head, tail)
        head.say(failed(session, UnavailableError("node middle was lost", subject="middle"), is_open=True))
        await spare.got("resume")
        assert (await middle.got("close")).close.epoch == 2  # it is there, and of no use any more
        tail.say(tokens(session, 62, first=2, epoch=2, finish="stop"))
        assert token_ids(await running) == [60, 61, 62]
        assert it.swarm.get("middle") is not None


async def test_a_reroute_without_room_waits_for_it_and_keeps_its_place(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer, SupervisionConfig(retry_s=0.05)) as (it, (head, middle, tail), spare):
        spare.script = refusing(ResourceExhaustedError("no KV blocks left"))
        running, session = await begun(it, head, tail)
        await middle.die()
        await spare.got("open", 2)
        assert it.generations.num_queued(MODEL) == 0
        spare.script = Keeping()
        epoch = (await spare.got("resume")).resume.epoch
        tail.say(tokens(session, 62, first=2, epoch=epoch, finish="stop"))
        assert token_ids(await running) == [60, 61, 62]


async def test_old_nodes_begin_again_under_another_number(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer, version=1) as (it, (head, middle, tail), spare):
        running, session = await begun(it, head, tail)
        await middle.die()
        opened = (await spare.got("open")).open
        assert opened.session != session
        assert (opened.resume, opened.num_prompt_tokens, opened.max_total_tokens) == (False, 5, 13)
        assert ids(await head.got("frames", 2)) == (2, 0, [60, 61, 62, 60, 61])
        assert (await head.got("close")).close.session == session
        tail.say(tokens(opened.session, 62, first=0, epoch=2, finish="stop"))
        events = await running
        assert token_ids(events) == [60, 61, 62]
        assert it.generations._running == {}


async def test_penalties_are_not_routed_over_old_nodes(tokenizer: Tokenizer) -> None:
    """These count tokens that the session has generated; older nodes would take them for the prompt's."""
    config = SupervisionConfig(coverage_wait_s=0.3)
    async with with_spare(tokenizer, config, version=1) as (it, (head, middle, tail), spare):
        request = GenerationRequest(
            model_id=MODEL, prompt=(60,), max_tokens=9, sampling=SamplingParams(presence_penalty=1.0)
        )
        running = asyncio.create_task(failure(it, request))
        session = (await head.got("frames")).frames.frames[0].session
        tail.say(tokens(session, 60))
        await middle.die()
        assert "that speaks version 2 of the protocol" in (await running).message
        assert spare.of("open") == []


async def test_a_standby_follows_and_takes_over(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer, standby=True) as (it, (head, middle, tail), spare):
        running, session = await begun(it, head, tail)
        opened = (await spare.got("open")).open
        assert (opened.follow, opened.resume, opened.successor.node_id) == (True, False, "tail")
        follow = (await head.got("follow")).follow
        assert (follow.follower.node_id, follow.follower.address, follow.follow_from) == ("spare", spare.address, 0)
        spare.say(progress(session, 4))
        await middle.die()
        assert (await spare.got("resume")).resume.position == 4
        tail.say(tokens(session, 62, first=2, epoch=2, finish="stop"))
        events = await running
        assert token_ids(events) == [60, 61, 62]


async def test_a_node_that_is_about_to_leave_hands_over(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer) as (it, (head, middle, tail), spare):
        running, session = await begun(it, head, tail)
        it.announce(middle, 2, 4, state="draining")
        await spare.got("open")
        spare.say(progress(session, 4))
        await spare.got("resume")
        assert (await middle.got("close")).close.session == session
        tail.say(tokens(session, 62, first=2, epoch=2, finish="stop"))
        events = await running
        assert token_ids(events) == [60, 61, 62]
        (rerouted,) = [event for event in events if isinstance(event, Rerouted)]
        assert rerouted.reason == "node middle is about to leave"


def resumption(*known: int, attempt: int = 1, pipeline: tuple[StageView, ...] = ()) -> GenerationRequest:
    resume = Resumption(
        session=SESSION, attempt=attempt, tokens=tuple(KnownToken(token_id=each) for each in known), pipeline=pipeline
    )
    return GenerationRequest(model_id=MODEL, prompt=(60, 61, 62), max_tokens=10, resume=resume)


async def test_a_client_goes_on_with_what_it_has(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer) as (it, (head, _, tail), spare):
        known = StageView(node_id="spare", address="elsewhere:1", span=LayerRange(2, 4))
        running = asyncio.create_task(collected(it, resumption(70, 71, pipeline=(known,))))
        opened = (await spare.got("open")).open  # dearer, but it has the session's KV, as the client says
        epoch = (1 << 16) + 1
        assert (opened.session, opened.epoch, opened.resume, opened.num_known_tokens) == (SESSION, epoch, True, 5)
        assert opened.num_prompt_tokens == 3
        assert ids(await head.got("frames")) == (epoch, 0, [60, 61, 62, 70, 71])
        tail.say(tokens(SESSION, 72, 73, first=2, epoch=epoch, finish="stop"))
        events = await running
        started, *_, finished = events
        assert isinstance(started, Started)
        assert started.session_id == f"{SESSION:016x}"
        assert token_ids(events) == [72, 73]
        chunk = events[1]
        assert isinstance(chunk, Chunk)
        assert chunk.index == 2
        assert isinstance(finished, Finished)
        assert finished.num_generated_tokens == 4


@pytest.mark.parametrize(
    ("known", "reason"), [((70, EOS), "stop"), (tuple(range(70, 80)), "length")], ids=["stop", "length"]
)
async def test_what_is_complete_already_finishes_at_once(
    tokenizer: Tokenizer, known: tuple[int, ...], reason: str
) -> None:
    async with with_spare(tokenizer) as (it, members, _):
        started, finished = await collected(it, resumption(*known))
        assert isinstance(started, Started)
        assert isinstance(finished, Finished)
        assert (finished.reason, finished.num_generated_tokens) == (reason, len(known))
        assert [member.of("open") for member in members] == [[], [], []]


async def test_known_tokens_are_checked(tokenizer: Tokenizer) -> None:
    async with with_spare(tokenizer) as (it, members, _):
        error = await failure(it, resumption(70, 600))
        assert isinstance(error, InvalidRequestError)
        assert "token 600 is not in the model's vocabulary" in error.message
        assert isinstance(await failure(it, resumption(*range(70, 81))), ContextExceededError)
        assert [member.of("open") for member in members] == [[], [], []]


async def test_a_resumed_session_overtakes_an_earlier_one_here(tokenizer: Tokenizer) -> None:
    """The client's first call is still being torn down when it resumes by another: that must not end the new one."""
    async with with_spare(tokenizer) as (it, (head, middle, tail), _):
        async with aclosing(it.generations.generate(resumption(70))) as first:
            await anext(first)
            running = asyncio.create_task(collected(it, resumption(70, attempt=2)))
            await middle.got("resume", 2)
        closes = [(await member.got("close")).close.epoch for member in (head, middle, tail)]
        assert closes == [(1 << 16) + 1] * 3  # harms no later epoch
        tail.say(tokens(SESSION, 71, first=1, epoch=(2 << 16) + 1, finish="stop"))
        assert token_ids(await running) == [71]
        assert it.generations._running == {}


async def test_a_resumed_session_does_not_stand_in_line(tokenizer: Tokenizer) -> None:
    """It had its place before; who waits for KV may wait for long."""
    config, queue = SupervisionConfig(retry_s=0.05), QueueConfig(retry_s=60.0)
    async with three(tokenizer, config, queue) as (it, (head, middle, tail)):
        middle.script = refusing(ResourceExhaustedError("no KV blocks left"))
        new = asyncio.create_task(collected(it, REQUEST))
        await middle.got("open")
        resumed = asyncio.create_task(collected(it, resumption(70)))
        await middle.got("open", 2)
        middle.script = Keeping()
        epoch = (await middle.got("resume")).resume.epoch
        tail.say(tokens(SESSION, 71, first=1, epoch=epoch, finish="stop"))
        assert token_ids(await resumed) == [71]
        await head.got("frames", 2)  # its end, or its coming, let the other try again
        sessions = {message.frames.frames[0].session for message in head.of("frames")}
        tail.say(tokens((sessions - {SESSION}).pop(), 60, finish="stop"))
        assert token_ids(await new) == [60]


async def test_a_failure_of_ours_closes_the_stages_too(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with three(tokenizer) as (it, members):

        def broken(*_: object) -> str:
            raise ZeroDivisionError

        running = asyncio.create_task(collected(it))
        session = (await members[0].got("frames")).frames.frames[0].session
        monkeypatch.setattr("osai.coordinator.transcript.Detokenizer.add", broken)
        members[2].say(tokens(session, 60))
        with pytest.raises(ZeroDivisionError):
            await running
        await all_closed(members, session)
