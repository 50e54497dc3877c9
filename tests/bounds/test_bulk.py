"""What would swell in memory is refused before it is parsed; what is sound never is."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.chaos_runs.mutants import damaged, drawn
from scripts.chaos_runs.wire_bytes import field, varint

from osai.core import bulk
from osai.core.bulk import MAX_PACKED_BYTES, MAX_PARTS, check_bulk
from osai.core.errors import PeerError
from osai.proto import admission_pb2, client_pb2, common_pb2, control_pb2, edge_pb2, record_pb2

KINDS: tuple[type[Message], ...] = (
    admission_pb2.EnrolRequest,
    client_pb2.GenerateRequest,
    control_pb2.CoordinatorMessage,
    control_pb2.NodeMessage,
    edge_pb2.LinkMessage,
    record_pb2.SignedRecord,
)
kinds = st.sampled_from(KINDS)


@pytest.fixture(autouse=True, scope="module")
def all_are_looked_through() -> Iterator[None]:
    """Small ones too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "SMALL_BYTES", -1)
        yield


@settings(max_examples=150)
@given(kind=kinds, random=st.randoms(use_true_random=False))
def test_a_sound_message_is_let_through(kind: type[Message], random: object) -> None:
    message = drawn(kind(), random)  # type: ignore[arg-type]
    check_bulk(message.SerializeToString(), kind.DESCRIPTOR)


@settings(max_examples=300)
@given(kind=kinds, random=st.randoms(use_true_random=False))
def test_a_damaged_message_is_refused_by_a_typed_error_or_left_to_protobuf(kind: type[Message], random: object) -> None:
    data = damaged(drawn(kind(), random).SerializeToString(), random)  # type: ignore[arg-type]
    with suppress(PeerError, DecodeError):
        check_bulk(data, kind.DESCRIPTOR)
        kind.FromString(data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (client_pb2.GenerateRequest, field(4, b"\x0a\x00" * (MAX_PARTS + 1))),  # chat messages
        (client_pb2.GenerateRequest, field(10, b"\x22\x00" * (MAX_PARTS + 1))),  # tokens that are resumed with
        (edge_pb2.LinkMessage, field(2, b"\x0a\x00" * (MAX_PARTS + 1))),  # frames
        (edge_pb2.LinkMessage, field(3, b"\x62\x00" * (MAX_PARTS + 1))),  # block hashes
        (edge_pb2.LinkMessage, field(99, b"\x62\x00") * (MAX_PARTS + 1)),  # what is not known here
        (edge_pb2.LinkMessage, field(2, field(3, b"\1" * (MAX_PACKED_BYTES + 1)))),  # a shape
    ],
)
def test_what_would_swell_is_refused(kind: type[Message], data: bytes) -> None:
    with pytest.raises(PeerError, match=r"more than|over the limit"):
        check_bulk(data, kind.DESCRIPTOR)


def test_the_largest_honest_messages_are_let_through() -> None:
    frames = [edge_pb2.Frame(session=2**63, epoch=1, position=i, count=1) for i in range(4096)]
    batch = edge_pb2.FrameBatch(frames=frames, shape=[4096, 4], dtype=common_pb2.DTYPE_FLOAT32, data=bytes(2**20))
    check_bulk(edge_pb2.LinkMessage(frames=batch).SerializeToString(), edge_pb2.LinkMessage.DESCRIPTOR)
    million = edge_pb2.OpenSession(prompt_token_ids=range(0, 2**20, 7), block_hashes=[b"h" * 16] * 2**16)
    check_bulk(edge_pb2.LinkMessage(open=million).SerializeToString(), edge_pb2.LinkMessage.DESCRIPTOR)


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05ab", b"\x08", b"\x08" + b"\xff" * 11, b"\x09abc", b"\x0b\x0c", field(2, field(1, b"\x0a\x7f"))],
)
def test_what_does_not_fit_into_itself_is_refused(data: bytes) -> None:
    with pytest.raises(PeerError, match="no message"):
        check_bulk(data, edge_pb2.LinkMessage.DESCRIPTOR)


def test_depth_is_bounded() -> None:
    """No message of ours nests; one of a descriptor's own kind could for ever."""
    nested = b""
    for _ in range(200):
        nested = field(3, nested)
    from google.protobuf.descriptor_pb2 import DescriptorProto

    with pytest.raises(PeerError):
        check_bulk(nested, DescriptorProto.DESCRIPTOR)


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_read_as_they_are_written(number: int) -> None:
    written = varint(number)
    assert bulk._varint(written + b"rest", 0) == (number, len(written))
