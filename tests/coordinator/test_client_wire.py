"""The clients' API: requests are read whole, with our defaults; events are written whole."""

import pytest

from coordinator.builders import stage
from osai.coordinator.api import (
    ChatMessage,
    Chunk,
    Finished,
    GeneratedToken,
    GenerationRequest,
    ModelView,
    NodeView,
    SpanView,
    Started,
    SwarmView,
)
from osai.coordinator.client_wire import read_request, write_event, write_models, write_swarm
from osai.core.errors import InvalidRequestError
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.proto import client_pb2, common_pb2


def no_seed() -> int:
    return 77


def test_a_bare_request_gets_the_defaults_and_a_seed() -> None:
    assert read_request(client_pb2.GenerateRequest(prompt="hi"), no_seed) == GenerationRequest(
        model_id="", prompt="hi", sampling=SamplingParams(seed=77)
    )


def test_a_full_request_is_read_whole() -> None:
    sampling = client_pb2.SamplingRequest(
        temperature=0.5, top_k=4, top_p=0.5, min_p=0.25, repetition_penalty=1.5, presence_penalty=-1,
        frequency_penalty=1, seed=0, num_logprobs=0,
    )  # fmt: skip
    message = client_pb2.GenerateRequest(
        model_id="m",
        token_ids=client_pb2.TokenIds(ids=[1, 2]),
        sampling=sampling,
        max_tokens=5,
        stop=["x"],
        stop_token_ids=[9],
        ignore_eos=True,
    )
    assert read_request(message, no_seed) == GenerationRequest(
        model_id="m",
        prompt=(1, 2),
        sampling=SamplingParams(
            temperature=0.5, top_k=4, top_p=0.5, min_p=0.25, repetition_penalty=1.5, presence_penalty=-1,
            frequency_penalty=1, seed=0, num_logprobs=0,
        ),
        max_tokens=5,
        stop=("x",),
        stop_token_ids=(9,),
        ignore_eos=True,
    )  # fmt: skip


def test_zero_is_not_the_same_as_unset() -> None:
    """max_tokens 0 is for the plan to refuse; a temperature of 0 is greedy."""
    message = client_pb2.GenerateRequest(prompt="", max_tokens=0)
    message.sampling.temperature = 0.0
    read = read_request(message, no_seed)
    assert (read.max_tokens, read.prompt, read.sampling.temperature) == (0, "", 0.0)


def test_a_chat_is_read_turn_by_turn() -> None:
    turns = [client_pb2.ChatMessage(role="user", content="hi"), client_pb2.ChatMessage(role="assistant", content="")]
    read = read_request(client_pb2.GenerateRequest(chat=client_pb2.Chat(messages=turns)), no_seed)
    assert read.prompt == (ChatMessage(role="user", content="hi"), ChatMessage(role="assistant", content=""))


sampled = client_pb2.SamplingRequest


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (client_pb2.GenerateRequest(), "the request has no prompt"),
        (client_pb2.GenerateRequest(prompt="x", sampling=sampled(temperature=-1)), "temperature is -1"),
        (client_pb2.GenerateRequest(prompt="x", sampling=sampled(temperature=float("nan"))), "temperature is nan"),
        (client_pb2.GenerateRequest(prompt="x", sampling=sampled(top_k=-1)), "top_k is -1"),
        (client_pb2.GenerateRequest(prompt="x", sampling=sampled(top_p=0)), "top_p is 0"),
        (client_pb2.GenerateRequest(prompt="x", sampling=sampled(num_logprobs=21)), "num_logprobs is 21"),
        (client_pb2.GenerateRequest(prompt="x", sampling=sampled(num_logprobs=-1)), "num_logprobs is -1"),
    ],
)
def test_requests_that_can_not_be_read(message: client_pb2.GenerateRequest, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        read_request(message, no_seed)


def test_events_are_written_whole() -> None:
    pipeline = (stage("a", 0, 2), stage("b", 2, 6))
    started = Started(
        session_id="s", model_id="m", num_prompt_tokens=33, seed=2**64 - 1, pipeline=pipeline, num_cached_tokens=32
    )
    told = write_event(started).started
    assert (told.session_id, told.model_id, told.num_prompt_tokens, told.seed) == ("s", "m", 33, 2**64 - 1)
    assert told.num_cached_tokens == 32
    assert [(s.node_id, s.address, s.span.start, s.span.end) for s in told.pipeline] == [
        ("a", "a:1", 0, 2),
        ("b", "b:1", 2, 6),
    ]
    tokens = (
        GeneratedToken(token_id=7, text="x"),
        GeneratedToken(token_id=8, text="y", logprob=-0.5, top=((8, "y", -0.5), (9, "z", -1.5))),
    )
    chunk = write_event(Chunk(index=4, tokens=tokens, text="xy")).chunk
    assert (chunk.index, chunk.text, [token.token_id for token in chunk.tokens]) == (4, "xy", [7, 8])
    assert [token.HasField("logprob") for token in chunk.tokens] == [False, True]
    assert [(other.token_id, other.logprob) for other in chunk.tokens[1].top] == [(8, -0.5), (9, -1.5)]
    for reason, code in [("stop", common_pb2.FINISH_REASON_STOP), ("length", common_pb2.FINISH_REASON_LENGTH)]:
        done = Finished(reason=reason, num_prompt_tokens=3, num_generated_tokens=2, ttft_s=0.5, decode_tokens_per_s=8.0)
        finished = write_event(done).finished
        assert (finished.reason, finished.num_prompt_tokens, finished.num_generated_tokens) == (code, 3, 2)
        assert (finished.ttft_s, finished.decode_tokens_per_s) == (0.5, 8.0)


def test_the_swarm_is_written_whole() -> None:
    models = (
        ModelView(model_id="m", num_layers=2, max_context=9, signed=True, licence="mit", replicas=(1, 2)),
        ModelView(model_id="n", num_layers=2, max_context=9, signed=False, licence="", replicas=(0, 1)),
    )
    span = SpanView(
        model_id="m", span=LayerRange(0, 2), dtype="float32", state="failed", verified=False, failure="no file"
    )
    node = NodeView(
        node_id="a", name="the a", software="osai/1", device="cpu", memory_bytes=2**40, state="ready", spans=(span,),
        num_sessions=2, uptime_s=1.5,
    )  # fmt: skip
    told = write_swarm(
        SwarmView(
            coordinator_id="c",
            software="osai/1",
            http_address="http://h:1",
            dht_addresses=("/ip4/h", "/ip6/h"),
            models=models,
            nodes=(node,),
        )
    )
    assert list(told.models) == write_models(models)
    assert [(m.model_id, m.covered, m.signed, list(m.replicas)) for m in told.models] == [
        ("m", True, True, [1, 2]),
        ("n", False, False, [0, 1]),
    ]
    assert (told.coordinator_id, told.http_address, list(told.dht_addresses)) == (
        "c",
        "http://h:1",
        ["/ip4/h", "/ip6/h"],
    )
    (member,) = told.nodes
    assert (member.node_id, member.name, member.memory_bytes, member.uptime_s) == ("a", "the a", 2**40, 1.5)
    assert (member.state, member.num_sessions, member.device) == ("ready", 2, "cpu")
    (hosted,) = member.spans
    assert (hosted.span.start, hosted.span.end, hosted.state, hosted.failure) == (0, 2, "failed", "no file")
