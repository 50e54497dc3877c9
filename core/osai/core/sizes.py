"""Sizes of memory as people write them."""

import re

from osai.core.errors import SetupError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_bytes(text: str) -> int:
    """Read a size such as `800M`, `4GiB`, `1.5g` or plain bytes; units are powers of 1024.

    Raises:
        SetupError: if it has another form or is zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if match is None or not (size := int(float(match[1]) * _UNITS[match[2]])):
        raise SetupError(f"{text!r} is no size; write it as 800M or 4GiB")
    return size
