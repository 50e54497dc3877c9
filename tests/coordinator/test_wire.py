"""The coordinator's side of the edge and of records: what is written is read back, what is wrong is refused."""

import math
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from osai.coordinator.sessions.actions import TokenEvent
from osai.coordinator.swarm import NodeState, SpanState
from osai.coordinator.wire import read_node, read_token, write_sampling
from osai.core.errors import InvalidRequestError, PeerError
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.proto import common_pb2, edge_pb2, record_pb2

SAMPLING = SamplingParams(
    temperature=0.7, top_k=40, top_p=0.9, min_p=0.05, presence_penalty=-0.5, frequency_penalty=0.25, seed=2**64 - 1,
    num_logprobs=0, repetition_penalty=1.3,
)  # fmt: skip


def span_record(**fields: Any) -> record_pb2.SpanRecord:  # noqa: ANN401 - of any field
    values = {"model_id": "m", "manifest_digest": b"d", "dtype": "float32", "state": "ready", "verified": True}
    more = {"num_free_kv_tokens": 64, "step_time_s": 0.25, "failure": "none yet", "span": {"start": 2, "end": 4}}
    return record_pb2.SpanRecord(**{**values, **more, **fields})


def record(*spans: record_pb2.SpanRecord, **fields: Any) -> record_pb2.NodeRecord:  # noqa: ANN401 - of any field
    values = {"node_id": "a", "edge_address": "a:1", "name": "the a", "software": "osai/9", "device": "cpu"}
    more = {"memory_bytes": 7, "state": "ready", "sequence": 2**63, "num_sessions": 3, "started_at_s": 1.5}
    return record_pb2.NodeRecord(spans=spans, **{**values, **more, **fields})


def test_a_record_is_read_whole() -> None:
    assert read_node(record(span_record())) == NodeState(
        node_id="a",
        address="a:1",
        name="the a",
        software="osai/9",
        device="cpu",
        memory_bytes=7,
        state="ready",
        sequence=2**63,
        num_sessions=3,
        started_at_s=1.5,
        spans=(
            SpanState(
                model_id="m",
                layers=LayerRange(2, 4),
                manifest_digest=b"d",
                dtype="float32",
                state="ready",
                verified=True,
                num_free_kv_tokens=64,
                step_time_s=0.25,
                failure="none yet",
            ),
        ),
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (record(node_id=""), "an id and an address"),
        (record(edge_address=""), "an id and an address"),
        (record(span_record(), span_record(span={"start": 4, "end": 6})), "two spans of one model"),
        (record(span_record(step_time_s=math.nan)), "take nan s"),
        (record(span_record(step_time_s=math.inf)), "take inf s"),
        (record(span_record(step_time_s=-1.0)), "take -1.0 s"),
        (record(started_at_s=math.nan), "started at nan s"),
        (record(started_at_s=-math.inf), "started at -inf s"),
    ],
)
def test_records_that_make_no_sense_are_refused(wrong: record_pb2.NodeRecord, words: str) -> None:
    """A step time of NaN used to win every route, and two spans of one node made pipelines that it can't open."""
    with pytest.raises(PeerError, match=words):
        read_node(wrong)


@pytest.mark.parametrize("layers", [{}, {"start": 3, "end": 3}, {"start": 4, "end": 3}])
def test_a_record_with_an_empty_span_is_refused(layers: dict[str, int]) -> None:
    with pytest.raises(InvalidRequestError, match="empty or negative"):
        read_node(record(span_record(span=layers)))


@given(data=st.binary(max_size=200))
def test_any_record_that_parses_is_read_or_refused(data: bytes) -> None:
    message = record_pb2.NodeRecord()
    with suppress(DecodeError, PeerError, InvalidRequestError):
        message.ParseFromString(data)
        assert read_node(message).node_id == message.node_id


def test_tokens_are_read_with_and_without_logprobs() -> None:
    plain = edge_pb2.Token(session=9, epoch=2, index=3, token=common_pb2.SampledToken(token_id=7))
    assert read_token(plain) == TokenEvent(epoch=2, index=3, token_id=7)
    top = [common_pb2.TokenLogprob(token_id=7, logprob=-0.5), common_pb2.TokenLogprob(token_id=8, logprob=-1.5)]
    sampled = common_pb2.SampledToken(token_id=7, logprob=0.0, top=top)
    for finish, name in [(common_pb2.FINISH_REASON_STOP, "stop"), (common_pb2.FINISH_REASON_LENGTH, "length")]:
        told = read_token(edge_pb2.Token(epoch=2, index=3, token=sampled, finish=finish))
        assert told == TokenEvent(epoch=2, index=3, token_id=7, logprob=0.0, top=((7, -0.5), (8, -1.5)), finish=name)


def test_sampling_crosses_whole() -> None:
    message = write_sampling(SAMPLING)
    read = {field.name: value for field, value in message.ListFields()}
    assert SamplingParams(**read) == SAMPLING
    assert not write_sampling(SamplingParams()).HasField("num_logprobs")
