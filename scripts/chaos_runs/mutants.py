"""Messages of the wire contract, drawn from their descriptors and damaged: what a peer without rules may send."""

from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = (0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1, -1, -(2**63))
FLOATS = (0.0, 1.0, -1.0, 1e-30, 1e300, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "a", "x" * 300, "..", "127.0.0.1:1", "\x00", "é" * 50, "me/model", "osai1.x")
MAX_REPEATED = 4
MAX_DEPTH = 3


def drawn(message: Message, random: Random, depth: int = 0) -> Message:
    """Fill most of a message's fields with values of their types, sane and not; of a oneof, one field."""
    oneofs: list[Any] = list(message.DESCRIPTOR.oneofs)
    chosen = {oneof.name: random.choice(oneof.fields).name for oneof in oneofs}
    for field in message.DESCRIPTOR.fields:
        oneof = field.containing_oneof
        if random.random() < (0.1 if depth == 0 else 0.5) or (oneof is not None and chosen[oneof.name] != field.name):
            continue
        if field.message_type is not None:
            if depth < MAX_DEPTH:
                _draw_message(field, message, random, depth)
        elif field.is_repeated:
            values = [_value(field, random) for _ in range(random.randrange(MAX_REPEATED))]
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, _value(field, random))
    return message


def _draw_message(field: Any, message: Message, random: Random, depth: int) -> None:  # noqa: ANN401
    target = getattr(message, field.name)
    if field.message_type.GetOptions().map_entry:  # of numbers, wherever there is one
        key, value = field.message_type.fields
        for _ in range(random.randrange(MAX_REPEATED)):
            target[_value(key, random)] = _value(value, random)
    elif field.is_repeated:
        for _ in range(random.randrange(MAX_REPEATED)):
            drawn(target.add(), random, depth + 1)
    else:
        target.SetInParent()
        drawn(target, random, depth + 1)


def _value(field: Any, random: Random) -> Any:  # noqa: ANN401 - a descriptor of either kind, a value of its type
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return random.choice(FLOATS)
    if field.enum_type is not None:
        return random.choice([value.number for value in field.enum_type.values] + [99, 2**31 - 1])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random.randbytes(random.choice((0, 1, 15, 16, 32, 33, 200)))
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return random.choice(TEXTS)
    bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    signed = kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return random.choice([value for value in INTEGERS if low <= value <= high])


def damaged(data: bytes, random: Random) -> bytes:
    """`data`, changed in a few places: bits, bytes left out or put in, the end cut off."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed)) if changed else 0
        match random.randrange(5):
            case 0 if changed:
                changed[at] ^= 1 << random.randrange(8)
            case 1 if changed:
                del changed[at : at + random.randint(1, 8)]
            case 2:
                changed[at:at] = random.randbytes(random.randint(1, 6))
            case 3 if changed and random.random() < 0.2:
                del changed[at:]
            case _ if changed:
                changed[at] = random.randrange(256)
    return bytes(changed)
