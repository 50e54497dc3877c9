"""Grammars, biases and vectors at the coordinator: whom they are asked of, and what becomes of the answers."""

import asyncio
import struct
from dataclasses import replace
from typing import Any

import pytest

from coordinator.builders import MODEL, model, node, span, train_byte_level
from coordinator.fake_stage import FakeStage, Message, caching, failed, stages, tokens
from coordinator.test_trusted_only import with_digest
from coordinator.world import REQUEST, World, collected, failure, three, world
from osai.coordinator.api import Chunk, Embedding, EmbeddingRequest, Finished, GenerationRequest
from osai.coordinator.embedding import ATTEMPTS, read_vector
from osai.coordinator.grammar_check import GrammarCheck
from osai.coordinator.plan import plan_embedding, plan_generation
from osai.coordinator.routes.routing import RouteWish, find_pipeline, find_standby
from osai.coordinator.sessions.actions import Detour, FindPipeline, Found
from osai.coordinator.sessions.route_finder import RouteFinder
from osai.coordinator.swarm import Swarm
from osai.coordinator.text import Tokenizer
from osai.core.errors import InternalError, InvalidRequestError, NotCoveredError, OsaiError, PeerError, UnavailableError
from osai.core.grammar import Grammar
from osai.core.sampling import SamplingParams
from osai.proto import common_pb2, edge_pb2

GRAMMAR = Grammar(kind="regex", text="[a-z]+")
BIASED = SamplingParams(logit_bias=((5, 1.5),))
EMBED = EmbeddingRequest(model_id=MODEL, prompt=tuple(range(40)))
VECTOR = struct.pack("<4f", 0.5, -0.5, 0.5, -0.5)


def vector(session: int, data: bytes = VECTOR, epoch: int = 1) -> Message:
    stop = common_pb2.FINISH_REASON_STOP
    token = edge_pb2.Token(session=session, epoch=epoch, finish=stop, embedding=data)
    return Message(tokens=edge_pb2.TokenBatch(tokens=[token]))


async def embedded(it: World, request: EmbeddingRequest = EMBED) -> Embedding:
    async with asyncio.timeout(5):
        return await it.generations.embed(request)


def announce(it: World, members: list[FakeStage], **tail: Any) -> None:  # noqa: ANN401 - of a node
    for i, member in enumerate(members):
        it.announce(member, 2 * i, 2 * i + 2, **(tail if i == len(members) - 1 else {}))


@pytest.mark.parametrize(
    "changes", [{"grammar": GRAMMAR}, {"sampling": BIASED}, {"grammar": GRAMMAR, "sampling": BIASED}]
)
def test_a_tail_that_would_leave_it_out_is_never_chosen(tokenizer: Tokenizer, changes: dict[str, Any]) -> None:
    served, swarm = model(tokenizer), Swarm()
    old, new = (
        node("old", span(3, 6, step_time_s=0.001), protocol_version=3),
        node("new", span(3, 6), protocol_version=4),
    )
    for each in with_digest([node("head", span(0, 3)), old, new], served):
        swarm.heard(each, 0.0)
    plan = plan_generation(replace(REQUEST, **changes), (60, 61), served.facts)
    routes = RouteFinder(served, plan, swarm, dict)
    plain = RouteFinder(served, plan_generation(REQUEST, (60, 61), served.facts), swarm, dict)
    assert [stage.node_id for stage in plain.first(()) or ()] == ["head", "old"]
    assert [stage.node_id for stage in routes.first(()) or ()] == ["head", "new"]
    assert routes.first({"new"}) is None, "another one is no way around it"
    found = routes.find(FindPipeline(detour=Detour()))
    assert isinstance(found, Found)
    assert found.pipeline[-1].node_id == "new"
    assert find_standby(swarm.nodes, served, found.pipeline[-1], RouteWish(num_tokens=1, tail_version=4)) is None
    swarm.lost("new", 1.0)
    with pytest.raises(NotCoveredError, match=r"no ready node of the last layer .* speaks version 4 .* upgrade one"):
        routes.first(())
    assert isinstance(routes.find(FindPipeline(detour=Detour())), NotCoveredError)


def test_a_layer_that_nobody_has_is_what_is_missing_and_no_version(tokenizer: Tokenizer) -> None:
    served = model(tokenizer)
    with pytest.raises(NotCoveredError, match="have no ready node"):
        find_pipeline(with_digest([node("a", span(0, 3))], served), served, RouteWish(num_tokens=1, tail_version=4))


async def test_the_tail_alone_is_told_of_a_grammar_and_in_later_epochs_of_the_tokens_so_far(
    tokenizer: Tokenizer,
) -> None:
    async with three(tokenizer) as (it, members):
        announce(it, members, protocol_version=4)
        running = asyncio.create_task(collected(it, replace(REQUEST, grammar=GRAMMAR, sampling=BIASED)))
        opens = [(await member.got("open")).open for member in members]
        assert [message.HasField("grammar") for message in opens] == [False, False, True]
        assert opens[-1].grammar.regex == GRAMMAR.text
        assert dict(opens[-1].sampling.logit_bias) == {5: 1.5}
        assert list(opens[-1].prompt_token_ids) == [60, 61, 62]
        session = opens[0].session
        await members[0].got("frames")
        members[2].say(tokens(session, 70, 71))
        members[2].say(failed(session, UnavailableError("busy", subject="tail"), is_open=True))
        again = (await members[2].got("open", 2)).open
        assert (list(again.prompt_token_ids), again.num_prompt_tokens) == ([60, 61, 62, 70, 71], 3)
        assert again.grammar == opens[-1].grammar
        running.cancel()


