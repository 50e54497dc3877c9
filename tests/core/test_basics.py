"""Layers, errors, sampling bounds, hello, records, frames, model facts."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core import errors
from osai.core.addresses import reachable_host
from osai.core.directory import to_multiaddr
from osai.core.errors import (
    BadFrameError,
    InvalidRequestError,
    OsaiError,
    ProtocolMismatchError,
    SetupError,
    TrustError,
    WeightsError,
    from_proto,
)
from osai.core.frames import FrameShape, check_batch
from osai.core.identity import Identity, node_id_of, verify
from osai.core.layers import LayerRange
from osai.core.model import ModelFacts
from osai.core.protocol import PROTOCOL_VERSION, check_hello, hello
from osai.core.records import NODES_KEY, seal, unseal
from osai.core.sampling import SamplingParams
from osai.core.sizes import parse_bytes
from osai.core.state import load_identity
from osai.proto import common_pb2, edge_pb2


def all_errors(root: type[OsaiError] = OsaiError) -> list[type[OsaiError]]:
    return [root, *(found for child in root.__subclasses__() for found in all_errors(child))]


def test_every_error_code_has_one_type_that_crosses_the_wire() -> None:
    for code in common_pb2.ErrorCode.values()[1:]:
        error = from_proto(common_pb2.Error(code=code, message="m", subject="s"))
        assert (error.code, error.message, error.subject) == (code, "m", "s")
    assert type(from_proto(common_pb2.Error(code=9999))) is errors.InternalError  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "3", "3:", ":3", "3:3", "4:3", "-1:3", "a:b", "0:1:2"])
def test_a_bad_layer_range_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="START:END"):
        LayerRange.parse(text)


@given(st.integers(0, 200), st.integers(1, 200))
def test_layer_ranges_round_trip(start: int, size: int) -> None:
    layers = LayerRange.parse(f"{start}:{start + size}")
    assert (str(layers), len(layers)) == (f"{start}:{start + size}", size)
    assert start in layers
    assert start + size not in layers


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("top_k", -1), ("top_p", 0.0),
     ("top_p", 1.1), ("min_p", 2.0), ("repetition_penalty", 0.0), ("presence_penalty", 3.0), ("seed", -1),
     ("seed", 2**64), ("num_logprobs", 21)],
)  # fmt: skip
def test_sampling_parameters_out_of_bounds_are_named(name: str, value: float) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(InvalidRequestError, match=name):
        SamplingParams(**arguments)


def test_a_peer_of_another_version_is_refused_with_both_versions_named() -> None:
    check_hello(hello("me"))
    for version in (0, PROTOCOL_VERSION + 1):
        with pytest.raises(ProtocolMismatchError, match=f"osai/9 speaks protocol {version}, .*upgrade"):
            check_hello(common_pb2.Hello(protocol_version=version, software="osai/9"))


def test_an_identity_is_kept_in_its_folder(tmp_path: Path) -> None:
    first = load_identity(tmp_path / "state")
    assert load_identity(tmp_path / "state").node_id == first.node_id == node_id_of(first.public_key)
    assert (tmp_path / "state" / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert verify(first.public_key, first.sign(b"x"), b"x")
    assert not verify(first.public_key, first.sign(b"x"), b"y")
    (tmp_path / "state" / "identity.pem").write_text("no key")
    with pytest.raises(SetupError, match="move it away"):
        load_identity(tmp_path / "state")


def test_a_sealed_record_opens_under_its_own_key_and_id_until_it_expires() -> None:
    me, other = Identity.generate(), Identity.generate()
    sealed = seal(me, NODES_KEY, b"payload", expiry_s=100.0)
    assert unseal(sealed, NODES_KEY, me.node_id, now_s=99.0) == b"payload"
    for key, subkey, now_s, reason in (
        (NODES_KEY, me.node_id, 100.0, "expired"),
        (NODES_KEY, other.node_id, 99.0, "not its signer's"),
        ("another", me.node_id, 99.0, "signature is wrong"),
    ):
        with pytest.raises(TrustError, match=reason):
            unseal(sealed, key, subkey, now_s)


@given(st.data())
def test_a_tampered_record_never_opens(data: st.DataObject) -> None:
    me = Identity.generate()
    sealed = bytearray(seal(me, NODES_KEY, b"payload", expiry_s=100.0))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    try:
        opened = unseal(bytes(sealed), NODES_KEY, me.node_id, now_s=0.0)
    except TrustError:
        return
    assert opened == b"payload"  # an unknown field was added: nothing that is signed has changed


HIDDEN = FrameShape(dtype=common_pb2.DTYPE_BFLOAT16, hidden_size=4)
TOKENS = FrameShape(dtype=common_pb2.DTYPE_INT32, hidden_size=None)


def batch(**changes: object) -> edge_pb2.FrameBatch:
    fields: dict[str, object] = {
        "frames": [edge_pb2.Frame(session=1, count=2), edge_pb2.Frame(session=2, count=1)],
        "dtype": common_pb2.DTYPE_BFLOAT16,
        "shape": [3, 4],
        "data": bytes(24),
    }
    return edge_pb2.FrameBatch(**(fields | changes))  # type: ignore[arg-type]


def test_good_batches_pass() -> None:
    check_batch(batch(), HIDDEN)
    check_batch(batch(dtype=common_pb2.DTYPE_INT32, shape=[3], data=bytes(12)), TOKENS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"frames": []}, "0 frames"),
        ({"dtype": common_pb2.DTYPE_FLOAT32}, "dtype is DTYPE_FLOAT32; this stage takes DTYPE_BFLOAT16"),
        ({"dtype": 77}, "dtype is 77"),
        ({"shape": [3, 5]}, r"shape is \(3, 5\)"),
        ({"shape": [4, 4]}, r"ask for \(3, 4\)"),
        ({"shape": [12]}, r"shape is \(12,\)"),
        ({"data": bytes(23)}, "carries 23 bytes; its shape asks for 24"),
        ({"frames": [edge_pb2.Frame(count=3), edge_pb2.Frame(count=0)]}, "counts"),
    ],
)
def test_bad_batches_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadFrameError, match=reason):
        check_batch(batch(**changes), HIDDEN)


def test_model_facts_of_a_wrapped_text_model() -> None:
    text = {"num_hidden_layers": 6, "hidden_size": 64, "vocab_size": 384, "max_position_embeddings": 512,
            "num_attention_heads": 4, "num_key_value_heads": 2, "dtype": "bfloat16"}  # fmt: skip
    facts = ModelFacts.from_config({"architectures": ["Wrapped"], "text_config": text}, {"eos_token_id": [2, 3]})
    assert (facts.num_layers, facts.hidden_size, facts.max_context) == (6, 64, 512)
    assert (facts.eos_token_ids, facts.max_kv_numbers, facts.dtype) == ((2, 3), 64, "bfloat16")


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": 0}, {"num_hidden_layers": "6"}])
def test_a_config_without_sizes_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="num_hidden_layers"):
        ModelFacts.from_config(config)


def test_addresses() -> None:
    assert to_multiaddr("127.0.0.1:0") == "/ip4/127.0.0.1/tcp/0"
    assert to_multiaddr("[::1]:7") == "/ip6/::1/tcp/7"
    assert to_multiaddr("node.example.org:7") == "/dns/node.example.org/tcp/7"
    with pytest.raises(SetupError, match="HOST:PORT"):
        to_multiaddr("127.0.0.1")
    assert reachable_host("10.1.2.3") == "10.1.2.3"
    assert reachable_host("0.0.0.0", "127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "size"), [("800M", 800 * 2**20), ("4GiB", 2**32), ("1.5g", 3 * 2**29), ("123", 123), ("2 kb", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1G", "much", "1X", "0.0001"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(SetupError, match="800M or 4GiB"):
        parse_bytes(text)
