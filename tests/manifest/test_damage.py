"""A folder that is not what its manifest says: every kind of damage is found and named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from osai.client.signing import build_manifest, verify_folder
from osai.core.errors import WeightsError
from osai.core.identity import Identity
from osai.core.manifest import SignedManifest, parse, sign

SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def signed(folder: Path, key: Identity) -> SignedManifest:
    return parse(sign(build_manifest(folder, "me/small", 1, None), key))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_of_any_tensor_names_it(folder: Path, signed: SignedManifest) -> None:
    for entry in signed.manifest.tensors:
        for at in {entry.begin, entry.end - 1} if entry.size_bytes else ():
            flip(folder / entry.file, at)
            with pytest.raises(WeightsError, match=f"tensor {entry.name} of {entry.file} differs") as caught:
                verify_folder(folder, signed, None)
            assert caught.value.subject == entry.name
            flip(folder / entry.file, at)
    verify_folder(folder, signed, None)


def test_a_flipped_byte_of_any_file_names_it(folder: Path, signed: SignedManifest) -> None:
    for file in signed.manifest.files:
        flip(folder / file.path, file.size_bytes - 1)
        with pytest.raises(WeightsError, match=f"file {file.path} differs"):
            verify_folder(folder, signed, None)
        flip(folder / file.path, file.size_bytes - 1)
    verify_folder(folder, signed, None)


def test_swapped_names_in_a_header_are_found(folder: Path, signed: SignedManifest) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    renamed = data[8 : 8 + length].replace(b"layers.0.mlp.up", b"layers.9.mlp.up")
    (folder / INDEX).unlink()
    path.write_bytes(data[:8] + renamed + data[8 + length :])
    assert "model.layers.9.mlp.up_proj.weight" in load_file(path)
    with pytest.raises(WeightsError, match=r"tensor model\.layers\.0\.mlp\.up_proj\.weight is missing"):
        verify_folder(folder, signed, None)
    save_file({**tensors, "model.extra": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="differs"):  # the header has grown, so every tensor lies elsewhere
        verify_folder(folder, signed, None)


def test_another_shape_in_a_header_is_found(folder: Path, signed: SignedManifest) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"shape":[16,4]', b'"shape":[4,16]'))
    assert load_file(path)["model.embed_tokens.weight"].shape == (4, 16)
    with pytest.raises(WeightsError, match=r"tensor model\.embed_tokens\.weight of .* differs"):
        verify_folder(folder, signed, None)


def test_a_further_tensor_is_found(folder: Path, signed: SignedManifest) -> None:
    (folder / INDEX).unlink()
    save_file({"model.extra": torch.ones(1)}, folder / "more.safetensors")
    with pytest.raises(WeightsError, match=r"tensor model\.extra of more\.safetensors is not in the manifest"):
        verify_folder(folder, signed, None)


def remove_shard(folder: Path) -> None:
    (folder / SHARD).unlink()


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def grow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{} ")


def add_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'evil' }}")


def add_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def cut_shard(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])


def cut_header(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:20])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove_shard, f"{SHARD} is missing"),
        (remove_config, "config.json is missing"),
        (grow_tokenizer, "file tokenizer.json differs"),
        (add_template, "chat_template.jinja is not in the manifest"),
        (add_pickle, "pytorch_model.bin holds pickled weights"),
        (cut_shard, f"{SHARD}: holds .* bytes where its header says"),
        (cut_header, f"{SHARD}: cut short within its header"),
    ],
)
def test_damage_is_named(folder: Path, signed: SignedManifest, damage: Callable[[Path], None], says: str) -> None:
    damage(folder)
    with pytest.raises(WeightsError, match=says):
        verify_folder(folder, signed, None)
