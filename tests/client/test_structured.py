"""Grammars, biases, tools and vectors: what is sent, and to which coordinators it is not."""

import math
from typing import Any

import pytest

from client.fake_coordinator import FakeCoordinator, serving
from osai.client import (
    AsyncClient,
    ChatMessage,
    Client,
    CoordinatorLostError,
    Embedding,
    GenerationOptions,
    Grammar,
    Prompt,
    Retries,
    Tool,
    ToolCall,
)
from osai.client.request import embed_to_proto, to_proto
from osai.client.wire import embedding_of
from osai.core.errors import BadFrameError, InvalidRequestError, ProtocolMismatchError
from osai.proto import client_pb2, common_pb2

REGEX = Grammar(kind="regex", text="[a-z]+")
TOOL = Tool(name="look", description="d", parameters='{"type":"object"}')
CALL = ToolCall(call_id="c1", name="look", arguments="{}")
TURN = ChatMessage(role="user", content="hi")
OLD = common_pb2.Hello(protocol_version=1, newest_version=3, software="osai/0.1")
FEATURES: list[tuple[str, Prompt, GenerationOptions]] = [
    ("grammar", "x", {"grammar": REGEX}),
    ("logit_bias", "x", {"logit_bias": {5: 1.0}}),
    ("tools", [TURN], {"tools": [TOOL]}),
    ("tools", [ChatMessage(role="tool", content="5", tool_call_id="c1")], {}),
    ("tools", [ChatMessage(role="assistant", content="", tool_calls=(CALL,))], {}),
]


def test_they_go_as_they_are_asked_for() -> None:
    called = ChatMessage(role="assistant", content="", tool_calls=(CALL,), name="me")
    request = to_proto([TURN, called], {"grammar": REGEX, "logit_bias": {7: -1.5, 3: 2.0}, "tools": [TOOL]})
    assert request.grammar.regex == "[a-z]+"
    assert dict(request.sampling.logit_bias) == {7: -1.5, 3: 2.0}
    assert [(tool.name, tool.parameters) for tool in request.chat.tools] == [("look", TOOL.parameters)]
    (call,) = request.chat.messages[1].tool_calls
    assert (call.id, call.name, call.arguments, request.chat.messages[1].name) == ("c1", "look", "{}", "me")
    nothing = to_proto("x", {"grammar": None, "logit_bias": None, "tools": None})
    assert nothing == to_proto("x", {})
    for kind in ("json_schema", "regex", "lark"):
        assert to_proto("x", {"grammar": Grammar(kind=kind, text="t")}).grammar.WhichOneof("kind") == kind


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (GenerationOptions(tools=[TOOL]), "tools go with a chat"),
        (GenerationOptions(logit_bias={-1: 1.0}), "biased token id is -1"),
        (GenerationOptions(logit_bias={2**32: 1.0}), "biased token id"),
    ],
)
def test_what_makes_no_sense_is_refused_here(options: GenerationOptions, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason):
        to_proto("x", options)


@pytest.mark.parametrize(("prompt", "pooling"), [([-1], "mean"), ("x", "max"), ("\ud800", "mean"), ([1.5], "last")])
def test_an_embedding_that_does_not_fit_the_wire_is_refused_here(prompt: Any, pooling: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequestError):
        embed_to_proto(prompt, pooling=pooling)


@pytest.mark.parametrize(("name", "prompt", "options"), FEATURES)
async def test_a_coordinator_that_would_leave_it_out_is_not_asked(
    name: str,
    prompt: Prompt,
    options: GenerationOptions,
) -> None:
    old, new = FakeCoordinator(greeting=OLD), FakeCoordinator()
    with serving(old) as here, serving(new) as there:
        async with AsyncClient(here) as client:
            with pytest.raises(ProtocolMismatchError, match=rf"speaks protocol 3 and knows no {name}: upgrade it"):
                await client.complete(prompt, **options)
        async with AsyncClient([here, there]) as client:
            assert (await client.complete(prompt, **options)).finish_reason == "length"
    assert old.requests == []
    assert len(new.requests) == 1


async def test_a_vector_comes_of_a_coordinator_that_makes_any() -> None:
    old, new = FakeCoordinator(greeting=OLD), FakeCoordinator()
    with serving(old) as here, serving(new) as there:
        async with AsyncClient(here) as client:
            with pytest.raises(ProtocolMismatchError, match="knows no embeddings: upgrade it"):
                await client.embed("x")
        async with AsyncClient([here, there]) as client:
            found = await client.embed([1, 2], model_id="acme/whole", pooling="last")
        with Client(there) as blocking:
            assert blocking.embed("abc") == found
    assert (found.model_id, found.num_prompt_tokens) == ("acme/whole", 4)
    assert found.vector == pytest.approx((0.6, -0.8))
    assert old.embedded == []
    asked = [(each.model_id, list(each.token_ids.ids), each.prompt, each.pooling) for each in new.embedded]
    assert asked == [("acme/whole", [1, 2], "", common_pb2.POOLING_LAST), ("", [], "abc", common_pb2.POOLING_MEAN)]


async def test_a_coordinator_that_was_learned_of_is_not_shown_a_prompt_for_trusted_operators() -> None:
    stranger, down = FakeCoordinator(), FakeCoordinator()
    down.failing = True
    with serving(stranger) as there, serving(down) as here:
        async with AsyncClient(here, retries=Retries(max_attempts=1)) as client:
            client._roster.learn(["me:1", there])
            with pytest.raises(CoordinatorLostError):
                await client.embed("x", trusted_only=[b"k" * 32])
            assert stranger.embedded == []
            assert (await client.embed("x")).num_prompt_tokens == 4
    assert len(stranger.embedded) == 1


@pytest.mark.parametrize("vector", [(), (0.6,), (math.nan, 1.0), (1.0, 1.0)])
def test_what_is_no_vector_of_length_one_is_not_believed(vector: tuple[float, ...]) -> None:
    with pytest.raises(BadFrameError, match="a vector of length"):
        embedding_of(client_pb2.EmbedResponse(model_id="m", num_prompt_tokens=1, embedding=vector))
    whole = embedding_of(client_pb2.EmbedResponse(model_id="m", num_prompt_tokens=1, embedding=(-1.0, 0.0)))
    assert whole == Embedding(model_id="m", num_prompt_tokens=1, vector=(-1.0, 0.0))
