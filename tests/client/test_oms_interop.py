"""osai and the stock `model_signing` command, a process of its own, accept and refuse the same folders."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from client.oms_world import (
    DAY,
    KINDS,
    NOW,
    YEAR,
    Party,
    Root,
    certified,
    flip_byte,
    make_party,
    refuse,
    succeed,
    write_checkpoint,
)
from osai.core.manifest import MANIFEST_FILE

NUM_FILES = 8


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Party]:
    folder = tmp_path_factory.mktemp("parties")
    return {kind: make_party(folder / kind, kind) for kind in KINDS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_signed_by_the_stock_command_verifies_here(
    kind: str, parties: Mapping[str, Party], folder: Path
) -> None:
    party, signature = parties[kind], folder / "model.sig"
    signed = party.stock_sign(folder, signature)
    assert signed.returncode == 0, signed.stderr
    assert succeed("verify", folder, *party.accepted_by()) == f"verified: {NUM_FILES} files are what was signed\n"
    flip_byte(folder / "model-00001-of-00002.safetensors")
    assert "model-00001-of-00002.safetensors differs" in refuse("verify", folder, *party.accepted_by())


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_signed_here_verifies_by_the_stock_command(
    kind: str, parties: Mapping[str, Party], folder: Path
) -> None:
    party, signature = parties[kind], folder / "model.sig"
    succeed("sign", folder, *party.signs_with())
    verified = party.stock_verify(folder, signature)
    assert verified.returncode == 0, verified.stderr
    succeed("verify", folder, *party.accepted_by())
    flip_byte(folder / "model-00002-of-00002.safetensors")
    assert party.stock_verify(folder, signature).returncode == 1


def add_file(folder: Path) -> None:
    (folder / "additional_chat_templates" / "more.jinja").write_text("more")


def remove_file(folder: Path) -> None:
    (folder / "paper.pdf").unlink()


def rename_file(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "vocab.json")


def swap_files(folder: Path) -> None:
    first, second = folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors"
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)


def damage_signature(folder: Path) -> None:
    text = (folder / "model.sig").read_text()
    at = text.index('"sig":"') + 20
    (folder / "model.sig").write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])


def damage_statement(folder: Path) -> None:
    text = (folder / "model.sig").read_text()
    at = text.index('"payload":"') + 200
    (folder / "model.sig").write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])


def cut_signature(folder: Path) -> None:
    data = (folder / "model.sig").read_bytes()
    (folder / "model.sig").write_bytes(data[: len(data) // 2])


TAMPERING: Mapping[Callable[[Path], None], str] = {
    add_file: "more.jinja is in",
    remove_file: "paper.pdf is missing",
    rename_file: "tokenizer.json is missing",
    swap_files: "model-00001-of-00002.safetensors differs",
    damage_signature: "signature",
    damage_statement: "signature",
    cut_signature: "no OMS signature",
}


@pytest.mark.parametrize("tamper", TAMPERING, ids=lambda tamper: tamper.__name__)
@pytest.mark.parametrize("kind", ["p256", "certificate-p384"])
def test_both_refuse_what_was_tampered_with(
    kind: str, tamper: Callable[[Path], None], parties: Mapping[str, Party], folder: Path
) -> None:
    party, signature = parties[kind], folder / "model.sig"
    succeed("sign", folder, *party.signs_with())
    tamper(folder)
    assert TAMPERING[tamper] in refuse("verify", folder, *party.accepted_by())
    assert party.stock_verify(folder, signature).returncode == 1


def test_both_refuse_another_key_and_a_foreign_root(parties: Mapping[str, Party], folder: Path) -> None:
    pairs = (("p256", "p384"), ("certificate-p256", "certificate-p384"), ("p256", "certificate-p256"))
    for kind, other in pairs:
        succeed("sign", folder, *parties[kind].signs_with())
        assert "not accepted" in refuse("verify", folder, *parties[other].accepted_by())
        assert parties[other].stock_verify(folder, folder / "model.sig").returncode == 1


def issued_by_an_expired_authority(folder: Path) -> Party:
    return certified(folder, Root.make(folder), begins=NOW + 2 * YEAR, ends=NOW + 3 * YEAR)


def issued_by_no_authority(folder: Path) -> Party:
    return certified(folder, Root.make(folder), between_is_authority=False)


def not_for_signing(folder: Path) -> Party:
    return certified(folder, Root.make(folder), may_sign=False)


NEVER_GOOD: Mapping[Callable[[Path], Party], str] = {
    issued_by_an_expired_authority: "expired",
    issued_by_no_authority: "invalid CA certificate",
    not_for_signing: "cannot be used for signing",
}


@pytest.mark.parametrize("make", NEVER_GOOD, ids=lambda make: make.__name__)
def test_both_refuse_a_certificate_that_never_was_good(
    make: Callable[[Path], Party], tmp_path: Path, folder: Path
) -> None:
    party = make(tmp_path)
    succeed("sign", folder, *party.signs_with())
    assert NEVER_GOOD[make] in refuse("verify", folder, *party.accepted_by(), "--allow-expired")
    assert party.stock_verify(folder, folder / "model.sig").returncode == 1


def test_an_expired_certificate_is_refused_here_until_told_to_judge_it_as_the_stock_command_does(
    tmp_path: Path, folder: Path
) -> None:
    party = certified(tmp_path, Root.make(tmp_path), begins=NOW - 2 * DAY, ends=NOW - DAY)
    succeed("sign", folder, *party.signs_with())
    line = refuse("verify", folder, *party.accepted_by())
    assert "'CN=signer'" in line
    assert "certificate has expired" in line
    assert "--allow-expired" in line
    succeed("verify", folder, *party.accepted_by(), "--allow-expired")
    assert party.stock_verify(folder, folder / "model.sig").returncode == 0


def test_a_root_that_has_expired_is_refused_too(tmp_path: Path, folder: Path) -> None:
    root = Root.make(tmp_path, begins=NOW - YEAR, ends=NOW - DAY)
    party = certified(tmp_path, root, begins=NOW - 2 * DAY, ends=NOW + DAY)
    succeed("sign", folder, *party.signs_with())
    assert "certificate has expired" in refuse("verify", folder, *party.accepted_by())
    succeed("verify", folder, *party.accepted_by(), "--allow-expired")


def test_the_manifest_may_come_and_change_after_the_signature(parties: Mapping[str, Party], folder: Path) -> None:
    party = parties["p256"]
    succeed("sign", folder, *party.signs_with())
    (folder / MANIFEST_FILE).write_text("{}")
    succeed("verify", folder, *party.accepted_by())
    assert party.stock_verify(folder, folder / "model.sig").returncode == 0


def test_a_manifest_that_the_signature_lists_is_checked(parties: Mapping[str, Party], folder: Path) -> None:
    party = parties["p256"]
    (folder / MANIFEST_FILE).write_text("{}")
    assert party.stock_sign(folder, folder / "model.sig").returncode == 0
    succeed("verify", folder, *party.accepted_by())
    (folder / MANIFEST_FILE).write_text("[]")
    assert f"{MANIFEST_FILE} differs" in refuse("verify", folder, *party.accepted_by())


def test_signature_beside_the_folder_and_git_files(parties: Mapping[str, Party], folder: Path, tmp_path: Path) -> None:
    party, signature = parties["p256"], tmp_path / "small.sig"
    succeed("sign", folder, *party.signs_with(), "--out", signature)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert party.stock_verify(folder, signature).returncode == 0
    verified = succeed("verify", folder, "--signature", signature, *party.accepted_by())
    assert verified == f"verified: {NUM_FILES} files are what was signed; NOT signed: '.gitattributes'\n"


def test_links_are_followed_on_demand_alone(parties: Mapping[str, Party], folder: Path, tmp_path: Path) -> None:
    party = parties["p256"]
    succeed("sign", folder, *party.signs_with())
    snapshot = tmp_path / "snapshot"  # as the Hugging Face cache keeps a model
    shutil.copytree(folder, snapshot, copy_function=lambda source, target: Path(target).symlink_to(source))
    assert "--allow-symlinks" in refuse("verify", snapshot, *party.accepted_by())
    assert "--allow-symlinks" in refuse("sign", snapshot, *party.signs_with(), "--out", tmp_path / "x.sig")
    succeed("verify", snapshot, *party.accepted_by(), "--allow-symlinks")
    flip_byte(folder / "config.json")
    assert "config.json differs" in refuse("verify", snapshot, *party.accepted_by(), "--allow-symlinks")
