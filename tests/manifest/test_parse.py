"""Every rule of docs/manifest.md refuses what breaks it, by its own message."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from osai.core.errors import ManifestError
from osai.core.identity import Identity
from osai.core.manifest import MAX_MANIFEST_BYTES, Manifest, parse, sign, unsigned

Edit = Callable[[dict[str, Any]], object]


def edited(manifest: Manifest, edit: Edit) -> bytes:
    """The manifest's file after a change of its JSON."""
    top = json.loads(unsigned(manifest))
    edit(top)
    return json.dumps(top).encode()


def tensor(**fields: object) -> Edit:
    return lambda top: top["signed"]["tensors"][1].update(fields)


def file(**fields: object) -> Edit:
    return lambda top: top["signed"]["files"][1].update(fields)


def signed(**fields: object) -> Edit:
    return lambda top: top["signed"].update(fields)


def signature(**fields: object) -> Edit:
    entry = {"public_key": "ab" * 32, "sig": "cd" * 64}
    return lambda top: top.update(signatures=[{**entry, **fields}])


def test_round_trip(manifest: Manifest, key: Identity) -> None:
    parsed = parse(sign(manifest, key))
    assert parsed.manifest == manifest
    assert [s.public_key for s in parsed.signatures] == [key.public_key]
    bare = parse(unsigned(manifest))
    assert (bare.manifest, bare.signatures, bare.digest) == (manifest, (), parsed.digest)


def test_sizes_of_layers_and_of_the_rest(manifest: Manifest) -> None:
    vision = replace(manifest.tensors[0], name="vision_tower.layers.7.weight", file="model-00003-of-00003.safetensors")
    whole = replace(manifest, tensors=(*manifest.tensors, vision))
    assert whole.layer_bytes() == (48, 48)
    assert whole.outer_bytes() == 48
    assert whole.num_bytes() == 12 + 34 + 4 * 48