async def test_a_grammar_is_refused_before_any_stage_hears_of_it(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = train_byte_level(tmp_path_factory.mktemp("tokenizer"))
    async with three(tokenizer) as (it, members):
        announce(it, members, protocol_version=4)
        check = GrammarCheck(folder / "tokenizer.json", it.served.facts.eos_token_ids)
        it.generations._catalog._models[MODEL] = replace(it.served, check_grammar=check)
        wrong = replace(REQUEST, grammar=Grammar(kind="regex", text="(a"))
        error = await failure(it, wrong)
        assert isinstance(error, InvalidRequestError)
        assert "unclosed group" in error.message
        assert not any(member.received for member in members)
        ends = asyncio.create_task(collected(it, replace(REQUEST, grammar=GRAMMAR)))
        session = (await members[2].got("open")).open.session
        await members[0].got("frames")
        members[2].say(tokens(session, 70, finish="stop"))
        assert [type(event) for event in await ends][1:] == [Chunk, Finished]


@pytest.mark.parametrize("pooling", ["mean", "last"])
async def test_a_prompts_vector_comes_from_the_tail_after_one_prefill(tokenizer: Tokenizer, pooling: Any) -> None:  # noqa: ANN401
    async with three(tokenizer) as (it, members):
        announce(it, members, protocol_version=4)
        for member in members:
            member.script = caching(32 if pooling == "last" else 0)
        running = asyncio.create_task(embedded(it, replace(EMBED, pooling=pooling)))
        opens = [(await member.got("open")).open for member in members]
        assert [message.pooling for message in opens] == [0, 0, 1 if pooling == "mean" else 2]
        assert {len(message.block_hashes) for message in opens} == {0 if pooling == "mean" else 2}
        sent = (await members[0].got("frames")).frames.frames[0]
        assert (sent.position, sent.count) == ((0, 40) if pooling == "mean" else (32, 8))
        members[2].say(vector(opens[0].session))
        assert await running == Embedding(model_id=MODEL, num_prompt_tokens=40, vector=(0.5, -0.5, 0.5, -0.5))
        for member in members:
            assert (await member.got("close")).close.session == opens[0].session


async def test_an_embedding_whose_stage_is_lost_is_made_anew_elsewhere(tokenizer: Tokenizer) -> None:
    members = [FakeStage(name) for name in ("head", "middle", "tail", "spare")]
    async with stages(*members), world(tokenizer) as it:
        announce(it, members[:3], protocol_version=4)
        it.announce(members[3], 4, 6, step_time_s=5.0, protocol_version=4)
        running = asyncio.create_task(embedded(it))
        first = (await members[2].got("open")).open
        await members[0].got("frames")
        await members[2].die()
        second = (await members[3].got("open")).open
        assert second.session != first.session
        assert not second.resume
        await members[0].got("frames", 2)
        members[3].say(vector(second.session))
        assert (await running).num_prompt_tokens == 40
        assert it.generations.recoveries.num_recoveries == 0


@pytest.mark.parametrize(
    ("error", "num_attempts"),
    [
        (UnavailableError("busy"), ATTEMPTS),
        (InternalError("no direction"), 1),
        (InvalidRequestError("rows are missing"), 1),
    ],
)
async def test_an_embedding_that_fails_again_ends_with_the_reason(
    tokenizer: Tokenizer, error: OsaiError, num_attempts: int
) -> None:
    """One that would fail in the same way anywhere is not tried again."""
    async with three(tokenizer) as (it, members):
        announce(it, members, protocol_version=4)
        running = asyncio.create_task(embedded(it))
        for attempt in range(1, num_attempts + 1):
            session = (await members[2].got("open", attempt)).open.session
            await members[0].got("frames", attempt)
            members[2].say(failed(session, error))
        with pytest.raises(type(error), match=error.message) as caught:
            await running
        assert (str(num_attempts) in caught.value.message) == (num_attempts > 1)
        assert len(members[2].of("open")) == num_attempts


async def test_an_embedding_needs_a_new_tail(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, _):
        with pytest.raises(NotCoveredError, match="speaks version 4"):
            await embedded(it)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        VECTOR[:-1],
        VECTOR + VECTOR,
        struct.pack("<4f", 1, 1, 0, 0),
        struct.pack("<4f", float("nan"), 0, 0, 0),
        bytes(16),
    ],
)
def test_what_is_no_vector_of_the_model_is_the_tails_fault(data: bytes) -> None:
    with pytest.raises(PeerError, match="the tail sent a vector of"):
        read_vector(data, 4)


def test_a_prompt_must_fit_the_model_and_a_bias_its_vocabulary(tokenizer: Tokenizer) -> None:
    facts = model(tokenizer).facts
    request = GenerationRequest(model_id=MODEL, prompt="x", sampling=SamplingParams(logit_bias=((600, 1.0),)))
    with pytest.raises(InvalidRequestError, match="logit_bias names token 600, which is not in the model's vocabulary"):
        plan_generation(request, (1,), facts)
    for prompt in ((), (600,), (1,) * 64):
        with pytest.raises(InvalidRequestError):
            plan_embedding(EMBED, prompt, facts)
    plan = plan_embedding(EMBED, (1,) * 63, facts)
    assert (plan.max_total_tokens, plan.pooling, plan.stop_token_ids) == (64, "mean", ())
