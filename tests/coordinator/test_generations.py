"""Generations over real links to stages that follow a script: every end is told, and every stage is closed."""

import asyncio
import time
from contextlib import aclosing

import pytest

from coordinator.builders import MODEL
from coordinator.fake_stage import FakeStage, failed, refusing, silent, stages, tokens
from coordinator.world import REQUEST, all_closed, collected, dead_stage, failure, three, world
from osai.coordinator.api import Chunk, Finished, GenerationRequest, Started, Waiting
from osai.coordinator.sessions import refusals
from osai.coordinator.sessions.session import SupervisionConfig
from osai.coordinator.text import Tokenizer
from osai.core.errors import (
    AssignmentError,
    BadFrameError,
    ContextExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    NotCoveredError,
    OsaiError,
    PeerError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownModelError,
)
from osai.core.sampling import SamplingParams

SOON_S = 1.0  # what must happen at once


async def test_a_generation_runs_from_prompt_to_length(tokenizer: Tokenizer) -> None:
    fox = tokenizer.encode(" fox jumps")
    async with three(tokenizer) as (it, members):
        head, _, tail = members
        running = asyncio.create_task(collected(it))
        prompt = (await head.got("frames")).frames
        session = prompt.frames[0].session
        assert (prompt.frames[0].count, list(prompt.shape)) == (3, [3])
        assert [len(member.of("frames")) for member in members] == [1, 0, 0]
        tail.say(tokens(session, *fox[:-1]))
        tail.say(tokens(session, fox[-1], first=len(fox) - 1, finish="length"))
        events = await running
        await all_closed(members, session)
    started, *chunks, finished = events
    assert isinstance(started, Started)
    assert (started.session_id, started.model_id, started.num_prompt_tokens) == (f"{session:016x}", MODEL, 3)
    assert [(stage.node_id, str(stage.span)) for stage in started.pipeline] == [
        ("head", "0:2"),
        ("middle", "2:4"),
        ("tail", "4:6"),
    ]
    assert [chunk.index for chunk in chunks if isinstance(chunk, Chunk)] == list(range(len(fox)))
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)) == " fox jumps"
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.num_prompt_tokens, finished.num_generated_tokens) == ("length", 3, len(fox))
    assert it.generations._running == {}


