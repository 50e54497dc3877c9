"""JSON from bytes that nobody vouches for: no field twice, no floats, exact fields and types. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from osai.core.errors import TrustError

Fields = Mapping[str, type]


def parse_json(what: str, data: bytes, max_bytes: int) -> object:
    """The value in `data`; its numbers are integers.

    Args:
        what: the thing it is said to be, for messages: "revocation list".
        data: UTF-8 JSON.
        max_bytes: more are refused unread.

    Raises:
        TrustError: if it is oversized, no JSON, gives a field twice or holds a number that is no integer.
    """
    if len(data) > max_bytes:
        raise TrustError(f"a {what} of {len(data)} bytes is over the limit of {max_bytes}")
    try:
        value: object = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as e:  # ValueError is also bad UTF-8 and a number of too many digits
        raise TrustError(f"the {what} is damaged, or no {what}: {e}") from e
    return value


def fields_of(what: str, value: object, fields: Fields) -> dict[str, Any]:
    """`value` if it is an object of exactly these fields and types. A bool is no integer.

    Raises:
        TrustError: if it is not.
    """
    if not isinstance(value, dict):
        raise TrustError(f"a {what} is a JSON object; something else came")
    if value.keys() != fields.keys():
        odd = min(value.keys() ^ fields.keys())
        raise TrustError(f"{what}: field {odd[:80]!r} is {'unknown' if odd in value else 'missing'}")
    for name, kind in fields.items():
        if type(value[name]) is not kind:
            raise TrustError(f"{what}: field {name!r} is of the wrong type")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is given twice")
    return fields


def _refuse(text: str) -> None:
    raise ValueError(f"{text[:20]} is no integer")
