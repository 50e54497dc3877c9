"""`osai oms countersign`: the manifest speaks of the very bytes that the OMS signature lists, or is not signed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from client.oms_world import (
    Party,
    flip_byte,
    make_party,
    refuse,
    stock,
    succeed,
    write_checkpoint,
    write_shard,
)
from osai.client.cli import main
from osai.client.oms.countersign import listed_licence, prove_same_bytes
from osai.client.oms.one_read import READ_BYTES, read_once
from osai.client.publisher_keys import create_key
from osai.client.signing import build_manifest
from osai.core.errors import WeightsError
from osai.core.manifest import MANIFEST_FILE, Chunk, Manifest, parse

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def publisher(tmp_path: Path) -> Party:
    return make_party(tmp_path / "publisher", "p256")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    create_key(tmp_path / "release.pem")
    return tmp_path / "release.pem"


def digests_of(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def built(folder: Path) -> Manifest:
    return build_manifest(folder, "me/small", 1, None)


def test_a_folder_that_the_stock_command_signed_becomes_one_that_nodes_take(
    folder: Path, publisher: Party, release: Path
) -> None:
    assert publisher.stock_sign(folder, folder / "model.sig").returncode == 0
    said = succeed("countersign", folder, *publisher.accepted_by(), "--key", release, "--model-id", "me/small")
    assert "me/small version 1, licence mit, 3 files and 2 tensors of the same bytes" in said
    arguments = ["manifest", "verify", str(folder), "--trust", str(release.with_suffix(".pub"))]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    succeed("verify", folder, *publisher.accepted_by())
    # The stock command takes the manifest for a file that was added, and has to be told to ignore it.
    ignore = ("--ignore-paths", folder / MANIFEST_FILE)
    assert publisher.stock_verify(folder, folder / "model.sig").returncode == 1
    assert publisher.stock_verify(folder, folder / "model.sig", *ignore).returncode == 0


def test_a_folder_that_was_signed_here_verifies_by_the_stock_command_before_and_after(
    folder: Path, publisher: Party, release: Path
) -> None:
    succeed("sign", folder, *publisher.signs_with())
    for version in (1, 2):
        succeed("countersign", folder, *publisher.accepted_by(), "--key", release, "--model-id", "me/small")
        assert parse((folder / MANIFEST_FILE).read_bytes()).manifest.version == version
    assert publisher.stock_verify(folder, folder / "model.sig").returncode == 0


def test_nothing_is_written_by_a_signature_that_is_not_accepted(
    folder: Path, publisher: Party, release: Path, tmp_path: Path
) -> None:
    other, options = make_party(tmp_path / "other", "p256"), ("--key", release, "--model-id", "me/small")
    succeed("sign", folder, *publisher.signs_with())
    assert "not accepted" in refuse("countersign", folder, *other.accepted_by(), *options)
    flip_byte(folder / "paper.pdf")  # nobody serves it, but the signature is verified whole
    assert "paper.pdf differs" in refuse("countersign", folder, *publisher.accepted_by(), *options)
    assert not (folder / MANIFEST_FILE).exists()


def test_a_served_file_that_the_signature_ignores_is_not_vouched_for(
    folder: Path, publisher: Party, release: Path
) -> None:
    options, ignored = ("--private_key", publisher.key, "--signature", folder / "model.sig"), folder / "tokenizer.json"
    assert stock("sign", "key", folder, *options, "--ignore-paths", ignored).returncode == 0
    assert "NOT signed: 'tokenizer.json'" in succeed("verify", folder, *publisher.accepted_by())
    line = refuse("countersign", folder, *publisher.accepted_by(), "--key", release, "--model-id", "me/small")
    assert "tokenizer.json would be served, but the OMS signature leaves it out" in line
    assert not (folder / MANIFEST_FILE).exists()


def test_no_listed_file_is_overwritten(folder: Path, publisher: Party, release: Path) -> None:
    (folder / MANIFEST_FILE).write_text("not ours")
    assert publisher.stock_sign(folder, folder / "model.sig").returncode == 0
    options = (*publisher.accepted_by(), "--key", release, "--model-id", "me/small", "--version", "1")
    assert "choose another place with --out" in refuse("countersign", folder, *options)
    assert "choose another place with --out" in refuse("countersign", folder, *options, "--out", folder / "config.json")
    out = folder.parent / "beside.json"
    succeed("countersign", folder, *options, "--out", out)
    assert parse(out.read_bytes()).manifest.model_id == "me/small"


def test_a_countersigned_manifest_says_what_it_is_told_to(folder: Path, publisher: Party, release: Path) -> None:
    succeed("sign", folder, *publisher.signs_with())
    create_key(folder.parent / "second.pem")
    keys = ("--key", release, "--key", folder.parent / "second.pem")
    options = (
        "--model-id",
        "me/small",
        "--version",
        "7",
        "--valid-days",
        "30",
        "--licence",
        "llama3",
        "--licence-url",
        "https://example.com/licence",
    )
    succeed("countersign", folder, *publisher.accepted_by(), *keys, *options, "--licence-must-accept")
    signed = parse((folder / MANIFEST_FILE).read_bytes())
    manifest = signed.manifest
    assert (len(signed.signatures), manifest.version, manifest.licence) == (2, 7, "llama3")
    assert manifest.not_after_s == manifest.created_s + 30 * 86_400
    assert (manifest.licence_url, manifest.licence_must_accept) == ("https://example.com/licence", True)


def test_the_licence_is_the_listed_cards(folder: Path) -> None:
    digests = digests_of(folder)
    assert listed_licence(folder, digests).name == "mit"
    (folder / "README.md").write_text("---\nlicense: gpl\n---\n")
    with pytest.raises(WeightsError, match=r"README\.md changed"):
        listed_licence(folder, digests)
    del digests["README.md"]
    assert not listed_licence(folder, digests).name


def test_the_same_bytes_are_proved_and_counted(folder: Path) -> None:
    counts: list[int] = []
    manifest = built(folder)
    prove_same_bytes(folder, digests_of(folder), manifest, counts.append)
    headers = sum(
        min(t.begin for t in manifest.tensors if t.file == shard) for shard in {t.file for t in manifest.tensors}
    )
    assert sum(counts) == manifest.num_bytes() + headers


SERVED = (
    "config.json",
    "tokenizer.json",
    "additional_chat_templates/tools.jinja",
    SHARD,
    "model.safetensors.index.json",
)


@settings(max_examples=60)
@given(path=st.sampled_from(SERVED), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_byte_that_changes_and_changes_back_is_never_signed(
    tmp_path_factory: pytest.TempPathFactory, path: str, place: float, bit: int
) -> None:
    folder = write_checkpoint(tmp_path_factory.mktemp("case") / "model")
    digests, before, good = digests_of(folder), built(folder), (folder / path).read_bytes()
    changed = bytearray(good)
    changed[int(place * len(good))] ^= 1 << bit
    (folder / path).write_bytes(changed)
    with pytest.raises(WeightsError):  # changed after the manifest was made
        prove_same_bytes(folder, digests, before)
    try:
        manifest = built(folder)
    except WeightsError:
        return  # it is no checkpoint any more
    with pytest.raises(WeightsError):  # changed before the manifest was made, to the end
        prove_same_bytes(folder, digests, manifest)
    (folder / path).write_bytes(good)
    if manifest.files == before.files and manifest.tensors == before.tensors:
        prove_same_bytes(folder, digests, manifest)  # a byte of the index, or of a header, that says nothing
        return
    with pytest.raises(WeightsError):  # changed only while the manifest was made
        prove_same_bytes(folder, digests, manifest)


def hide_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def add_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text("{}")


def rename_tensor(folder: Path) -> None:
    (folder / SHARD).write_bytes(
        (folder / SHARD).read_bytes().replace(b"layers.0.mlp.up_proj", b"layers.0.mlp.no_proj")
    )
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("layers.0.mlp.up_proj", "layers.0.mlp.no_proj"))


def lengthen_shard(folder: Path) -> None:
    write_shard(folder / SHARD, {"model.layers.0.mlp.up_proj.weight": bytes(range(64)), "model.more": b"more"})


def shorten_shard(folder: Path) -> None:
    write_shard(folder / SHARD, {"model.layers.0.mlp.up_proj.weight": bytes(range(8))})


def drop_shard(folder: Path) -> None:
    first = "model.layers.0.mlp.up_proj.weight"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {first: SHARD}}))


def cut_config(folder: Path) -> None:
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes()[:5])


def put_single_file(folder: Path) -> None:
    write_shard(folder / "model.safetensors", {"model.layers.0.mlp.up_proj.weight": bytes(8)})


CHANGES: tuple[Callable[[Path], None], ...] = (
    hide_tokenizer,
    add_vocabulary,
    rename_tensor,
    lengthen_shard,
    shorten_shard,
    drop_shard,
    put_single_file,
    cut_config,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_manifest_of_another_moment_is_not_signed(
    change: Callable[[Path], None], folder: Path, tmp_path: Path
) -> None:
    digests, elsewhere = digests_of(folder), write_checkpoint(tmp_path / "other")
    change(elsewhere)
    with pytest.raises(WeightsError):
        prove_same_bytes(folder, digests, built(elsewhere))


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=6))
def test_one_read_takes_each_digest_of_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("read") / "file"
    path.write_bytes(data)
    ends = sorted({min(cut, len(data)) for cut in cuts})
    bounds = list(zip(ends[::2], ends[1::2], strict=False))
    chunks = [Chunk(sha256="", file="file", begin=begin, end=end) for begin, end in bounds]
    read = read_once(path, chunks, with_header=False)
    assert (read.size_bytes, read.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert read.chunks == tuple(hashlib.sha256(data[begin:end]).hexdigest() for begin, end in bounds)


def test_a_file_of_more_than_one_buffer_and_one_that_is_too_short(tmp_path: Path) -> None:
    path, data = tmp_path / "file", bytes(READ_BYTES * 2 + 5)
    path.write_bytes(data)
    chunk = Chunk(sha256="", file="file", begin=3, end=len(data) - 1)
    assert read_once(path, [chunk], with_header=False).chunks == (hashlib.sha256(data[3:-1]).hexdigest(),)
    beyond = Chunk(sha256="", file="file", begin=3, end=len(data) + 1)
    with pytest.raises(WeightsError, match="changed while it was read"):
        read_once(path, [beyond], with_header=False)
    with pytest.raises(WeightsError, match="can't read"):
        read_once(tmp_path / "none", [], with_header=False)
