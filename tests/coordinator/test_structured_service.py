"""Grammars, biases, tools and vectors through the clients' service, and what a key may have of them."""

import grpc
import pytest

from coordinator.keys_world import Keys, only_key
from coordinator.test_client_service import Request, events, serving
from gateway.fake_generations import MODEL, FakeGenerations
from osai.coordinator.api import ChatMessage, EmbeddingRequest, Tool, ToolCall
from osai.coordinator.client_wire import MAX_TOOL_CALLS, MAX_TOOLS, read_embedding_request, read_request
from osai.coordinator.keys.api_key import Scope
from osai.coordinator.keys.generations import KeyedGenerations
from osai.coordinator.keys.meter import QuotaExceededError
from osai.coordinator.placing.demand import CountedGenerations, Demand
from osai.core.errors import ForbiddenError, InvalidRequestError, UnavailableError
from osai.core.grammar import Grammar
from osai.core.rpc import error_of
from osai.proto import client_pb2, common_pb2

Embed = client_pb2.EmbedRequest
IDS = client_pb2.TokenIds(ids=[1, 2, 3])
TOOL = client_pb2.Tool(name="look", description="d", parameters='{"type":"object"}')
CALLED = client_pb2.ChatMessage(
    role="assistant", tool_calls=[client_pb2.ToolCall(id="c1", name="look", arguments="{}")], name="me"
)
ANSWERED = client_pb2.ChatMessage(role="tool", content="5", tool_call_id="c1")


async def test_a_vector_and_a_request_of_every_kind_arrive_as_they_are() -> None:
    generations = FakeGenerations()
    async with serving(generations) as stub:
        answer = await stub.Embed(Embed(model_id=MODEL, token_ids=IDS, pooling=common_pb2.POOLING_LAST), timeout=5)
        assert await stub.Embed(Embed(prompt="abc"), timeout=5) == answer
        chat = client_pb2.Chat(messages=[CALLED, ANSWERED], tools=[TOOL])
        sampling = client_pb2.SamplingRequest(logit_bias={7: -1.5, 3: 2})
        await events(stub, Request(chat=chat, sampling=sampling, grammar=common_pb2.Grammar(lark='start: "a"')))
    assert (answer.model_id, answer.num_prompt_tokens) == (MODEL, 3)
    assert list(answer.embedding) == pytest.approx([0.6, -0.8, 3 / 2**20])
    assert generations.embedded == [
        EmbeddingRequest(model_id=MODEL, prompt=(1, 2, 3), pooling="last"),
        EmbeddingRequest(model_id="", prompt="abc", pooling="mean"),
    ]
    (request,) = generations.requests
    call = ToolCall(call_id="c1", name="look", arguments="{}")
    assert request.prompt == (
        ChatMessage(role="assistant", content="", tool_calls=(call,), name="me"),
        ChatMessage(role="tool", content="5", tool_call_id="c1"),
    )
    assert request.tools == (Tool(name="look", description="d", parameters='{"type":"object"}'),)
    assert request.grammar == Grammar(kind="lark", text='start: "a"')
    assert request.sampling.logit_bias == ((3, 2.0), (7, -1.5))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Embed(), "has no prompt"),
        (Embed(prompt="x", pooling=9), "pooling 9 is not known"),  # type: ignore[arg-type]
        (Embed(prompt="x", model_id="m" * 300), "characters of a model's id"),
        (Embed(prompt="x", trusted_operators=[b"k"]), "trusted operator"),
    ],
)
def test_an_embedding_that_can_not_be_meant_is_refused(message: Embed, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        read_embedding_request(message)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Request(chat=client_pb2.Chat(messages=[ANSWERED], tools=[TOOL] * (MAX_TOOLS + 1))), "tools are over"),
        (
            Request(
                chat=client_pb2.Chat(
                    messages=[client_pb2.ChatMessage(tool_calls=[client_pb2.ToolCall()] * (MAX_TOOL_CALLS + 1))]
                )
            ),
            "tool calls of a turn are over",
        ),
        (
            Request(prompt="x", sampling=client_pb2.SamplingRequest(logit_bias=dict.fromkeys(range(1025), 1.0))),
            "biased tokens are over",
        ),
        (Request(prompt="x", sampling=client_pb2.SamplingRequest(logit_bias={1: float("nan")})), "logit_bias"),
        (Request(prompt="x", grammar=common_pb2.Grammar()), "of no kind that is known"),
        (Request(prompt="x", grammar=common_pb2.Grammar(regex="")), "no kind|between 1 and"),
    ],
)
def test_too_much_of_anything_is_refused(message: Request, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        read_request(message, lambda: 1)


async def test_an_embedding_that_fails_ends_with_its_type() -> None:
    async with serving(FakeGenerations(embedding=(UnavailableError("gone"),))) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Embed(Embed(prompt="x"), timeout=5)
        error = error_of(caught.value)
        assert (type(error), error.message) == (UnavailableError, "gone")
    async with serving(FakeGenerations(embedding=(ValueError("secret"),))) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Embed(Embed(prompt="x"), timeout=5)
        assert "ValueError" in error_of(caught.value).message
        assert "secret" not in str(caught.value)


async def test_an_embedding_counts_its_prompt_and_no_more() -> None:
    keys, fake = Keys(), FakeGenerations()
    keys.make(tokens_per_minute=10)
    keyed = KeyedGenerations(fake, only_key(keys.book), keys.keyring)
    for _ in range(2):
        assert (await keyed.embed(EmbeddingRequest(model_id=MODEL, prompt=(1, 2, 3, 4)))).num_prompt_tokens == 4
    with pytest.raises(QuotaExceededError):
        await keyed.embed(EmbeddingRequest(model_id="", prompt=(1, 2, 3)))
    assert len(fake.embedded) == 2
    assert (await keyed.embed(EmbeddingRequest(model_id="", prompt=(1, 2)))).num_prompt_tokens == 2


async def test_a_key_of_other_models_or_scopes_gets_none() -> None:
    fake = FakeGenerations()
    others, lists = Keys(), Keys()
    others.make(models=("other/model",))
    lists.make(Scope.MODELS)
    for keys in (others, lists):
        keyed = KeyedGenerations(fake, only_key(keys.book), keys.keyring)
        with pytest.raises(ForbiddenError):
            await keyed.embed(EmbeddingRequest(model_id=MODEL, prompt="x"))
    assert fake.embedded == []


async def test_what_is_asked_for_in_vectors_is_demand() -> None:
    demand = Demand()
    counted = CountedGenerations(FakeGenerations(), demand, lambda: 5.0)
    await counted.embed(EmbeddingRequest(model_id=MODEL, prompt=(1,) * 8))
    assert demand.by_model(5.0) == pytest.approx({MODEL: 8.0})
