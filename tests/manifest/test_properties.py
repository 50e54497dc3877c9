"""Properties: what is signed is what is read, and nothing else ever verifies."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from manifest.publishers import verify_at
from osai.core.errors import ManifestError, OsaiError
from osai.core.identity import Identity
from osai.core.manifest import FileEntry, Manifest, TensorEntry, TrustPolicy, layer_of, num_chunks, parse, sign
from osai.core.safetensors_header import ITEMSIZE

KEY = Identity.generate()
TRUST = TrustPolicy.of([KEY.public_key])
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,8}(\.[A-Za-z0-9_-]{1,8}){0,3}", fullmatch=True)
PATHS = ("config.json", "tokenizer.json", "vocab.txt", "chat_template.jinja", "additional_chat_templates/a.jinja")


def digests(size_bytes: int, chunk_bytes: int) -> st.SearchStrategy[tuple[str, ...]]:
    due = num_chunks(size_bytes, chunk_bytes)
    return st.lists(DIGESTS, min_size=due, max_size=due).map(tuple)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    chunk_bytes = draw(st.sampled_from([2**power for power in range(16, 27)]))
    tensors, end = [], draw(st.integers(10, 1000))
    for name in draw(st.lists(NAMES, min_size=1, max_size=6, unique=True)):
        dtype = draw(st.sampled_from(sorted(ITEMSIZE)))
        shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
        begin = end + draw(st.integers(0, 8))
        end = begin + ITEMSIZE[dtype]
        for size in shape:
            end = begin + (end - begin) * size
        tensors.append(
            TensorEntry(
                name=name, file="model.safetensors", begin=begin, end=end, dtype=dtype, shape=shape,
                layer=layer_of(name),
                chunks=draw(digests(end - begin, chunk_bytes)),
            )
        )  # fmt: skip
    files = [
        FileEntry(path=path, size_bytes=size, chunks=draw(digests(size, chunk_bytes)))
        for path in draw(st.lists(st.sampled_from(PATHS), unique=True))
        for size in [draw(st.integers(0, 10**6))]
    ]
    return Manifest(
        model_id=draw(st.sampled_from(("a", "org/name", "a.b-c_d/e"))),
        version=draw(st.integers(1, 2**53 - 1)),
        created_s=draw(st.integers(0, 2**40)),
        not_after_s=draw(st.none() | st.integers(2**40, 2**41)),
        licence_url=draw(st.sampled_from(("", "https://example.org/licence"))),
        licence_must_accept=draw(st.booleans()),
        chunk_bytes=chunk_bytes,
        licence=draw(st.text(st.characters(min_codepoint=32, exclude_categories=["C", "Z"]), min_size=1, max_size=20)),
        files=tuple(files),
        tensors=tuple(tensors),
    )


@given(manifests())
def test_parse_is_the_inverse_of_sign(manifest: Manifest) -> None:
    parsed = parse(sign(manifest, KEY))
    assert parsed.manifest == manifest
    verify_at(parsed, TRUST)
    assert sum(parsed.manifest.layer_bytes()) == sum(t.size_bytes for t in manifest.tensors if t.layer is not None)


@given(manifests(), st.data())
@settings(max_examples=200)
def test_a_changed_file_never_verifies_as_another_manifest(manifest: Manifest, data: st.DataObject) -> None:
    original = sign(manifest, KEY)
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(("set", "insert", "delete")))
        byte = data.draw(st.integers(0, 255) | st.sampled_from(b'",:[]{}0127 -'))
        changed[at : at + (kind != "insert")] = b"" if kind == "delete" else bytes([byte])
    try:
        parsed = parse(bytes(changed))
        verify_at(parsed, TRUST)
    except ManifestError:
        return
    assert parsed.manifest == manifest  # spaces between tokens, at most
    assert parsed.digest == parse(original).digest


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="surrogatepass")))
def test_any_bytes_give_a_typed_error(data: bytes) -> None:
    try:
        parse(data)
    except OsaiError as e:
        e.to_proto()  # the message can always be sent
    else:
        raise AssertionError("random bytes were taken for a manifest")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(manifests(), st.data())
def test_any_json_in_any_place_gives_a_typed_error_or_the_same_manifest(
    manifest: Manifest, data: st.DataObject
) -> None:
    top = json.loads(sign(manifest, KEY))
    spots: list[tuple[Any, Any]] = []  # every (container, key) there is

    def collect(value: object) -> None:
        if isinstance(value, dict | list):
            for at in value if isinstance(value, dict) else range(len(value)):
                spots.append((value, at))
                collect(value[at])

    collect(top)
    container, at = data.draw(st.sampled_from(spots))
    container[at] = data.draw(JSON)
    try:
        parsed = parse(json.dumps(top).encode())
        verify_at(parsed, TRUST)
    except OsaiError as e:
        e.to_proto()  # the message can always be sent
        return
    assert parsed.manifest == manifest
