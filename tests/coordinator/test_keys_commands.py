"""`osai-coordinator key` and `serve --require-keys`, as their user sees them."""

import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from osai.coordinator.cli import main
from osai.coordinator.keys.api_key import Quota
from osai.coordinator.keys.key_text import KeyText
from osai.coordinator.keys.store import KeysFile
from osai.core.errors import UnauthenticatedError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def key(path: Path, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["key", command, "--keys", str(path), *arguments])


def test_the_key_alone_is_on_standard_output_and_it_is_good(path: Path) -> None:
    result = key(
        path, "create", "Ada", "--scope", "generate", "--model", "org/*", "--model", "x", "--valid-days", "2",
        "--requests-per-minute", "1", "--tokens-per-minute", "2", "--tokens-per-day", "3", "--concurrent", "4",
    )  # fmt: skip
    assert result.exit_code == 0
    text = KeyText.parse(result.stdout.removesuffix("\n"))
    found = KeysFile(path).read().authenticate(text, time.time())
    assert (found.name, set(found.scopes), found.models) == ("Ada", {"generate"}, ("org/*", "x"))
    assert found.quota == Quota(requests_per_minute=1, tokens_per_minute=2, tokens_per_day=3, max_concurrent=4)
    assert found.expires_s - found.created_s == 2 * 86_400
    assert text.key_id in result.stderr
    assert text.secret.hex() not in result.stderr


def test_by_default_a_key_generates_and_lists_models_for_ever(path: Path) -> None:
    key(path, "create", "x")
    (found,) = KeysFile(path).read().keys
    assert set(found.scopes) == {"generate", "models"}
    assert (found.models, found.quota, found.expires_s) == (("*",), Quota(), 0)


def test_the_list_shows_states_and_limits_and_no_digest(path: Path) -> None:
    first = KeyText.parse(key(path, "create", "first", "--tokens-per-minute", "500").stdout.strip())
    key(path, "create", "second", "--valid-days", "1")
    assert key(path, "revoke", first.key_id).stdout == f"revoked {first.key_id}\n"
    table = key(path, "list").stdout
    assert re.search(rf"{first.key_id}  first +revoked \d{{4}}-\d\d-\d\d +generate,models +\* +500 tokens/min\n", table)
    assert re.search(r"second +good until \d{4}-\d\d-\d\d +generate,models +\* +none\n", table)
    shown = key(path, "list", "--json").stdout
    assert [entry["name"] for entry in json.loads(shown)["keys"]] == ["first", "second"]
    assert first.secret_sha256 not in table + shown


def test_a_revoked_key_lets_nobody_in(path: Path) -> None:
    text = KeyText.parse(key(path, "create", "x").stdout.strip())
    key(path, "revoke", text.key_id)
    with pytest.raises(UnauthenticatedError, match="is revoked"):
        KeysFile(path).read().authenticate(text, time.time())


def test_a_whole_key_in_place_of_its_id_is_not_repeated(path: Path) -> None:
    text = key(path, "create", "x").stdout.strip()
    result = key(path, "revoke", text)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "osai-coordinator key list" in result.stderr
    assert text not in result.stderr


@pytest.mark.parametrize(
    "arguments", [("a\nb",), ("x", "--model", "a b"), ("x", "--scope", "root"), ("x", "--tokens-per-day", "0")]
)
def test_what_makes_no_key_is_refused_and_nothing_is_written(path: Path, arguments: tuple[str, ...]) -> None:
    result = key(path, "create", *arguments)
    assert result.exit_code in {1, 2}
    assert result.stdout == ""
    assert not path.exists()


def test_a_keys_file_that_is_not_asked_for_is_no_false_comfort(path: Path) -> None:
    result = CliRunner().invoke(main, ["serve", "--keys", str(path)])
    assert (result.exit_code, result.stderr) == (1, "error: --keys alone lets everybody in: say --require-keys too\n")
