"""Manifests of real folders: made, verified, and every kind of damage found and named."""

import hashlib
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from manifest.publishers import verify_at
from osai.client import checkpoint_folder
from osai.client.publisher_keys import create_key, load_key
from osai.client.signing import build_manifest, checkpoint_bytes, verify_folder
from osai.core.errors import ManifestError, SetupError, TrustError, WeightsError
from osai.core.identity import Identity
from osai.core.manifest import Manifest, SignedManifest, TrustPolicy, parse, parse_public_key, sign

SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def signed(folder: Path, key: Identity) -> SignedManifest:
    signed = parse(sign(build_manifest(folder, "me/small", 1, None), key))
    verify_at(signed, TrustPolicy.of([key.public_key]))
    return signed


def test_a_manifest_says_what_the_folder_holds(folder: Path, signed: SignedManifest) -> None:
    manifest = signed.manifest
    assert (manifest.model_id, manifest.version, manifest.licence) == ("me/small", 1, "mit")
    assert [file.path for file in manifest.files] == [
        "additional_chat_templates/tools.jinja",
        "config.json",
        "tokenizer.json",
    ]
    for file in manifest.files:
        assert file.chunks == (hashlib.sha256((folder / file.path).read_bytes()).hexdigest(),)
    tensors = {entry.name: entry for entry in manifest.tensors}
    for shard in folder.glob("*.safetensors"):
        for name, tensor in load_file(shard).items():
            entry = tensors.pop(name)
            assert (entry.file, entry.shape) == (shard.name, tuple(tensor.shape))
            data = tensor.flatten().view(torch.uint8).numpy().tobytes()
            assert entry.chunks == ((hashlib.sha256(data).hexdigest(),) if data else ())
    assert not tensors
    assert manifest.layer_bytes() == (32, 32)
    assert manifest.outer_bytes() == 16 * 4 * 4 + 4 * 4
    verify_folder(folder, signed, None)


def test_progress_counts_every_byte(folder: Path, signed: SignedManifest) -> None:
    built, verified, lock = [0], [0], threading.Lock()

    def count_into(total: list[int]) -> Callable[[int], None]:
        def count(num_bytes: int) -> None:
            with lock:
                total[0] += num_bytes

        return count

    manifest = build_manifest(folder, "me/small", 1, None, count_into(built))
    verify_folder(folder, signed, count_into(verified))
    assert built == verified == [checkpoint_bytes(folder)] == [manifest.num_bytes()]


def test_hashing_in_chunks_gives_the_same_digests(
    folder: Path, signed: SignedManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_folder, "READ_BYTES", 7)
    verify_folder(folder, signed, None)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "consolidated.00.pth", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("alone", [True, False])
def test_pickles_are_refused(folder: Path, name: str, alone: bool) -> None:
    (folder / name).write_bytes(b"\x80\x04.")
    if alone:
        for path in folder.glob("model*"):
            path.unlink()
    with pytest.raises(WeightsError, match=f"{name} .*only safetensors are read"):
        build_manifest(folder, "me/small", 1, None)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / SHARD).unlink()
    with pytest.raises(WeightsError, match=f"shard {SHARD} is missing"):
        build_manifest(folder, "me/small", 1, None)


def test_a_tensor_that_the_index_promises_is_missed(folder: Path) -> None:
    save_file({"model.norm.weight": torch.ones(4)}, folder / SHARD)
    with pytest.raises(WeightsError, match=f"shard {SHARD} lacks tensor model.layers.1.mlp.up_proj.weight"):
        build_manifest(folder, "me/small", 1, None)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    (folder / INDEX).unlink()
    save_file({"model.norm.weight": torch.ones(4)}, folder / "more.safetensors")
    with pytest.raises(WeightsError, match=r"tensor model\.norm\.weight is in .* and in more\.safetensors"):
        build_manifest(folder, "me/small", 1, None)


def test_no_weights_at_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="no weights found"):
        build_manifest(tmp_path, "me/small", 1, None)
    with pytest.raises(WeightsError, match=r"can't read .*nothing"):
        build_manifest(tmp_path / "nothing", "me/small", 1, None)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": []}}', "[" * 100_000],
)
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(WeightsError, match=INDEX):
        build_manifest(folder, "me/small", 1, None)


def test_an_index_that_leaves_the_folder(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(WeightsError, match=r"\.\./model\.safetensors is missing"):
        build_manifest(folder, "me/small", 1, None)


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    save_file({"other": torch.ones(4)}, tmp_path / "adapter.safetensors")
    manifest = build_manifest(tmp_path, "me/small", 1, "mit", created_s=5)
    assert [entry.name for entry in manifest.tensors] == ["model.norm.weight"]
    assert (manifest.created_s, manifest.licence) == (5, "mit")


def test_links_are_followed_as_in_the_hub_s_cache(folder: Path, signed: SignedManifest, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    verify_folder(snapshot, signed, None)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: other\nlicense_name: llama4\n---\n", "llama4"),
        ("---\nlicense: 'apache-2.0'\n", "apache-2.0"),
        ("license: mit\n", "unknown"),
        ("---\nlanguage: en\n---\nlicense: mit\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_licence_of_the_model_card(folder: Path, card: str, licence: str) -> None:
    (folder / "README.md").write_text(card)
    assert build_manifest(folder, "me/small", 1, None).licence == licence


def test_a_bad_model_id_is_refused_before_any_hashing(folder: Path) -> None:
    hashed: list[int] = []
    with pytest.raises(ManifestError, match="model id"):
        build_manifest(folder, "my model", 1, None, hashed.append)
    assert not hashed


def test_keys_are_created_once_and_kept_secret(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "keys" / "release.pem"
    identity, public = create_key(path)
    assert public == tmp_path / "keys" / "release.pub"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parse_public_key(public.read_bytes()) == identity.public_key
    verify_at(parse(sign(manifest, load_key(path))), TrustPolicy.of([identity.public_key]))
    with pytest.raises(SetupError, match=r"release\.pem exists"):
        create_key(path)
    path.unlink()
    with pytest.raises(SetupError, match=r"release\.pub exists"):
        create_key(path)
    assert not path.exists()


def test_keys_that_can_t_be_read(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="osai key create"):
        load_key(tmp_path / "nothing.pem")
    (tmp_path / "bad.pem").write_text("hello")
    with pytest.raises(TrustError, match="not a private key"):
        load_key(tmp_path / "bad.pem")
    with pytest.raises(SetupError, match="can't write the key"):
        create_key(tmp_path / "bad.pem" / "x.pem")


def test_signing_needs_neither_torch_nor_safetensors() -> None:
    program = (
        "import sys, osai.client.signing, osai.client.commands.key, osai.client.commands.manifest\n"
        "sys.exit(bool({'torch', 'safetensors', 'transformers', 'huggingface_hub'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)}, timeout=60)
