"""Protobuf's bytes by hand, for messages that no library would write."""


def varint(number: int) -> bytes:
    """A number of variable length."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, data: bytes) -> bytes:
    """A field that holds bytes: a text, a message, packed numbers."""
    return varint(number << 3 | 2) + varint(len(data)) + data
