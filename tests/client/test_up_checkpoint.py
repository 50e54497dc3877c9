"""Which model `osai up` serves, with whose key; and its refusals, as a command."""

import json
import struct
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from osai.client.cli import main
from osai.client.signing import build_manifest
from osai.client.up.checkpoint import open_checkpoint
from osai.core.errors import ManifestError, OsaiError, SetupError, WeightsError
from osai.core.identity import Identity
from osai.core.manifest import (
    MANIFEST_FILE,
    TrustMemory,
    TrustPolicy,
    parse,
    parse_public_key,
    public_key_pem,
    sign,
    verify,
)

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 2,
    "vocab_size": 3,
    "max_position_embeddings": 8,
}


def write_checkpoint(folder: Path) -> Path:
    """A folder in HF layout whose tensors are a few bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header: dict[str, object] = {
        "model.embed_tokens.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}
    }
    for i in range(4):
        offsets = [24 + 8 * i, 32 + 8 * i]
        header[f"model.layers.{i}.input_layernorm.weight"] = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(range(56)))
    return folder


def sign_checkpoint(folder: Path, key: Path) -> None:
    identity = Identity.generate()
    (folder / MANIFEST_FILE).write_bytes(sign(build_manifest(folder, "acme/model", 1, None), identity))
    key.write_bytes(public_key_pem(identity.public_key))


def test_unsigned_checkpoint_is_signed_for_this_swarm_alone(tmp_path: Path) -> None:
    folder, scratch = write_checkpoint(tmp_path / "my model"), tmp_path / "scratch"
    scratch.mkdir()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    hashed: list[int] = []
    found = open_checkpoint(folder, None, scratch, hashed.append)
    assert (found.model_id, found.num_layers, found.signed_here) == ("my-model", 4, True)
    assert found.manifest is not None
    assert sum(hashed) == 56 + len(before["config.json"])
    key = parse_public_key(found.trust.read_bytes())
    verify(parse(found.manifest.read_bytes()), TrustPolicy.of([key]), now_s=time.time(), memory=TrustMemory())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before  # nothing was written there
    again = open_checkpoint(folder, None, scratch)
    assert parse_public_key(again.trust.read_bytes()) != key  # a new key each time


def test_signed_checkpoint_needs_its_publishers_key(tmp_path: Path) -> None:
    folder, key = write_checkpoint(tmp_path / "m"), tmp_path / "key.pub"
    sign_checkpoint(folder, key)
    found = open_checkpoint(folder, key, tmp_path)
    assert (found.model_id, found.manifest, found.trust, found.signed_here) == ("acme/model", None, key, False)
    with pytest.raises(SetupError, match="--trust"):
        open_checkpoint(folder, None, tmp_path)


def test_key_for_an_unsigned_checkpoint_is_refused(tmp_path: Path) -> None:
    folder, key = write_checkpoint(tmp_path / "m"), tmp_path / "key.pub"
    key.write_bytes(public_key_pem(Identity.generate().public_key))
    with pytest.raises(SetupError, match="is not signed"):
        open_checkpoint(folder, key, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("config.json", None, WeightsError),
        ("config.json", b"{", WeightsError),
        ("config.json", b"[]", WeightsError),
        ("config.json", b"\xff", WeightsError),
        ("config.json", b"{}", WeightsError),
        ("model.safetensors", None, WeightsError),
        ("pytorch_model.bin", b"pickle", WeightsError),
        (MANIFEST_FILE, b"{}", ManifestError),
    ],
)
def test_folder_that_can_not_be_served(
    tmp_path: Path, file: str, content: bytes | None, error: type[OsaiError]
) -> None:
    folder, key = write_checkpoint(tmp_path / "m"), tmp_path / "key.pub"
    key.write_bytes(b"")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(error):
        open_checkpoint(folder, key if file == MANIFEST_FILE else None, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "5"], "error: 5 nodes can't share 4 layers: choose 1 to 4 nodes"),
        (["--nodes", "0"], "error: 0 nodes can't share 4 layers"),
        (["--spans", "0:2,2:9"], "error: layers 2:9 reach past the model's 4 layers"),
        (["--spans", "zero"], "error: 'zero' is no layer range"),
    ],
)
def test_refusals_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = write_checkpoint(tmp_path / "m")
    result = CliRunner().invoke(main, ["up", "--model", str(folder), *arguments])
    assert result.exit_code == 1
    assert result.stderr.startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]  # no run folder is left
