"""Sets of small numbers as the bits of an integer: thousands of chunks are compared in one go. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from osai.core.errors import BadFrameError


def of(numbers: Iterable[int]) -> int:
    """The set of these numbers, none of them negative."""
    data = bytearray()
    for number in numbers:
        byte = number >> 3
        if byte >= len(data):
            data.extend(bytes(byte + 1 - len(data)))
        data[byte] |= 1 << (number & 7)
    return int.from_bytes(data, "little")


def members(bits: int) -> Iterator[int]:
    """The numbers of a set, the least first."""
    for at, byte in enumerate(bits.to_bytes((bits.bit_length() + 7) // 8, "little")):
        if byte:
            yield from (8 * at + i for i in range(8) if byte >> i & 1)


def pack(bits: int) -> bytes:
    """A set as it crosses the wire: bit i % 8 of byte i / 8; no zero bytes at the end."""
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def unpack(data: bytes, count: int) -> int:
    """The set that a peer names, of numbers below `count`.

    Raises:
        BadFrameError: if it names others.
    """
    if len(data) > (count + 7) // 8 or (bits := int.from_bytes(data, "little")) >> count:
        raise BadFrameError(f"a set of chunks names more than the {count} that there are")
    return bits


def next_from(bits: int, start: int) -> int:
    """The least number of a set from `start` on; where there is none, the least of all. The set is not empty."""
    above = bits >> start
    return start + (above & -above).bit_length() - 1 if above else (bits & -bits).bit_length() - 1


def at_least(sets: Sequence[int]) -> list[int]:
    """By k: the numbers that k + 1 or more of the sets have."""
    levels: list[int] = []
    for one in sets:
        carried = one  # numbers that one more of the sets has than the levels so far say
        for k, level in enumerate(levels):
            levels[k], carried = level | carried, level & carried
        if carried:
            levels.append(carried)
    return levels
