"""The header of a safetensors file, read from bytes without trusting them.

Layout (huggingface/safetensors, README "Format"): 8 bytes little-endian length N, N bytes of JSON that map each
tensor's name to its dtype, shape and offsets into the data that follow, then the data without holes.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from osai.core.errors import WeightsError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # as the format's own reader has it
MAX_DIMS = 8  # no published tensor has more than 5
MAX_NAME_CHARS = 255
MAX_INT = 2**53 - 1  # what every JSON reader keeps exactly; 9 petabytes
# Bytes of one element. Types of less than a byte are left out: no layer computes in them.
ITEMSIZE: Mapping[str, int] = MappingProxyType(
    dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1)
    | dict.fromkeys(("I16", "U16", "F16", "BF16"), 2)
    | dict.fromkeys(("I32", "U32", "F32"), 4)
    | dict.fromkeys(("I64", "U64", "F64"), 8)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpan:
    """Where a tensor lies: bytes [begin, end) of the file. `dtype` as safetensors names it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def num_bytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes.

    Raises:
        WeightsError: if dtype or shape is not one that osai reads.
    """
    if dtype not in ITEMSIZE:
        raise WeightsError(f"dtype {dtype[:20]!r} is not supported; convert the tensor to one of {', '.join(ITEMSIZE)}")
    if len(shape) > MAX_DIMS or not all(0 <= size <= MAX_INT for size in shape):
        raise WeightsError(f"shape {list(shape)[: MAX_DIMS + 1]} is not one of at most {MAX_DIMS} sizes from 0 up")
    return math.prod(shape) * ITEMSIZE[dtype]


def read_length(prefix: bytes) -> int:
    """Length of the JSON that follows the file's first 8 bytes.

    Raises:
        WeightsError: if the bytes are cut short, or the length is zero or over MAX_HEADER_BYTES.
    """
    if len(prefix) < LENGTH_BYTES:
        raise WeightsError("shorter than a safetensors header; fetch the file again")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:  # noqa: PLR2004 (the two braces of an empty object)
        raise WeightsError(f"a header of {length} bytes is no safetensors header (at most {MAX_HEADER_BYTES})")
    return length


def parse_header(header: bytes, *, file_bytes: int) -> dict[str, TensorSpan]:
    """Read a header: where each tensor lies in the file.

    Args:
        header: the file's first bytes, as many as LENGTH_BYTES + `read_length` of them.
        file_bytes: size of the whole file, which the tensors must fill exactly.

    Raises:
        WeightsError: if it is cut short or no JSON, a field is wrong, or the tensors overlap, leave holes or miss the
            file's end.
    """
    if len(header) != LENGTH_BYTES + read_length(header):
        raise WeightsError("cut short within its header; fetch the file again")
    try:
        entries = json.loads(
            header[LENGTH_BYTES:].decode(), object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"its header is no safetensors header ({e}); fetch the file again") from e
    if not isinstance(entries, dict):
        raise WeightsError("its header is no JSON object; fetch the file again")
    base = len(header)
    spans = {name: _span(name, entry, base) for name, entry in entries.items() if name != "__metadata__"}
    end = base
    for name, span in sorted(spans.items(), key=lambda item: (item[1].begin, item[1].end)):
        if span.begin != end:
            raise WeightsError(f"tensor {name} begins at byte {span.begin}, not at {end}, where the last one ends")
        end = span.end
    if end != file_bytes:
        raise WeightsError(f"holds {file_bytes} bytes where its header says {end}; fetch the file again")
    return spans


def _span(name: str, entry: object, base: int) -> TensorSpan:
    """One checked entry; offsets in the file count from the end of the header, `base`."""
    if len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise WeightsError(f"a tensor's name is longer than {MAX_NAME_CHARS} characters or not printable")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"tensor {name}: its header entry has other fields than dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004
        raise WeightsError(f"tensor {name}: dtype, shape or data_offsets is of the wrong kind")
    try:
        num_bytes = num_bytes_of(dtype, tuple(shape))
    except WeightsError as e:
        raise WeightsError(f"tensor {name}: {e.message}", subject=name) from e
    begin, end = offsets
    if end - begin != num_bytes:
        raise WeightsError(f"tensor {name}: {end - begin} bytes where dtype and shape make {num_bytes}", subject=name)
    return TensorSpan(dtype=dtype, shape=tuple(shape), begin=base + begin, end=base + end)


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= MAX_INT for size in value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name is given twice")
    return fields


def _refuse(text: str) -> None:
    raise ValueError(f"{text[:20]} is no integer")
