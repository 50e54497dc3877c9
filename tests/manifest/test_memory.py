"""What was believed: remembered exactly, never less, read from a file only if nothing is wrong with it."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest.publishers import NOW_S, key_list, sealed, signed_by, verify_at
from osai.core.embedded import MODEL_ID, model_dir, publisher_key_file
from osai.core.errors import ManifestError, OsaiError, SetupError, TrustError
from osai.core.identity import Identity
from osai.core.manifest import (
    MANIFEST_FILE,
    Manifest,
    TrustMemory,
    TrustPolicy,
    parse,
    parse_public_key,
    public_key_pem,
    sign_key_list,
)
from osai.core.manifest.key_list import KnownList
from osai.core.manifest.memory import MAX_MEMORY_BYTES, MAX_MODELS, KnownManifest
from osai.core.trust_files import MEMORY_FILE, read_memory, read_trust, verify_and_remember, write_memory

KEYS = [Identity.generate() for _ in range(3)]
TRUST = TrustPolicy.of([KEYS[0].public_key])
NAMES = st.from_regex(r"[a-z]{1,5}(/[a-z0-9._-]{1,8}[a-z])?", fullmatch=True)
VERSIONS = st.integers(1, 2**53 - 1)
DIGESTS = st.binary(min_size=32, max_size=32)


@st.composite
def known_lists(draw: st.DrawFn) -> KnownList:
    keys = tuple(draw(st.lists(DIGESTS, min_size=1, max_size=8, unique=True)))
    return KnownList(version=draw(VERSIONS), digest=draw(DIGESTS), keys=keys, threshold=draw(st.integers(1, len(keys))))


MEMORIES = st.builds(
    TrustMemory,
    models=st.dictionaries(NAMES, st.builds(KnownManifest, version=VERSIONS, digest=DIGESTS), max_size=4),
    publishers=st.dictionaries(NAMES, known_lists(), max_size=3),
)


@given(MEMORIES)
def test_a_file_says_what_is_remembered(memory: TrustMemory) -> None:
    assert TrustMemory.from_json(memory.to_json()) == memory


@given(MEMORIES, st.data())
def test_a_damaged_file_is_a_typed_error_or_another_memory(memory: TrustMemory, data: st.DataObject) -> None:
    changed = bytearray(memory.to_json())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=2))
    try:
        TrustMemory.from_json(bytes(changed)).to_json()
    except OsaiError as e:
        e.to_proto()  # the message can always be sent


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12))
def test_what_is_accepted_never_gets_older(versions: list[int]) -> None:
    memory, newest = TrustMemory(), 0
    base = parse((model_dir() / MANIFEST_FILE).read_bytes()).manifest
    statements = {version: signed_by(replace(base, version=version), KEYS[0]) for version in set(versions)}
    for version in versions:
        if version >= newest:
            memory, newest = verify_at(statements[version], TRUST, memory=memory), version
        else:
            with pytest.raises(ManifestError, match=f"is older than version {newest}"):
                verify_at(statements[version], TRUST, memory=memory)
        assert memory.models[MODEL_ID].version == newest


def test_models_and_publishers_are_remembered_side_by_side(manifest: Manifest) -> None:
    listed = sealed(key_list(KEYS[:2], models=["me/*"]), KEYS[0])
    memory = verify_at(signed_by(manifest, KEYS[0]), TrustPolicy.listed(listed))
    other = replace(manifest, model_id="you/other", version=1)
    memory = verify_at(signed_by(other, KEYS[2]), TrustPolicy.of([KEYS[2].public_key]), memory=memory)
    assert {name: known.version for name, known in memory.models.items()} == {"me/small": 3, "you/other": 1}
    assert memory.publishers == {"me": KnownList.of(listed)}


def test_a_full_memory_is_an_error_not_a_loss(manifest: Manifest) -> None:
    known = KnownManifest(version=1, digest=bytes(32))
    full = TrustMemory(models={f"m{i}": known for i in range(MAX_MODELS)})
    assert TrustMemory.from_json(full.to_json()) == full
    with pytest.raises(TrustError, match=r"10000 models .* are all that is remembered"):
        full.remembering(signed_by(manifest, KEYS[0]), TRUST)
    again = replace(manifest, model_id="m7")
    assert len(full.remembering(signed_by(again, KEYS[0]), TRUST).models) == MAX_MODELS


def of(kind: str, **fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda top: top[kind]["me"].update(fields)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda top: top.update(format=2), "format 2 is unknown"),
        (lambda top: top.update(more=1), "'more' is unknown"),
        (lambda top: top.pop("models"), "'models' is missing"),
        (lambda top: top.update(models=[]), "'models' is of the wrong type"),
        (lambda top: top["models"].update({"a b": top["models"]["me"]}), "models: .*names that are none"),
        (lambda top: top["models"].update({f"m{i}": 0 for i in range(MAX_MODELS)}), "models: over the limit"),
        (lambda top: top["publishers"].update({f"m{i}": 0 for i in range(1000)}), "publishers: over the limit"),
        (lambda top: top["models"].update(me=3), "model is no JSON object"),
        (of("models", version=0), "a version is not 1 or more"),
        (of("models", version="1"), "'version' is of the wrong type"),
        (of("models", digest="ab"), "digest is not 64 lower-case hex"),
        (of("publishers", version=-1), "a version is not 1 or more"),
        (of("publishers", threshold=2), "a threshold of 2 is not between 1 and the number of keys, 1"),
        (of("publishers", threshold=0), "a threshold of 0"),
        (of("publishers", keys=["ab"]), "key is not 64 lower-case hex"),
        (of("publishers", keys=[]), "a threshold of 1 is not between 1 and the number of keys, 0"),
    ],
)
def test_a_file_that_says_nonsense_is_refused(edit: Callable[[dict[str, Any]], object], says: str) -> None:
    known = KnownList(version=1, digest=bytes(32), keys=(bytes(32),), threshold=1)
    memory = TrustMemory(models={"me": KnownManifest(version=1, digest=bytes(32))}, publishers={"me": known})
    top = json.loads(memory.to_json())
    edit(top)
    with pytest.raises(TrustError, match=says):
        TrustMemory.from_json(json.dumps(top).encode())


def test_a_member_remembers_over_restarts(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    verify_and_remember(signed_by(replace(manifest, version=5), KEYS[0]), TRUST, folder, now_s=NOW_S)
    file = folder / MEMORY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = file.stat().st_mtime_ns, file.stat().st_ino
    verify_and_remember(signed_by(replace(manifest, version=5), KEYS[0]), TRUST, folder, now_s=NOW_S)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == written  # nothing new: not written again
    with pytest.raises(ManifestError, match="older than version 5"):
        verify_and_remember(signed_by(manifest, KEYS[0]), TRUST, folder, now_s=NOW_S)
    verify_and_remember(signed_by(replace(manifest, version=6), KEYS[0]), TRUST, folder, now_s=NOW_S)
    assert read_memory(folder).models["me/small"].version == 6
    assert [path.name for path in folder.iterdir()] == [MEMORY_FILE]


def test_what_is_refused_is_not_remembered(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not a trusted key"):
        verify_and_remember(signed_by(replace(manifest, version=9), KEYS[1]), TRUST, tmp_path, now_s=NOW_S)
    assert read_memory(tmp_path) == TrustMemory()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"\xff", b" " * (MAX_MEMORY_BYTES + 1)])
def test_a_damaged_file_is_never_taken_for_an_empty_one(manifest: Manifest, tmp_path: Path, data: bytes) -> None:
    (tmp_path / MEMORY_FILE).write_bytes(data)
    with pytest.raises(SetupError, match=f"{MEMORY_FILE} is damaged .*: put a copy of it back, or move it away"):
        verify_and_remember(signed_by(manifest, KEYS[0]), TRUST, tmp_path, now_s=NOW_S)
    assert (tmp_path / MEMORY_FILE).read_bytes() == data


def test_a_write_that_fails_leaves_the_old_file(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = verify_at(signed_by(manifest, KEYS[0]), TRUST)
    write_memory(tmp_path, before)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match="No space left on device"):
        verify_and_remember(signed_by(replace(manifest, version=4), KEYS[0]), TRUST, tmp_path, now_s=NOW_S)
    assert read_memory(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [MEMORY_FILE]


def test_a_state_folder_that_can_t_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SetupError, match="choose another --state"):
        write_memory(tmp_path / "file", TrustMemory())
    with pytest.raises(SetupError, match="choose another --state"):
        read_memory(tmp_path / "file")


def test_trust_is_read_from_keys_and_key_lists(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_bytes(public_key_pem(KEYS[0].public_key))
    first = key_list(KEYS[1:2])
    second = replace(key_list(KEYS[2:]), version=2)
    (tmp_path / "1.json").write_bytes(sign_key_list(first, KEYS[1:2]))
    (tmp_path / "2.json").write_bytes(sign_key_list(second, KEYS[1:]))
    trust = read_trust([tmp_path / name for name in ("a.pub", "2.json", "1.json")])
    verify_at(signed_by(manifest, KEYS[0]), trust)
    verify_at(signed_by(manifest, KEYS[2]), trust)
    with pytest.raises(ManifestError, match="not a trusted key"):
        verify_at(signed_by(manifest, KEYS[1]), trust)


def test_the_embedded_model_is_trusted_by_its_publisher_alone(manifest: Manifest) -> None:
    embedded = parse((model_dir() / MANIFEST_FILE).read_bytes())
    verify_at(embedded, read_trust([]))
    assert embedded.manifest.not_after_s is None
    assert parse_public_key(publisher_key_file().read_bytes()) not in read_trust([]).single_keys("me/small")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (KEYS[0].to_pem(), "this is a private key"),
        (b"hello", "not a public key"),
        (b"{}", "key list file: field 'signatures' is missing"),
        (sign_key_list(key_list(KEYS[:2], 2), KEYS[:1]), "has 1 of the 2 signatures that it requires"),
    ],
)
def test_what_is_no_trust_is_refused_at_the_start(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(SetupError, match=f"--trust.*{says}"):
        read_trust([tmp_path / "file"])


def test_lists_that_do_not_lead_to_each_other_are_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_bytes(sign_key_list(key_list(KEYS[:1]), KEYS[:1]))
    (tmp_path / "2.json").write_bytes(sign_key_list(replace(key_list(KEYS[1:]), version=2), KEYS[1:]))
    with pytest.raises(SetupError, match="version 2 of the key list of me does not follow version 1"):
        read_trust([tmp_path / "1.json", tmp_path / "2.json"])
