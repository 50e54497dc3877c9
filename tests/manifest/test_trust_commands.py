"""`osai trust` as people type it, and what verifies under the lists that it makes."""

import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from osai.client.commands.key import key_group
from osai.client.commands.manifest import manifest_group
from osai.client.commands.trust import trust_group
from osai.core.manifest import MANIFEST_FILE, KeyList, parse, parse_key_list, parse_public_key
from osai.core.reporting import ReportingGroup


@click.group(cls=ReportingGroup)
def osai() -> None:
    """The three groups under one command."""


for group in (key_group, manifest_group, trust_group):
    osai.add_command(group)


class Desk:
    """A folder with the keys a to d and a list of a, b and c, two of which must sign; `osai` runs in it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        self.list = folder / "osai-keys.json"
        for name in "abcd":
            self.does("key", "create", "--out", self.pem(name))
        self.does(
            "trust", "create", "me", "--key", self.pem("a"), "--key", self.pem("b"), "--add", self.pub("c"),
            "--threshold", 2, "--model", "me/*", "--valid-days", 30, "--out", self.list,
        )  # fmt: skip

    def pem(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def pub(self, name: str) -> Path:
        return self.folder / f"{name}.pub"

    def raw(self, name: str) -> bytes:
        return parse_public_key(self.pub(name).read_bytes())

    def listed(self) -> KeyList:
        return parse_key_list(self.list.read_bytes()).listed

    def does(self, *arguments: object) -> str:
        result = CliRunner().invoke(osai, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        assert not result.stderr
        return result.stdout

    def refuses(self, *arguments: object) -> str:
        result = CliRunner().invoke(osai, [str(argument) for argument in arguments])
        assert result.exit_code == 1, result.output
        assert not result.stdout
        return result.stderr

    def sign_model(self, first: str, *more: str) -> None:
        self.does("manifest", "create", self.model, "--model-id", "me/m", "--key", self.pem(first))
        for name in more:
            self.does("manifest", "sign", self.model, "--key", self.pem(name))

    def verify(self) -> tuple[object, ...]:
        return ("manifest", "verify", self.model, "--trust", self.list)


@pytest.fixture
def desk(folder: Path, tmp_path: Path) -> Desk:
    return Desk(tmp_path, folder)


def test_a_list_is_made_and_shown(desk: Desk) -> None:
    listed = desk.listed()
    assert (listed.publisher, listed.version, listed.threshold, listed.models) == ("me", 1, 2, ("me/*",))
    assert listed.keys == tuple(map(desk.raw, "abc"))
    assert listed.not_after_s is not None
    assert 29 * 86_400 < listed.not_after_s - time.time() <= 30 * 86_400
    shown = desk.does("trust", "show", desk.list)
    assert f"key        {desk.raw('a').hex()}, has signed" in shown
    assert f"key        {desk.raw('c').hex()}\n" in shown
    assert "threshold  2 of 3 keys" in shown
    assert "signed by  2 of the 2 keys that it requires" in shown


def test_a_manifest_needs_as_many_signatures_as_the_list_says(desk: Desk) -> None:
    desk.sign_model("c")
    assert "1 of the 2 signatures that me requires" in desk.refuses(*desk.verify())
    desk.does("manifest", "sign", desk.model, "--key", desk.pem("a"))
    assert "verified: me/m" in desk.does(*desk.verify())


def test_keys_are_rotated(desk: Desk) -> None:
    out = desk.does(
        "trust", "rotate", desk.list, "--key", desk.pem("a"), "--remove", desk.pub("b"), "--add", desk.pub("d")
    )
    assert "version 2 of the key list of me, 2 of 3 keys" in out
    assert "1 more of its keys must sign it" in out
    assert "1 more of version 1's keys must sign it" in out
    desk.sign_model("a", "c")
    assert "has 1 of the 2 signatures that it requires of its own keys" in desk.refuses(*desk.verify())
    assert "must sign" not in desk.does("trust", "sign", desk.list, "--key", desk.pem("c"))
    desk.does(*desk.verify())
    assert desk.listed().keys == tuple(map(desk.raw, "acd"))
    assert (desk.listed().models, desk.listed().threshold) == (("me/*",), 2)
    desk.sign_model("a", "b")
    assert "1 of the 2 signatures that me requires" in desk.refuses(*desk.verify())


def test_a_rotated_list_needs_the_old_keys_where_the_old_list_is_known(desk: Desk) -> None:
    old = desk.list.with_name("old.json")
    old.write_bytes(desk.list.read_bytes())
    signers = ("--key", desk.pem("c"), "--key", desk.pem("d"))
    out = desk.does(
        "trust", "rotate", desk.list, *signers, "--add", desk.pub("d"), "--remove", desk.pub("a"),
        "--remove", desk.pub("b"), "--model", "*", "--valid-days", 99,
    )  # fmt: skip
    assert "1 more of version 1's keys must sign it" in out
    assert "its keys" not in out
    assert desk.listed().models == ("*",)
    desk.sign_model("c", "d")
    assert "does not follow version 1" in desk.refuses(*desk.verify(), "--trust", old)
    desk.does("trust", "sign", desk.list, "--key", desk.pem("a"))
    desk.does(*desk.verify(), "--trust", old)


def test_keys_and_manifests_are_revoked(desk: Desk) -> None:
    signers = ("--key", desk.pem("a"), "--key", desk.pem("b"))
    desk.sign_model("a", "c")
    desk.does("trust", "revoke", desk.list, *signers, "--public-key", desk.pub("c"))
    assert "is revoked" in desk.refuses(*desk.verify())
    assert (desk.listed().keys, desk.listed().revoked_keys) == (tuple(map(desk.raw, "ab")), (desk.raw("c"),))
    desk.sign_model("a", "b")
    digest = parse((desk.model / MANIFEST_FILE).read_bytes()).digest
    desk.does("trust", "revoke", desk.list, *signers, "--manifest", desk.model / MANIFEST_FILE, "--manifest", "ab" * 32)
    assert "version 2 of the manifest of me/m is revoked by me" in desk.refuses(*desk.verify())
    assert desk.listed().version == 3
    assert desk.listed().revoked_manifests == (digest, b"\xab" * 32)
    shown = desk.does("trust", "show", desk.list)
    assert f"revoked    manifest {digest.hex()}" in shown
    assert f"revoked    key {desk.raw('c').hex()}" in shown


def test_refusals(desk: Desk) -> None:
    signers = ("--key", desk.pem("a"), "--key", desk.pem("b"))
    before = desk.list.read_bytes()
    new = ("--out", desk.folder / "new.json")
    for words, arguments in {
        "osai-keys.json exists": ("create", "me", *signers, "--model", "*", "--out", desk.list),
        "name what the publisher may vouch for": ("create", "me", *signers, *new),
        "publisher 'me too'": ("create", "me too", *signers, "--model", "*", *new),
        "a threshold of 3": ("create", "me", *signers, "--model", "*", "--threshold", "3", *new),
        "models must be model ids": ("create", "me", *signers, "--model", "me*", *new),
        "make one with `osai key create`": ("create", "me", "--key", desk.folder / "x", "--model", "*", *new),
        "name what is revoked": ("revoke", desk.list, *signers),
        "there is no manifest": ("revoke", desk.list, *signers, "--manifest", "ab"),
        "a threshold of 2 is not between 1 and the number of keys, 1": (
            "revoke", desk.list, *signers, "--public-key", desk.pub("b"), "--public-key", desk.pub("c"),
        ),
        "among a key list's keys and revoked": ("rotate", desk.list, *signers, "--add", desk.pub("d")),
        "this is a private key": ("rotate", desk.list, *signers, "--add", desk.pem("d")),
        "no key list": ("show", desk.pub("a")),
    }.items():  # fmt: skip
        if words.startswith("among"):
            desk.does("trust", "revoke", desk.list, *signers, "--public-key", desk.pub("d"))
            before = desk.list.read_bytes()
        assert words in desk.refuses("trust", *arguments)
    assert desk.list.read_bytes() == before
    assert not (desk.folder / "new.json").exists()


def test_nothing_follows_a_list_that_is_not_signed(desk: Desk) -> None:
    desk.does("trust", "rotate", desk.list, "--key", desk.pem("a"), "--valid-days", 60)
    text = desk.refuses("trust", "rotate", desk.list, "--key", desk.pem("a"), "--key", desk.pem("b"))
    assert "version 2 of the key list of me has 1 of the 2 signatures that it requires" in text


@pytest.mark.parametrize("command", ["create", "rotate", "revoke", "sign", "show"])
def test_help_has_examples(desk: Desk, command: str) -> None:
    assert f"osai trust {command} " in desk.does("trust", command, "--help")
