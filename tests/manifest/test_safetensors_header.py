"""Headers of safetensors files: as the format's own writer makes them, and as nobody should."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from osai.core.errors import WeightsError
from osai.core.safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES, TensorSpan, parse_header, read_length


def parse_file(data: bytes) -> dict[str, TensorSpan]:
    length = read_length(data[:LENGTH_BYTES])
    return parse_header(data[: LENGTH_BYTES + length], file_bytes=len(data))


def file_of(header: object, num_data_bytes: int = 0) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + bytes(num_data_bytes)


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.ones(5, dtype=torch.bfloat16),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "f8": torch.ones(3).to(torch.float8_e4m3fn),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    data = (tmp_path / "x.safetensors").read_bytes()
    spans = parse_file(data)
    assert spans.keys() == tensors.keys()
    assert (spans["a"].dtype, spans["b"].dtype, spans["f8"].dtype) == ("F32", "BF16", "F8_E4M3")
    for name, tensor in tensors.items():
        span = spans[name]
        assert span.shape == tuple(tensor.shape)
        assert data[span.begin : span.end] == tensor.flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "shorter than"),
        (b"\0" * 7, "shorter than"),
        (b"\0" * 8, "header of 0 bytes"),
        (b"\xff" * 8, "is no safetensors header"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "is no safetensors header"),
        (b"\x10" + b"\0" * 7 + b"{}", "cut short within its header"),
        (file_of([]), "no JSON object"),
        (b"\x04" + b"\0" * 7 + b"\xff{}\xff", "no safetensors header"),
        (file_of({"a": 1}), "other fields"),
        (file_of({"a": {"dtype": "F32"}}), "other fields"),
        (file_of({"a": entry() | {"x": 1}}), "other fields"),
        (file_of({"a": entry(dtype=3)}), "wrong kind"),
        (file_of({"a": entry(shape=[-2])}), "wrong kind"),
        (file_of({"a": entry(shape=[True])}), "wrong kind"),
        (file_of({"a": entry(shape=[2.0])}), "is no integer"),
        (file_of({"a": entry(offsets=[0])}), "wrong kind"),
        (file_of({"a": entry(offsets=[0, 8, 9])}), "wrong kind"),
        (file_of({"a": entry(dtype="F128")}), "tensor a: dtype 'F128' is not supported"),
        (file_of({"a": entry(shape=[1] * 9)}), "tensor a: shape"),
        (file_of({"a": entry(offsets=[8, 0])}, 8), "-8 bytes where dtype and shape make 8"),
        (file_of({"a": entry(shape=[2**50, 2**50])}, 8), "8 bytes where dtype and shape make"),
        (file_of({"a": entry(), "b": entry(offsets=[4, 12])}, 12), "tensor b begins at"),
        (file_of({"a": entry(), "b": entry(offsets=[12, 20])}, 20), "tensor b begins at"),
        (file_of({"a": entry()}, 7), "holds .* bytes where its header says"),
        (file_of({"a": entry()}, 9), "holds .* bytes where its header says"),
        (file_of({"a" * 300: entry()}, 8), "name is longer"),
        (file_of({"\ud800": entry()}, 8), "not printable"),
    ],
)
def test_what_is_no_header_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        parse_file(data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a":' * 200_000, "no safetensors header"),
        (b'{"a":{"dtype":"F32","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,8]}}', "no safetensors header"),
        (b'{"a":{},"a":{}}', "given twice"),
    ],
    ids=["deep", "digits", "twice"],
)
def test_header_bombs_are_refused(text: bytes, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        parse_file(len(text).to_bytes(LENGTH_BYTES, "little") + text)


@given(st.data())
def test_a_damaged_header_gives_a_typed_error_or_spans_inside_the_file(data: st.DataObject) -> None:
    file = bytearray(save({"a": torch.zeros(2, 3), "b.c": torch.zeros(4, dtype=torch.int8)}))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        spans = parse_file(bytes(file))
    except WeightsError as e:
        e.to_proto()
        return
    assert all(LENGTH_BYTES <= span.begin <= span.end <= len(file) for span in spans.values())
