"""How much a protobuf message would swell in memory, seen before it is parsed. Pure (B3 of docs/security.md).

Two bytes on the wire can be a message of 50 bytes in memory: within the limit on a message's bytes a peer could still
have this process allocate twenty times as much. What swells is counted first: parts (messages, texts, bytes) and packed
numbers. Bytes and texts themselves do not swell.
"""

from functools import cache
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from osai.core.errors import PeerError

SMALL_BYTES = 2**20  # of these nothing grows beyond 25 MiB: they are not looked through, decode frames among them
MAX_PARTS = 2**19  # 25 MiB in memory; a generation with 20 logprobs a token that fills a request has 400,000
MAX_PACKED_BYTES = 4 * 2**20  # of numbers in one field, each of which may take four times as much: a million token ids
MAX_DEPTH = 32  # messages of this contract are six deep; protobuf's own limit is 100

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # how a field lies on the wire
_WIRE = 7  # the bits of its key that say so
_MORE = 0x80  # the bit of a byte after which the number goes on
_MAX_VARINT_BITS = 70  # ten bytes of seven
_MALFORMED = "what came is no message: its fields do not fit into each other"


def check_bulk(data: bytes, descriptor: Any) -> None:  # noqa: ANN401 - two unrelated classes to mypy
    """Refuse bytes that would make too large a message.

    Args:
        data: the message's bytes.
        descriptor: of the kind that it is to be.

    Raises:
        PeerError: if it would be too large, or is no message at all.
    """
    if len(data) <= SMALL_BYTES:
        return
    try:
        _walk(data, 0, len(data), descriptor, MAX_PARTS, MAX_DEPTH)
    except IndexError as e:
        raise PeerError(_MALFORMED) from e


@cache
def _messages(descriptor: Descriptor) -> MappingProxyType[int, Descriptor]:
    """Fields that hold messages, by their numbers."""
    kinds = {field.number: field.message_type for field in descriptor.fields}
    return MappingProxyType({number: kind for number, kind in kinds.items() if kind is not None})


@cache
def _texts(descriptor: Descriptor) -> frozenset[int]:
    """Numbers of the fields that hold texts or bytes."""
    kinds = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return frozenset(field.number for field in descriptor.fields if field.type in kinds)


def _walk(data: bytes, at: int, end: int, descriptor: Descriptor, room: int, depth: int) -> int:
    """Go through the fields in data[at:end]; the room for parts that is left."""
    messages, texts = _messages(descriptor), _texts(descriptor)
    while at < end:
        key = data[at]  # mostly all of it: no call, of which there would be a million
        key, at = (key, at + 1) if key < _MORE else _varint(data, at)
        if key & _WIRE != _BYTES:
            at = _skipped(data, at, key & _WIRE)
            continue
        length = data[at]
        length, at = (length, at + 1) if length < _MORE else _varint(data, at)
        room -= 1
        if room < 0:
            raise PeerError(f"a message of more than {MAX_PARTS} parts is refused: send less at once")
        if length > end - at or depth == 0:
            raise PeerError(_MALFORMED)
        if (kind := messages.get(key >> 3)) is not None:
            room = _walk(data, at, at + length, kind, room, depth - 1)
        elif length > MAX_PACKED_BYTES and key >> 3 not in texts:
            raise PeerError(f"{length} bytes of numbers in one field are over the limit of {MAX_PACKED_BYTES}")
        at += length
    if at > end:
        raise PeerError(_MALFORMED)
    return room


def _skipped(data: bytes, at: int, wire: int) -> int:
    """Where a number ends."""
    if wire == _VARINT:
        return at + 1 if data[at] < _MORE else _varint(data, at)[1]
    if wire not in (_FIXED32, _FIXED64):  # groups, which no message of this contract has
        raise PeerError(_MALFORMED)
    return at + (4 if wire == _FIXED32 else 8)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value, shift = data[at], 7
    if value < _MORE:  # nearly always
        return value, at + 1
    value &= _MORE - 1
    while shift < _MAX_VARINT_BITS:
        at += 1
        byte = data[at]
        value |= (byte & (_MORE - 1)) << shift
        if byte < _MORE:
            return value, at + 1
        shift += 7
    raise PeerError(_MALFORMED)