async def test_sessions_share_links_and_keep_apart(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        head, _, tail = members
        runs = [asyncio.create_task(collected(it)) for _ in range(3)]
        await head.got("frames", 3)
        numbers = [message.frames.frames[0].session for message in head.of("frames")]
        for i, number in enumerate(numbers):
            tail.say(tokens(number, 60 + i, finish="stop"))
        events = {run[0].session_id: run[1:] for run in await asyncio.gather(*runs)}  # type: ignore[union-attr]
        assert [member.num_links for member in members] == [1, 1, 1]
    for i, number in enumerate(numbers):
        chunk, finished = events[f"{number:016x}"]
        assert isinstance(chunk, Chunk)
        assert [token.token_id for token in chunk.tokens] == [60 + i]
        assert isinstance(finished, Finished)


async def test_a_stop_string_closes_the_stages_and_drops_the_rest(tokenizer: Tokenizer) -> None:
    fox = tokenizer.encode("The quick brown fox")
    async with three(tokenizer) as (it, members):
        request = GenerationRequest(model_id=MODEL, prompt=(60,), stop=("brown",))
        last = next(i for i in range(len(fox)) if "brown" in tokenizer.decode(fox[: i + 1]))
        async with aclosing(it.generations.generate(request)) as events:
            seen = [await anext(events)]
            session = (await members[0].got("frames")).frames.frames[0].session
            members[2].say(tokens(session, *fox, finish="length"))
            async with asyncio.timeout(SOON_S):
                seen += [await anext(events) for _ in range(last + 1)]
                await all_closed(members, session)  # though the client has not asked for more yet
            seen += [event async for event in events]
    assert "".join(event.text for event in seen if isinstance(event, Chunk)) == "The quick "
    finished = seen[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    assert finished.num_generated_tokens == last + 1 < len(fox)
    assert len(seen) == 1 + finished.num_generated_tokens + 1


@pytest.mark.parametrize("how", ["stop string", "client gone"])
async def test_the_last_token_closes_the_stages_whoever_stops_reading_at_it(tokenizer: Tokenizer, how: str) -> None:
    """The session was over by itself, so that nobody closed it: the stages kept its KV as long as the coordinator."""
    async with three(tokenizer) as (it, members):
        stop = (tokenizer.decode([70]),) if how == "stop string" else ()
        request = GenerationRequest(model_id=MODEL, prompt=(60,), stop=stop)
        async with aclosing(it.generations.generate(request)) as events:
            await anext(events)
            session = (await members[0].got("frames")).frames.frames[0].session
            members[2].say(tokens(session, 70, finish="length"))
            assert isinstance(await anext(events), Chunk)
            async with asyncio.timeout(SOON_S):
                await all_closed(members, session)  # though the client takes its time with the token
        async with asyncio.timeout(SOON_S):
            await all_closed(members, session)


async def test_a_stage_that_dies_ends_the_session_where_nobody_takes_its_place(tokenizer: Tokenizer) -> None:
    config = SupervisionConfig(coverage_wait_s=0.3)
    async with three(tokenizer, config) as (it, members), aclosing(it.generations.generate(REQUEST)) as events:
        head, middle, tail = members
        await anext(events)
        session = (await head.got("frames")).frames.frames[0].session
        tail.say(tokens(session, 60, 61))
        assert isinstance(await anext(events), Chunk)
        assert isinstance(await anext(events), Chunk)
        began_s = time.monotonic()
        await middle.die()
        waiting = await anext(events)
        assert isinstance(waiting, Waiting)
        assert "layers 2:4 of me/small have no ready node" in waiting.reason
        assert time.monotonic() - began_s < SOON_S
        with pytest.raises(NotCoveredError) as caught:
            await anext(events)
        assert 0.3 <= time.monotonic() - began_s < SOON_S
        assert "node middle was lost; waited for 0.3 s; 2 tokens were generated" in caught.value.message
        assert caught.value.subject == "middle"
        await all_closed([head, tail], session)
        assert it.swarm.get("middle") is None  # until it says something new
        assert it.generations.links.held("middle", middle.address) is None


async def test_a_dead_stage_is_not_dialled_again_to_be_closed(tokenizer: Tokenizer) -> None:
    """It used to be, and the failure of that second link took a node that had come back meanwhile for lost."""
    async with three(tokenizer, SupervisionConfig(coverage_wait_s=0.2)) as (it, members):
        running = asyncio.create_task(failure(it))
        await members[0].got("frames")
        await members[1].die()
        await running
        it.announce(members[1], 2, 4)  # back with news
        await asyncio.sleep(0.3)
        assert it.swarm.get("middle") is not None


async def test_a_stage_that_fails_ends_the_session_with_its_reason(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        running = asyncio.create_task(failure(it))
        session = (await members[0].got("frames")).frames.frames[0].session
        members[1].say(failed(session, BadFrameError("hidden states are not finite")))
        error = await running
        assert (type(error).code, error.message) == (BadFrameError.code, "hidden states are not finite")
        await all_closed(members, session)


async def test_tokens_of_another_than_the_tail_are_dropped(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        running = asyncio.create_task(collected(it))
        session = (await members[0].got("frames")).frames.frames[0].session
        members[1].say(tokens(session, 99, finish="stop"))
        members[1].say(tokens(session + 1, 99, finish="stop"))
        await asyncio.sleep(0.05)
        members[2].say(tokens(session, 60, finish="stop"))
        _, chunk, _ = await running
        assert isinstance(chunk, Chunk)
        assert [token.token_id for token in chunk.tokens] == [60]


async def test_a_tail_that_skips_a_token_is_found_out(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        running = asyncio.create_task(failure(it))
        session = (await members[0].got("frames")).frames.frames[0].session
        members[2].say(tokens(session, 60, first=1))
        assert isinstance(await running, PeerError)
        await all_closed(members, session)


@pytest.mark.parametrize(
    "refusal", [ResourceExhaustedError("no KV blocks left"), AssignmentError("other weights"), UnavailableError("busy")]
)
async def test_a_session_that_a_node_refuses_runs_elsewhere(tokenizer: Tokenizer, refusal: OsaiError) -> None:
    """A record's free KV is some seconds old."""
    full, free, rest = FakeStage("full", refusing(refusal)), FakeStage("free"), FakeStage("rest")
    async with stages(full, free, rest), world(tokenizer) as it:
        it.announce(full, 0, 3, step_time_s=0.0)
        it.announce(free, 0, 3, step_time_s=1.0)
        it.announce(rest, 3, 6)
        running = asyncio.create_task(collected(it))
        session = (await free.got("frames")).frames.frames[0].session
        rest.say(tokens(session, 60, finish="stop"))
        events = await running
        assert [type(event) for event in events] == [Started, Chunk, Finished]
        refused = full.of("open")[0].open.session
        assert refused != session
        await rest.got("close", 2)
        assert [message.close.session for message in rest.of("close")] == [refused, session]
        assert it.swarm.get("full") is not None  # it is there, it has no room


async def test_a_refusal_without_another_pipeline_is_told_as_it_is(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        members[1].script = refusing(AssignmentError("other weights"))
        error = await failure(it)
        assert (type(error), error.message) == (AssignmentError, "other weights")
        session = (await members[0].got("open")).open.session
        await all_closed(members, session)
        assert not members[0].of("frames")


async def test_what_one_node_can_never_fit_a_larger_one_may(tokenizer: Tokenizer) -> None:
    large = FakeStage("large")
    async with stages(large), three(tokenizer) as (it, members):
        members[1].script = refusing(InvalidRequestError("can never fit"))
        it.announce(large, 2, 4, step_time_s=9.0)
        running = asyncio.create_task(collected(it))
        await large.got("open")
        session = (await members[0].got("frames")).frames.frames[0].session
        members[2].say(tokens(session, 60, finish="stop"))
        assert isinstance((await running)[-1], Finished)


async def test_what_no_node_can_ever_fit_fails_at_once(tokenizer: Tokenizer) -> None:
    other = FakeStage("other", refusing(InvalidRequestError("other can never fit")))
    async with stages(other), three(tokenizer) as (it, members):
        members[1].script = refusing(InvalidRequestError("middle can never fit"))
        it.announce(other, 2, 4, step_time_s=9.0)
        async with asyncio.timeout(SOON_S):
            error = await failure(it)
        assert (type(error), error.message) == (InvalidRequestError, "other can never fit")


async def test_a_dead_address_is_passed_by_before_the_first_token(tokenizer: Tokenizer) -> None:
    """A node that was killed stays in the DHT for some seconds."""
    live = FakeStage("live")
    async with stages(live), world(tokenizer) as it:
        it.announce(dead_stage(), 0, 6, step_time_s=0.0)
        it.announce(live, 0, 6, step_time_s=1.0)
        running = asyncio.create_task(collected(it))
        session = (await live.got("frames")).frames.frames[0].session
        live.say(tokens(session, 60, finish="stop"))
        assert isinstance((await running)[-1], Finished)
        assert it.swarm.get("dead") is None


async def test_the_tries_are_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_ATTEMPTS", 3)
    members = [FakeStage(f"n{i}", refusing(AssignmentError(f"n{i} has moved"))) for i in range(5)]
    async with stages(*members), world(tokenizer) as it:
        for i, member in enumerate(members):
            it.announce(member, 0, 6, step_time_s=float(i))
        assert (await failure(it)).message == "n2 has moved"
        assert [len(member.of("open")) for member in members] == [1, 1, 1, 0, 0]


async def test_no_one_answers_at_any_address(tokenizer: Tokenizer) -> None:
    async with world(tokenizer) as it:
        it.announce(dead_stage(), 0, 6)
        error = await failure(it)
        assert type(error) is UnavailableError
        assert error.subject == "dead"


@pytest.mark.parametrize("num_events", [1, 2])
async def test_a_client_that_goes_closes_every_stage(tokenizer: Tokenizer, num_events: int) -> None:
    async with three(tokenizer) as (it, members):
        events = it.generations.generate(REQUEST)
        await anext(events)
        session = (await members[0].got("frames")).frames.frames[0].session
        if num_events == 2:
            members[2].say(tokens(session, 60))
            await anext(events)
        await events.aclose()
        async with asyncio.timeout(SOON_S):
            await all_closed(members, session)
        assert it.generations._running == {}


async def test_a_client_that_goes_before_the_session_is_open_closes_every_stage(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        members[1].script = silent
        running = asyncio.create_task(collected(it))
        session = (await members[1].got("open")).open.session
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with asyncio.timeout(SOON_S):
            await all_closed(members, session)


async def test_a_stage_that_does_not_open_in_time_is_named(tokenizer: Tokenizer) -> None:
    async with three(tokenizer, SupervisionConfig(open_s=1.0)) as (it, members):
        members[1].script = silent
        error = await failure(it)
        assert (type(error), error.message) == (UnavailableError, "not opened in time by middle")
        await all_closed(members, members[0].of("open")[0].open.session)


@pytest.mark.parametrize(
    ("num_tokens", "config"),
    [
        (0, SupervisionConfig(first_token_s=0.2, next_token_s=0.2, prompt_token_s=0.0, max_nudges=1)),
        (2, SupervisionConfig(next_token_s=0.2, unmeasured_token_s=0.2, max_nudges=1)),
    ],
)
async def test_silence_ends_the_session(tokenizer: Tokenizer, num_tokens: int, config: SupervisionConfig) -> None:
    async with three(tokenizer, config) as (it, members):
        running = asyncio.create_task(failure(it))
        session = (await members[0].got("frames")).frames.frames[0].session
        if num_tokens:
            members[2].say(tokens(session, *(60,) * num_tokens))
        error = await running
        assert isinstance(error, DeadlineExceededError)
        assert f"after {num_tokens}" in error.message
        await all_closed(members, session)


async def test_layers_without_nodes_are_named(tokenizer: Tokenizer) -> None:
    async with world(tokenizer) as it:
        it.announce(FakeStage("a"), 1, 3)
        error = await failure(it)
        assert isinstance(error, NotCoveredError)
        assert "layers 0:1, 3:6 of me/small have no ready node" in error.message


async def test_spans_that_do_not_join_are_no_pipeline(tokenizer: Tokenizer) -> None:
    async with world(tokenizer) as it:
        it.announce(FakeStage("a"), 0, 4)
        it.announce(FakeStage("b"), 3, 6)
        error = await failure(it)
        assert isinstance(error, NotCoveredError)
        assert "do not join" in error.message


@pytest.mark.parametrize(
    ("request_", "error_type"),
    [
        (GenerationRequest(model_id="me/none", prompt=(1,)), UnknownModelError),
        (GenerationRequest(model_id=MODEL, prompt=()), InvalidRequestError),
        (GenerationRequest(model_id=MODEL, prompt=""), InvalidRequestError),
        (GenerationRequest(model_id=MODEL, prompt=(10_000,)), InvalidRequestError),
        (GenerationRequest(model_id=MODEL, prompt=(1,), max_tokens=0), InvalidRequestError),
        (GenerationRequest(model_id=MODEL, prompt=(1,) * 64), ContextExceededError),
    ],
)
async def test_bad_requests_reach_no_node(
    tokenizer: Tokenizer, request_: GenerationRequest, error_type: type[OsaiError]
) -> None:
    async with world(tokenizer) as it:
        assert isinstance(await failure(it, request_), error_type)


async def test_load_spreads_over_replicas(tokenizer: Tokenizer) -> None:
    one, two = FakeStage("one"), FakeStage("two")
    async with stages(one, two), world(tokenizer) as it:
        it.announce(one, 0, 6)
        it.announce(two, 0, 6)
        runs = [it.generations.generate(REQUEST) for _ in range(4)]
        for run in runs:
            await anext(run)
        assert [len(member.of("open")) for member in (one, two)] == [2, 2]
        for run in runs:
            await run.aclose()


async def test_logprobs_are_asked_for_and_described(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        request = GenerationRequest(model_id=MODEL, prompt=(60,), sampling=SamplingParams(num_logprobs=0, seed=7))
        running = asyncio.create_task(collected(it, request))
        session = (await members[0].got("frames")).frames.frames[0].session
        assert members[2].of("open")[0].open.sampling.HasField("num_logprobs")
        message = tokens(session, 70, finish="stop")
        message.tokens.tokens[0].token.logprob = -0.25
        members[2].say(message)
        started, chunk, _ = await running
        assert isinstance(started, Started)
        assert started.seed == 7
        assert isinstance(chunk, Chunk)
        assert [(token.text, token.logprob) for token in chunk.tokens] == [(tokenizer.token_text(70), -0.25)]
