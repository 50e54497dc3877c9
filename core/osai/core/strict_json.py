"""JSON from bytes that nobody vouches for: one meaning for each file, and nothing that is not expected. Pure."""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from osai.core.errors import TrustError

T = TypeVar("T", int, str, dict[str, Any])
Fields = Mapping[str, type | tuple[type, ...]]
"""The fields that an object must have, and of which types."""

_PLURALS = MappingProxyType({int: "integers", str: "strings", dict: "objects"})
_HEX = re.compile(r"([0-9a-f]{2})*")


def read_json(what: str, data: bytes, max_bytes: int) -> object:
    """A file's value: no number in it is other than an integer, no field is given twice.

    Raises:
        TrustError: if it is over `max_bytes`, or no such JSON.
    """
    if len(data) > max_bytes:
        raise TrustError(f"a {what} of {len(data)} bytes is over the limit of {max_bytes}")
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError) as e:  # ValueError is also bad UTF-8 and a number of too many digits
        raise TrustError(f"the {what} is damaged, or no {what}: {e}") from e


def fields_of(what: str, value: object, fields: Fields) -> dict[str, Any]:
    """`value` if it is an object of exactly these fields and types. A bool is no integer.

    Raises:
        TrustError: naming the field.
    """
    if not isinstance(value, dict):
        raise TrustError(f"{what} is no JSON object")
    if value.keys() != fields.keys():
        odd = min(value.keys() ^ fields.keys())
        raise TrustError(f"{what}: field {odd[:80]!r} is {'unknown' if odd in value else 'missing'}")
    for name, kind in fields.items():
        if type(value[name]) not in (kind if isinstance(kind, tuple) else (kind,)):
            raise TrustError(f"{what}: field {name!r} is of the wrong type")
    return value


def list_of(kind: type[T], what: str, values: list[object]) -> tuple[T, ...]:
    """The values, all of one type. A bool is no integer.

    Raises:
        TrustError: if one is not.
    """
    listed: list[T] = [value for value in values if type(value) is kind]
    if len(listed) != len(values):
        raise TrustError(f"{what} is no list of {_PLURALS[kind]}")
    return tuple(listed)


def bytes_of(what: str, text: str, num_bytes: int) -> bytes:
    """Bytes from lower-case hex.

    Raises:
        TrustError: if they are not so many.
    """
    if len(text) != 2 * num_bytes or _HEX.fullmatch(text) is None:
        raise TrustError(f"{what} is not {2 * num_bytes} lower-case hex digits")
    return bytes.fromhex(text)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is given twice")
    return fields


def _refuse(text: str) -> None:
    raise ValueError(f"{text[:20]} is no integer")
