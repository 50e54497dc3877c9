"""What readers take of a message has bounds, and one step over them is refused by a typed error, in few words."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from coordinator.test_wire import record, span_record
from node.fake_engine import MIDDLE, NEXT, hidden, open_session, rows
from osai.coordinator import control_service
from osai.coordinator.client_wire import MAX_CHAT_MESSAGES, MAX_PROMPT_TOKENS, read_request
from osai.coordinator.roster import MAX_NAMED, Roster
from osai.coordinator.wire import MAX_SPANS, MAX_TEXT_CHARS, read_node, read_token
from osai.core.errors import MAX_TOLD_CHARS, BadFrameError, InvalidRequestError, OsaiError, PeerError, from_proto
from osai.core.frames import MAX_SESSIONS_PER_BATCH, FrameShape, check_batch
from osai.core.protocol import PROTOCOL_VERSION, check_hello
from osai.core.sampling import MAX_LOGPROBS
from osai.node.control_wire import read_assignment
from osai.node.stages.held_rows import HeldRows
from osai.node.stages.stage import Peer
from osai.node.wire import MAX_TOTAL_TOKENS, read_follow, read_open, read_resume, write_batch
from osai.proto import client_pb2, common_pb2, control_pb2, edge_pb2, record_pb2

LONG = "x" * 100_000
FAR = common_pb2.Stage(node_id="n", address=LONG)
MAX_WORDS = 400  # of a refusal: what is too long is not repeated


def opened(**fields: Any) -> Callable[[], object]:  # noqa: ANN401 - of any field
    return lambda: read_open(open_session(1, MIDDLE, NEXT, **fields))


def generated(**fields: Any) -> Callable[[], object]:  # noqa: ANN401 - of any field
    return lambda: read_request(client_pb2.GenerateRequest(**fields), lambda: 1)


def told(*spans: record_pb2.SpanRecord, **fields: Any) -> Callable[[], object]:  # noqa: ANN401 - of any field
    return lambda: read_node(record(*spans, **fields))


def drawn(**fields: Any) -> Callable[[], object]:  # noqa: ANN401 - of any field
    return lambda: read_token(edge_pb2.Token(token=common_pb2.SampledToken(**fields)))


def delays(node_id: str) -> list[record_pb2.PeerDelay]:
    return [record_pb2.PeerDelay(node_id=node_id, delay_s=1)]


OVER: list[tuple[Callable[[], object], type[OsaiError]]] = [
    (opened(model_id=LONG), InvalidRequestError),
    (opened(predecessor=LONG), InvalidRequestError),
    (lambda: read_open(open_session(1, MIDDLE, Peer(node_id="n", address=LONG))), InvalidRequestError),
    (opened(manifest_digest=bytes(65)), InvalidRequestError),
    (opened(max_total_tokens=MAX_TOTAL_TOKENS + 1), InvalidRequestError),
    (opened(stop_token_ids=range(5000)), InvalidRequestError),
    (opened(prompt_token_ids=range(11)), InvalidRequestError),  # of 10 tokens in all
    (opened(block_hashes=[b""] * 100_000), InvalidRequestError),
    (lambda: read_resume(edge_pb2.ResumeSession(follower=FAR)), InvalidRequestError),
    (lambda: read_follow(edge_pb2.FollowSession(follower=FAR)), InvalidRequestError),
    (lambda: read_assignment(control_pb2.Assignment(model_id=LONG)), InvalidRequestError),
    (lambda: read_assignment(control_pb2.Assignment(source=LONG)), InvalidRequestError),
    (lambda: check_hello(common_pb2.Hello(protocol_version=1, peer_id=LONG)), PeerError),
    (lambda: check_hello(common_pb2.Hello(protocol_version=99, software=LONG)), PeerError),
    (generated(prompt="x", model_id=LONG), InvalidRequestError),
    (generated(token_ids={"ids": range(MAX_PROMPT_TOKENS + 1)}), InvalidRequestError),
    (generated(chat={"messages": [{}] * (MAX_CHAT_MESSAGES + 1)}), InvalidRequestError),
    (generated(prompt="x", stop=["s"] * 5000), InvalidRequestError),
    (generated(prompt="x", stop_token_ids=range(5000)), InvalidRequestError),
    (told(node_id=LONG), PeerError),
    (told(edge_address=LONG), PeerError),
    (told(state=LONG), PeerError),
    (told(delays=delays(LONG)), PeerError),
    (told(started_at_s=1e300), PeerError),
    (told(*[span_record(model_id=str(i)) for i in range(MAX_SPANS + 1)]), PeerError),
    (told(span_record(model_id=LONG)), PeerError),
    (told(span_record(dtype=LONG)), PeerError),
    (told(span_record(manifest_digest=bytes(1000))), PeerError),
    (told(span_record(span={"start": 0, "end": 10_001})), PeerError),
    (told(span_record(next={"start": 0, "end": 2**32 - 1})), PeerError),
    (drawn(token_id=2**31), PeerError),
    (drawn(top=[{"token_id": 2**31}]), PeerError),
    (drawn(top=[{}] * (MAX_LOGPROBS + 1)), PeerError),
    (drawn(logprob=float("nan")), PeerError),
    (drawn(top=[{"logprob": float("nan")}]), PeerError),
]


@pytest.mark.parametrize(("read", "error_type"), OVER)
def test_one_too_many_is_refused_in_few_words(read: Callable[[], object], error_type: type[OsaiError]) -> None:
    with pytest.raises(error_type) as caught:
        read()
    assert len(caught.value.message) < MAX_WORDS


def test_what_is_within_the_bounds_is_taken() -> None:
    spans = [span_record(model_id=str(i), span={"start": 0, "end": 10_000}) for i in range(MAX_SPANS)]
    assert len(read_node(record(*spans)).spans) == MAX_SPANS
    assert read_open(open_session(1, MIDDLE, NEXT, max_total_tokens=MAX_TOTAL_TOKENS)).max_total_tokens == 2**24
    assert read_token(edge_pb2.Token(token=common_pb2.SampledToken(token_id=2**31 - 1))).token_id == 2**31 - 1
    assert check_hello(common_pb2.Hello(protocol_version=1, newest_version=99, software=LONG)) == PROTOCOL_VERSION


def test_what_is_for_people_is_cut() -> None:
    node = read_node(record(span_record(failure=LONG), name=LONG, software=LONG, device=LONG))
    texts = (node.name, node.software, node.device, node.spans[0].failure)
    assert texts == (LONG[:MAX_TEXT_CHARS],) * 4
    error = from_proto(common_pb2.Error(code=common_pb2.ERROR_CODE_BAD_FRAME, message=LONG, subject=LONG))
    assert (error.message, error.subject) == (LONG[:MAX_TOLD_CHARS], LONG[:255])


def test_wishes_are_counted_and_measured() -> None:
    for join in (
        control_pb2.Join(wishes=[control_pb2.Wish()] * 257),
        control_pb2.Join(wishes=[control_pb2.Wish(model_id=LONG)]),
        control_pb2.Join(dtype=LONG),
    ):
        with pytest.raises(PeerError):
            control_service._read_wishes(join)
    assert len(control_service._read_wishes(control_pb2.Join(wishes=[control_pb2.Wish()] * 256))) == 256


def test_clients_are_told_of_so_many_coordinators_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """In a public swarm anybody may say that he is one."""
    caplog.set_level(logging.WARNING)
    roster = Roster("me")
    said = {
        f"{i:032x}": record_pb2.CoordinatorRecord(coordinator_id=f"{i:032x}", grpc_address=f"h:{i}") for i in range(999)
    }
    said["far"] = record_pb2.CoordinatorRecord(coordinator_id="far", grpc_address=LONG)
    roster.read({name: one.SerializeToString() for name, one in said.items()})
    told = roster.addresses("own:1")
    assert told[0] == "own:1"
    assert len(told) == MAX_NAMED
    assert max(map(len, told)) < 10


SHAPE = FrameShape(dtype=common_pb2.DTYPE_FLOAT32, hidden_size=4)


def test_a_shape_of_a_million_sizes_is_not_told_back() -> None:
    """It used to be, all of it: a message of a megabyte got one of several in return."""
    message = write_batch([rows()], hidden(3))
    message.frames.shape.extend([1] * 2**20)
    with pytest.raises(BadFrameError, match="shape has 1048578 sizes") as caught:
        check_batch(message.frames, SHAPE)
    assert len(caught.value.message) < MAX_WORDS


@pytest.mark.parametrize("count", [0, MAX_SESSIONS_PER_BATCH + 1])
def test_a_batch_of_none_or_too_many_frames_is_refused(count: int) -> None:
    with pytest.raises(BadFrameError, match=f"batch of {count} frames"):
        check_batch(edge_pb2.FrameBatch(frames=[edge_pb2.Frame(count=1)] * count), SHAPE)


def test_rows_that_are_held_keep_nothing_else_of_their_batch() -> None:
    """A view would: one row that waits kept 48 MiB, and counted as one row."""
    held, batch = HeldRows(), hidden(1000)
    held.add(rows(1, count=1), batch[5:6], None)
    ((_, data, _),) = held.take(1)
    assert data.untyped_storage().nbytes() == data.nbytes
    assert data.tolist() == batch[5:6].tolist()