def test_layout_does_not_matter_to_the_digest(manifest: Manifest) -> None:
    loose = json.dumps(json.loads(unsigned(manifest)), indent=2).encode()
    assert parse(loose).signed_part == parse(unsigned(manifest)).signed_part


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (signed(format=1), "format 1 is no longer read .*sign it again with `osai manifest create`"),
        (signed(format=3), "format 3 is unknown .*upgrade"),
        (signed(format=True), "'format' is of the wrong type"),
        (signed(extra=1), "'extra' is unknown"),
        (lambda top: top["signed"].pop("licence"), "'licence' is missing"),
        (lambda top: top.update(more=1), "'more' is unknown"),
        (signed(model_id="../x"), "model id"),
        (signed(model_id="a\nb"), "model id"),
        (signed(version=0), "version must be 1"),
        (signed(version=2**53), "version must be 1"),
        (signed(version=1.0), "is no integer"),
        (signed(created_s=-1), "created_s"),
        (signed(licence=""), "licence must be"),
        (signed(licence="a\x1b[2Jb"), "licence must be"),
        (signed(licence="\ud800"), "licence must be"),
        (signed(not_after_s=-1), "not_after_s must be null"),
        (signed(not_after_s=2**53), "not_after_s must be null"),
        (signed(not_after_s="1"), "'not_after_s' is of the wrong type"),
        (signed(licence_url="http://x.org"), "licence_url must be empty or an https:// address"),
        (signed(licence_url="https://x.org/\n"), "licence_url must be"),
        (signed(licence_url="https://" + "x" * 1000), "licence_url must be"),
        (signed(licence_must_accept=1), "'licence_must_accept' is of the wrong type"),
        (signed(chunk_bytes=0), "chunk_bytes is 0, no power of two"),
        (signed(chunk_bytes=2**15), "chunk_bytes is 32768, no power of two"),
        (signed(chunk_bytes=2**27), "no power of two"),
        (signed(chunk_bytes=3 * 2**20), "no power of two"),
        (signed(chunk_bytes=-(2**22)), "no power of two"),
        (signed(tensors=[]), "lists no tensor"),
        (signed(files=[1]), "file entry is no JSON object"),
        (file(path="../config.json"), "none that serving reads"),
        (file(path="/etc/passwd"), "none that serving reads"),
        (file(path="additional_chat_templates/../x.jinja"), "none that serving reads"),
        (file(path="modeling_small.py"), "none that serving reads"),
        (file(path="config.json"), "file 'config.json' is listed twice"),
        (file(size_bytes=-1), "at most"),
        (file(size_bytes=2**40), "at most"),
        (file(chunks=["AB" * 32]), "file tokenizer.json: a chunk's digest is not 64 lower-case hex"),
        (file(chunks=["ab" * 32] * 2), "file tokenizer.json: 2 chunks where its 34 bytes make 1"),
        (file(size_bytes=0), "1 chunks where its 0 bytes make 0"),
        (file(chunks=["ab" * 32, None]), "chunks is no list of strings"),
        (file(chunks="ab" * 32), "'chunks' is of the wrong type"),
        (tensor(name="a b"), "tensor name"),
        (tensor(name="model.embed_tokens.weight"), "'model.embed_tokens.weight' is listed twice"),
        (tensor(file="../model.safetensors"), "no relative path"),
        (tensor(file="/model.safetensors"), "no relative path"),
        (tensor(file="pytorch_model.bin"), "no relative path of a .safetensors file"),
        (tensor(begin=200, end=148), "are no range"),
        (tensor(begin=-1), "are no range"),
        (tensor(end=197), "49 bytes where dtype and shape make 48"),
        (tensor(dtype="PICKLE"), "dtype 'PICKLE' is not supported"),
        (tensor(dtype="F32"), "48 bytes where dtype and shape make 96"),
        (tensor(shape=[4, -6]), "shape"),
        (tensor(shape=[1] * 9), "shape"),
        (tensor(shape=[4, True]), "shape is no list of integers"),
        (tensor(shape=[2**60, 2**60]), "shape"),
        (tensor(layer=10_000), "layer 10000"),
        (tensor(layer=-1), "layer -1"),
        (tensor(layer="1"), "'layer' is of the wrong type"),
        (tensor(chunks=["00"]), "lower-case hex"),
        (
            tensor(chunks=["ab" * 32] * 2),
            "tensor model.layers.0.mlp.up_proj.weight: 2 chunks where its 48 bytes make 1",
        ),
        (tensor(begin=147, end=195), "overlap in model-00001"),
        (tensor(begin=100, end=148), "overlap in model-00001"),
        (signature(public_key="ab"), "public key is not 64 lower-case hex"),
        (signature(sig="CD" * 64), "signature is not 128 lower-case hex"),
        (signature(sig=1), "'sig' is of the wrong type"),
        (lambda top: top.update(signatures=[{"public_key": "ab" * 32, "sig": "cd" * 64}] * 2), "signed twice"),
        (lambda top: top.update(signatures=[{"public_key": "ab" * 32, "sig": "cd" * 64}] * 17), "17 signatures"),
    ],
)
def test_a_rule_refuses(manifest: Manifest, edit: Edit, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        parse(edited(manifest, edit))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "damaged"),
        (b"\xff\xfe{}", "damaged"),
        ("{}".encode("utf-16"), "damaged"),
        (b"[]", "manifest file is no JSON object"),
        (b"null", "manifest file is no JSON object"),
        (b'{"signed": NaN, "signatures": []}', "is no integer"),
        (b'{"signed": {}, "signed": {}, "signatures": []}', "given twice"),
        (b'{"signed": {"format": ' + b"9" * 5000 + b'}, "signatures": []}', "damaged"),
        (b"[" * 1_000_000, "damaged"),
        (b'{"signed":' * 100_000, "damaged"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "over the limit"),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        parse(data)


def test_signing_refuses_what_parsing_would(manifest: Manifest, key: Identity) -> None:
    with pytest.raises(ManifestError, match="model id"):
        sign(replace(manifest, model_id=""), key)
    undigested = replace(manifest, files=(replace(manifest.files[0], chunks=()),))
    with pytest.raises(ManifestError, match="lacks digests"):
        sign(undigested, key)
    assert parse(unsigned(undigested)).manifest.lacks_digests()
