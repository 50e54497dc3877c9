"""The clients' API: requests are read whole, with our defaults; events are written whole."""

from typing import Any

import pytest

from coordinator.builders import stage
from osai.coordinator.api import (
    ChatMessage,
    Chunk,
    Finished,
    GeneratedToken,
    GenerationRequest,
    KnownToken,
    ModelView,
    NodeView,
    Rerouted,
    Resumption,
    SpanView,
    Started,
    SwarmView,
    Waiting,
)
from osai.coordinator.client_wire import read_request, write_event, write_models, write_swarm
from osai.core.errors import ContextExceededError, InvalidRequestError
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
    told = write_event(started, ("h:1", "i:2")).started
    assert list(told.coordinators) == ["h:1", "i:2"]
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
        done = Finished(
            reason=reason, num_prompt_tokens=3, num_generated_tokens=2, ttft_s=0.5, decode_tokens_per_s=8.0,
            num_recoveries=4,
        )  # fmt: skip
        finished = write_event(done).finished
        assert (finished.reason, finished.num_prompt_tokens, finished.num_generated_tokens) == (code, 3, 2)
        assert (finished.ttft_s, finished.decode_tokens_per_s, finished.num_recoveries) == (0.5, 8.0, 4)
    rerouted = write_event(Rerouted(pipeline=pipeline, reason="b was lost", pause_s=0.75)).rerouted
    assert [s.node_id for s in rerouted.pipeline] == ["a", "b"]
    assert (rerouted.reason, rerouted.pause_s) == ("b was lost", 0.75)
    waiting = write_event(Waiting(reason="no node", remaining_s=30.0)).waiting
    assert (waiting.reason, waiting.remaining_s) == ("no node", 30.0)


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
            coordinators=("h:1", "i:2"),
        )
    )
    assert list(told.coordinators) == ["h:1", "i:2"]
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


def resume(**fields: Any) -> client_pb2.GenerateRequest:  # noqa: ANN401 - of any field
    """A request that goes on with two tokens on two stages."""
    tokens = [
        common_pb2.SampledToken(token_id=7),
        common_pb2.SampledToken(token_id=8, logprob=-0.5, top=[common_pb2.TokenLogprob(token_id=9, logprob=-1.5)]),
    ]
    values = {"session_id": f"{5:016x}", "attempt": 1, "seed": 9, "tokens": tokens, "pipeline": wire_stages(2, 6)}
    request = {name: fields.pop(name) for name in ("max_tokens", "sampling", "model_id") if name in fields}
    return client_pb2.GenerateRequest(prompt="x", resume=client_pb2.Resume(**{**values, **fields}), **request)


def wire_stages(*ends: int) -> list[common_pb2.Stage]:
    return [
        common_pb2.Stage(node_id=name, address=f"{name}:1", span=common_pb2.LayerRange(start=start, end=end))
        for name, start, end in zip("abcdef", (0, *ends), ends, strict=False)
    ]


def test_a_resumption_is_read_whole() -> None:
    read = read_request(resume(), no_seed)
    assert read.sampling.seed == 9  # the session's, not a new one
    assert read.resume == Resumption(
        session=5,
        attempt=1,
        tokens=(KnownToken(token_id=7), KnownToken(token_id=8, logprob=-0.5, top=((9, -1.5),))),
        pipeline=(stage("a", 0, 2), stage("b", 2, 6)),
    )
    bare = read_request(resume(tokens=[], pipeline=[], session_id="f" * 16, attempt=0xFFFE), no_seed).resume
    assert bare == Resumption(session=2**64 - 1, attempt=0xFFFE, tokens=(), pipeline=())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"session_id": ""}, "16 hexadecimal digits"),
        ({"session_id": "5"}, "16 hexadecimal digits"),
        ({"session_id": "0x" + "5" * 14}, "16 hexadecimal digits"),
        ({"session_id": "5" * 17}, "16 hexadecimal digits"),
        ({"session_id": "5" * 16 + "\n"}, "16 hexadecimal digits"),
        ({"session_id": "\u0665" * 16}, "16 hexadecimal digits"),
        ({"attempt": 0}, "attempt is 0"),
        ({"attempt": 0xFFFF}, "attempt is 65535"),
        ({"sampling": client_pb2.SamplingRequest(seed=8)}, "the seed is 8, the session's is 9"),
        ({"pipeline": wire_stages(2, 6)[1:]}, "layers 2:6 stands where the one from layer 0 on is due"),
        ({"pipeline": wire_stages(2, 2)}, "layer range 2:2 is empty"),
        ({"pipeline": wire_stages(3, 2)}, "layer range 3:2 is empty or negative"),
        ({"pipeline": [common_pb2.Stage()]}, "a node id and an address"),
        ({"pipeline": [common_pb2.Stage(node_id="a" * 257, address="a:1")]}, "a node id and an address"),
        ({"pipeline": wire_stages(2) * 1025}, "1025 stages"),
        ({"tokens": [common_pb2.SampledToken(logprob=float("nan"))]}, "a logprob that is none"),
        ({"tokens": [common_pb2.SampledToken(top=[common_pb2.TokenLogprob()] * 21)]}, "more than 20 alternatives"),
    ],
)
def test_resumptions_that_can_not_be_read(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        read_request(resume(**fields), no_seed)


@pytest.mark.parametrize(
    ("fields", "contexts", "most"),
    [
        ({"max_tokens": 2}, {}, None),
        ({"max_tokens": 1}, {}, 1),
        ({"max_tokens": 9, "model_id": "m"}, {"m": 2, "n": 64}, 1),
        ({"model_id": "m"}, {"m": 3}, None),
        ({"model_id": "unknown"}, {"m": 2}, None),  # which is refused as such later
        ({}, {"m": 2, "n": 64}, None),
        ({}, {"m": 2}, 1),
    ],
)
def test_no_more_tokens_than_the_context_holds_are_resumed(
    fields: dict[str, Any], contexts: dict[str, int], most: int | None
) -> None:
    message = resume(**fields)
    if most is None:
        assert read_request(message, no_seed, contexts).resume is not None
        return
    with pytest.raises(ContextExceededError, match=f"2 tokens are known of a generation that may have {most}"):
        read_request(message, no_seed, contexts)
