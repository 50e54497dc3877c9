"""The hub's real client against a hub on loopback: only the bytes asked for, resumed, and refused in words."""

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from osai.core.errors import WeightsError
from osai.core.manifest import SignedManifest
from osai.node.weights.hub import HubRepository
from osai.node.weights.source import LocalFolder, open_source, read_file
from osai.node.weights.verified import VerifiedCheckpoint

if TYPE_CHECKING:
    from pathlib import Path

SHARD = "model-00002-of-00002.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FakeHub = Any  # conftest's


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client asks huggingface.co who is calling, whatever the endpoint, unless told not to."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")  # for child processes


@pytest.fixture
def repository(hub: FakeHub) -> HubRepository:
    return HubRepository("me/small", endpoint=hub.url)


def test_the_hub_reads_as_the_folder_does(repository: HubRepository, folder: "Path") -> None:
    local = LocalFolder(folder)
    assert repository.list_files() == local.list_files()
    assert repository.size(SHARD) == local.size(SHARD)
    assert repository.read(SHARD, 100, 2000) == local.read(SHARD, 100, 2000)
    assert repository.read(SHARD, 7, 7) == b""
    assert read_file(repository, "config.json", 100) == read_file(local, "config.json", 100)
    assert repository.describe() == "hub me/small at 0123456789ab"


def test_a_span_fetches_its_own_bytes_alone(repository: HubRepository, hub: FakeHub, signed: SignedManifest) -> None:
    checkpoint = VerifiedCheckpoint(repository, signed)
    mine = [entry for entry in signed.manifest.tensors if entry.layer == 1]
    for entry in mine:
        checkpoint.tensor(entry.name)[...]
    assert hub.ranges == [(entry.file, entry.begin, entry.end) for entry in mine]


def test_reads_are_of_one_commit(hub: FakeHub) -> None:
    repository = HubRepository("me/small", "v1", endpoint=hub.url)
    repository.read(SHARD, 0, 8)
    assert f"/me/small/resolve/{COMMIT}/{SHARD}" in hub.paths


def test_a_connection_that_breaks_is_resumed(repository: HubRepository, hub: FakeHub, folder: "Path") -> None:
    hub.cut_after = 10_000
    assert repository.read(SHARD, 50, 24_050) == LocalFolder(folder).read(SHARD, 50, 24_050)
    assert [begin for _, begin, _ in hub.ranges] == [50, 10_050, 20_050]


def test_a_server_that_breaks_off_before_any_byte_is_given_up(repository: HubRepository, hub: FakeHub) -> None:
    hub.cut_after = 0
    with pytest.raises(WeightsError, match=f"can't read {SHARD} from hub me/small"):
        repository.read(SHARD, 0, 100)


def test_a_busy_server_is_asked_again(repository: HubRepository, hub: FakeHub) -> None:
    hub.failing = 1
    assert len(repository.read(SHARD, 0, 100)) == 100


def test_a_server_without_byte_ranges_is_refused(repository: HubRepository, hub: FakeHub, folder: "Path") -> None:
    hub.serves_ranges = False
    with pytest.raises(WeightsError, match="does not serve byte ranges"):
        repository.read(SHARD, 50, 100)
    with pytest.raises(WeightsError, match="more than was asked for"):
        repository.read(SHARD, 0, 100)
    size = repository.size(SHARD)
    assert repository.read(SHARD, 0, size) == (folder / SHARD).read_bytes()  # the whole is what was asked for


def test_files_that_are_not_there(repository: HubRepository, hub: FakeHub, folder: "Path") -> None:
    with pytest.raises(WeightsError, match="nothing is missing from hub me/small"):
        repository.read("nothing", 0, 1)
    with pytest.raises(WeightsError, match="ends before byte"):
        repository.read(SHARD, 0, 2**40)
    with pytest.raises(WeightsError, match="no path inside"):
        repository.read("../x", 0, 1)
    (folder / "config.json").unlink()  # after the listing
    with pytest.raises(WeightsError, match=r"can't read config\.json"):
        repository.read("config.json", 0, 5)


@pytest.mark.parametrize(("repo", "revision"), [("me/other", None), ("me/small", "v9")])
def test_a_repository_or_revision_that_is_not_there(hub: FakeHub, repo: str, revision: str | None) -> None:
    with pytest.raises(WeightsError, match=f"no folder {repo}, and the hub does not give it"):
        HubRepository(repo, revision, endpoint=hub.url)


def test_a_hub_that_can_t_be_reached() -> None:
    with pytest.raises(WeightsError, match="the hub does not give it"):
        HubRepository("me/small", endpoint="http://127.0.0.1:9")


def test_the_endpoint_of_the_environment(hub: FakeHub, folder: "Path") -> None:
    program = (
        "import sys\n"
        "from osai.node.weights.source import open_source\n"
        f"sys.stdout.buffer.write(open_source('me/small', 'v1').read({SHARD!r}, 10, 2010))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], check=True, env=environment, capture_output=True, timeout=60)
    assert done.stdout == (folder / SHARD).read_bytes()[10:2010]


def test_a_plain_web_server(hub: FakeHub, folder: "Path", signed: SignedManifest) -> None:
    remote, local = open_source(f"{hub.url}/plain"), LocalFolder(folder)
    assert remote.list_files() == local.list_files()
    assert remote.size(SHARD) == local.size(SHARD)
    entry = next(entry for entry in signed.manifest.tensors if entry.layer == 1)
    VerifiedCheckpoint(remote, signed).tensor(entry.name)[...]
    assert hub.ranges == [(SHARD, entry.begin, entry.end)]
    hub.serves_ranges = False
    with pytest.raises(WeightsError, match="does not serve byte ranges"):
        remote.read(SHARD, 5, 10)
    with pytest.raises(WeightsError, match="can't read nothing"):
        remote.read("nothing", 0, 5)


def test_a_password_in_a_url_is_not_shown(hub: FakeHub) -> None:
    remote = open_source(hub.url.replace("//", "//me:secret@") + "/plain?token=secret")
    assert "secret" not in remote.describe()
