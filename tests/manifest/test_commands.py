"""`osai key` and `osai manifest` as people type them."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from osai.client.commands.key import key_group
from osai.client.commands.manifest import manifest_group
from osai.client.publisher_keys import load_key
from osai.client.signing import build_manifest
from osai.core.errors import SetupError
from osai.core.manifest import MANIFEST_FILE, SignedManifest, parse, sign
from osai.core.reporting import ReportingGroup, reporting_errors


@click.group(cls=ReportingGroup)
def osai() -> None:
    """The two groups under one command."""


osai.add_command(key_group)
osai.add_command(manifest_group)


@osai.command()
@reporting_errors
def fail() -> None:
    raise SetupError("port 1\nis taken; choose another")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(osai, [str(argument) for argument in arguments])


def succeed(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert not result.stderr
    return result.stdout


def refuse(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert not result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    succeed("key", "create", "--out", tmp_path / "k.pem")
    return tmp_path


def test_errors_are_one_line_with_status_one() -> None:
    assert refuse("fail") == "error: port 1 is taken; choose another"


def test_sign_and_verify(folder: Path, keys: Path) -> None:
    out = succeed("manifest", "create", folder, "--key", keys / "k.pem", "--model-id", "me/small")
    assert "me/small version 1, licence mit, 3 files and 5 tensors" in out
    out = succeed("manifest", "verify", folder, "--trust", keys / "k.pub")
    assert out.startswith("verified: me/small version 1, 3 files and 5 tensors")
    shown = succeed("manifest", "show", folder)
    for fact in ("me/small", "mit", "5 of 2 layers", "config.json", parse_folder(folder).digest.hex()):
        assert fact in shown


def parse_folder(folder: Path) -> SignedManifest:
    return parse((folder / MANIFEST_FILE).read_bytes())


def test_the_version_rises_unless_given(folder: Path, keys: Path) -> None:
    create = ("manifest", "create", folder, "--key", keys / "k.pem", "--model-id")
    assert "version 1," in succeed(*create, "me/small")
    assert "version 2," in succeed(*create, "me/small")
    assert "version 9," in succeed(*create, "me/small", "--version", "9")
    assert "version 1," in succeed(*create, "me/other")


def test_a_manifest_kept_elsewhere(folder: Path, keys: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    succeed("manifest", "create", folder, "--key", keys / "k.pem", "--model-id", "a", "--licence", "mpl", "--out", out)
    assert not (folder / MANIFEST_FILE).exists()
    succeed("manifest", "verify", folder, "--trust", keys / "k.pub", "--manifest", out)
    assert f"there is no manifest {folder / MANIFEST_FILE}" in refuse("manifest", "show", folder)


def test_refusals(folder: Path, keys: Path) -> None:
    create = ("manifest", "create", folder, "--key", keys / "k.pem", "--model-id", "me/small")
    succeed(*create)
    succeed("key", "create", "--out", keys / "other.pem")
    assert "--trust" in refuse("manifest", "verify", folder, "--trust", keys / "other.pub")
    assert f"--trust {keys / 'k.pem'}: this is a private key" in refuse(
        "manifest", "verify", folder, "--trust", keys / "k.pem"
    )
    assert "nothing: it can't be read" in refuse("manifest", "verify", folder, "--trust", keys / "nothing")
    assert "k.pem exists" in refuse("key", "create", "--out", keys / "k.pem")
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert "error: tensor " in refuse("manifest", "verify", folder, "--trust", keys / "k.pub")
    (folder / MANIFEST_FILE).write_text("{}")
    assert "'signatures' is missing" in refuse("manifest", "show", folder)
    assert "'signatures' is missing" in refuse(*create)  # what is there is no manifest: not overwritten unseen


def test_where_keys_go_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    succeed("key", "create")
    succeed("key", "create", "release")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    succeed("key", "create")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.pem")) == [
        "home/.config/osai/keys/publisher.pem",
        "osai/keys/publisher.pem",
        "osai/keys/release.pem",
    ]


@pytest.mark.parametrize("command", ["key create", "manifest create", "manifest sign", "manifest verify"])
def test_help_has_examples(command: str) -> None:
    assert f"osai {command}" in succeed(*command.split(), "--help")


def test_an_unsigned_manifest_is_made_only_when_asked_for(folder: Path) -> None:
    assert "--key KEY, or say --unsigned" in refuse("manifest", "create", folder, "--model-id", "me/m")
    assert "UNSIGNED" in succeed("manifest", "create", folder, "--model-id", "me/m", "--unsigned")
    signed = parse((folder / MANIFEST_FILE).read_bytes())
    assert signed.signatures == ()
    assert not signed.manifest.lacks_digests()


def test_several_keys_sign_at_once_or_one_after_the_other(folder: Path, keys: Path) -> None:
    for name in ("b", "c"):
        succeed("key", "create", "--out", keys / f"{name}.pem")
    out = succeed("manifest", "create", folder, "--model-id", "me/m", "--key", keys / "k.pem", "--key", keys / "b.pem")
    first = parse_folder(folder)
    assert all(signature.public_key.hex() in out for signature in first.signatures)
    assert "and by 2 other keys" in succeed("manifest", "sign", folder, "--key", keys / "c.pem")
    assert "and by 2 other keys" in succeed("manifest", "sign", folder, "--key", keys / "c.pem")  # not twice
    second = parse_folder(folder)
    assert (second.signed_part, second.digest) == (first.signed_part, first.digest)
    assert second.signatures[:2] == first.signatures
    for name in ("k", "b", "c"):
        succeed("manifest", "verify", folder, "--trust", keys / f"{name}.pub")


def test_an_unsigned_manifest_is_signed_later(folder: Path, keys: Path) -> None:
    succeed("manifest", "create", folder, "--model-id", "me/m", "--unsigned")
    assert "osai manifest sign" in refuse("manifest", "verify", folder, "--trust", keys / "k.pub")
    succeed("manifest", "sign", folder, "--key", keys / "k.pem")
    succeed("manifest", "verify", folder, "--trust", keys / "k.pub")


def test_terms_of_use_are_stated_and_shown(folder: Path, keys: Path) -> None:
    create = ("manifest", "create", folder, "--key", keys / "k.pem", "--model-id", "me/m")
    url = "https://example.org/licence"
    succeed(*create, "--licence", "l4", "--licence-url", url, "--licence-must-accept", "--valid-days", "2")
    manifest = parse_folder(folder).manifest
    assert (manifest.licence, manifest.licence_url, manifest.licence_must_accept) == ("l4", url, True)
    assert manifest.not_after_s == manifest.created_s + 2 * 86_400
    shown = succeed("manifest", "show", folder)
    assert f"licence    l4 {url}, to be accepted by who hosts it" in shown
    assert "expires    never" not in shown
    assert "in chunks of 4,194,304" in shown
    succeed(*create)
    assert "expires    never" in succeed("manifest", "show", folder)
    assert "licence_url must be" in refuse(*create, "--licence-url", "www.example.org")


@pytest.mark.parametrize(
    ("licence", "url"), [(None, "https://example.org/l"), ("mine", ""), ("l4", "https://example.org/l")]
)
def test_the_card_s_licence_address_goes_with_its_licence(
    folder: Path, keys: Path, licence: str | None, url: str
) -> None:
    card = "---\nlicense: other\nlicense_name: l4\nlicense_link: https://example.org/l\n---\n"
    (folder / "README.md").write_text(card)
    given = ("--licence", licence) if licence else ()
    succeed("manifest", "create", folder, "--key", keys / "k.pem", "--model-id", "me/m", *given)
    assert parse_folder(folder).manifest.licence_url == url


def test_an_expired_manifest_is_refused(folder: Path, keys: Path) -> None:
    key = load_key(keys / "k.pem")
    manifest = build_manifest(folder, "me/m", 1, None, not_after_s=1_700_000_000)
    (folder / MANIFEST_FILE).write_bytes(sign(manifest, key))
    assert "has expired on 2023-11-14" in refuse("manifest", "verify", folder, "--trust", keys / "k.pub")


def test_a_manifest_of_format_1_is_refused_and_its_version_counts(folder: Path, keys: Path) -> None:
    old = {"format": 1, "model_id": "me/m", "version": 6, "created_s": 1, "licence": "mit", "files": [], "tensors": []}
    (folder / MANIFEST_FILE).write_text(json.dumps({"signed": old, "signatures": []}))
    for command in ("show", "verify"):
        trust = ("--trust", keys / "k.pub") if command == "verify" else ()
        assert "sign it again with `osai manifest create`" in refuse("manifest", command, folder, *trust)
    create = ("manifest", "create", folder, "--key", keys / "k.pem", "--model-id")
    assert "version 7," in succeed(*create, "me/m")
    (folder / MANIFEST_FILE).write_text(json.dumps({"signed": {**old, "version": "x"}, "signatures": []}))
    assert "sign it again" in refuse(*create, "me/m")
