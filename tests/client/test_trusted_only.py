"""Generations of named operators: what is sent, to which coordinators, and to which it is not."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from client.fake_coordinator import FakeCoordinator, example_swarm, serving
from client.long_generation import LOST, check_whole, dying, rest
from osai.client import AsyncClient, Client, GenerationEvent, Timeouts
from osai.client.cli import main
from osai.client.publisher_keys import create_key
from osai.client.request import to_proto
from osai.client.roster import GivenCoordinators, Roster
from osai.core import errors
from osai.core.operators import MAX_TRUSTED
from osai.proto import common_pb2

KEY, OTHER = b"\x0a" * 32, b"\x0b" * 32
OLD = common_pb2.Hello(protocol_version=1, newest_version=2, software="osai/0.1")


async def trusting(client: AsyncClient) -> list[GenerationEvent]:
    return [event async for event in client.generate("x", trusted_only=[KEY])]


def test_keys_go_as_bytes_once_and_in_order() -> None:
    named: list[str | bytes] = [OTHER, KEY.hex(), KEY, OTHER.hex().upper()]
    assert list(to_proto("x", {"trusted_only": named}).trusted_operators) == [KEY, OTHER]
    lone: list[Any] = [KEY, KEY.hex()]
    for key in lone:
        assert list(to_proto("x", {"trusted_only": key}).trusted_operators) == [KEY]
    for without in (to_proto("x", {"trusted_only": None}), to_proto("x", {})):
        assert list(without.trusted_operators) == []


@pytest.mark.parametrize("empty", [[], (), "", b""])
def test_nobody_is_not_everybody(empty: list[str]) -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"names no operator|has 0 bytes"):
        to_proto("x", {"trusted_only": empty})


@pytest.mark.parametrize("wrong", [[KEY[:-1]], [KEY.hex()[:-2]], ["me.pub"], [KEY, "é"], [KEY, b""]])
def test_what_is_no_key_is_refused_here(wrong: list[str | bytes]) -> None:
    with pytest.raises(errors.InvalidRequestError, match="a trusted operator"):
        to_proto("x", {"trusted_only": wrong})


def test_so_many_at_most() -> None:
    keys: list[str | bytes] = [bytes([i]) * 32 for i in range(MAX_TRUSTED)]
    assert len(to_proto("x", {"trusted_only": keys}).trusted_operators) == MAX_TRUSTED
    with pytest.raises(errors.InvalidRequestError, match=f"at most {MAX_TRUSTED}"):
        to_proto("x", {"trusted_only": [*keys, "ff" * 32]})


async def test_a_generation_that_is_resumed_names_them_again() -> None:
    second = FakeCoordinator(rest)
    with serving(FakeCoordinator(dying(5))) as here, serving(second) as there:
        async with AsyncClient([here, there]) as client:
            check_whole(await trusting(client))
            assert client.address == there
    (request,) = second.requests
    assert request.HasField("resume")
    assert list(request.trusted_operators) == [KEY]


async def test_an_older_coordinator_is_not_sent_the_prompt() -> None:
    """It would not know the field, and let any node serve."""
    old = FakeCoordinator(rest, greeting=OLD)
    with serving(old) as address:
        async with AsyncClient(address) as client:
            with pytest.raises(errors.ProtocolMismatchError, match=r"speaks protocol 2 and can't keep to .*upgrade it"):
                await trusting(client)
            assert old.requests == []
            check_whole([event async for event in client.generate("x")])


async def test_in_a_rolling_upgrade_the_coordinators_that_know_of_it_serve() -> None:
    old, new = FakeCoordinator(rest, greeting=OLD), FakeCoordinator(dying(5))
    newer = FakeCoordinator(rest)
    with serving(old) as here, serving(new) as there, serving(newer) as yonder:
        async with AsyncClient([here, there, here, yonder]) as client:
            check_whole(await trusting(client))
        async with AsyncClient([here, "127.0.0.1:1"]) as client:
            with pytest.raises(errors.ProtocolMismatchError, match="upgrade it"):
                await trusting(client)
    assert (len(old.requests), len(new.requests), len(newer.requests)) == (0, 1, 1)


async def test_a_coordinator_that_was_set_back_to_an_older_release_is_noticed() -> None:
    fake = FakeCoordinator(rest)
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            check_whole(await trusting(client))
            fake._greeting = OLD
            with pytest.raises(errors.ProtocolMismatchError, match="speaks protocol 2"):
                await trusting(client)
    assert len(fake.requests) == 1


async def test_a_coordinator_that_was_only_told_of_is_not_shown_the_prompt() -> None:
    """In a public swarm anybody may run one."""
    stranger = FakeCoordinator(rest)
    with serving(stranger) as unknown:
        dies = dying(5, coordinators=["me:1", unknown])
        named = FakeCoordinator(lambda request: [LOST] if request.HasField("resume") else dies(request))
        with serving(named) as here:
            async with AsyncClient(here, timeouts=Timeouts(resume_s=0.3)) as client:
                with pytest.raises(errors.UnavailableError):
                    await trusting(client)
                assert stranger.requests == []
                check_whole([event async for event in client.generate("x")])  # without trusted_only it goes on there
                assert len(stranger.requests) == 1
                assert client.address == unknown
                with pytest.raises(errors.UnavailableError):
                    await trusting(client)  # also where it is the one that answered last
    assert len(stranger.requests) == 1


def test_those_given_are_asked_from_the_one_that_answered_last() -> None:
    roster = Roster(["a:1", "b:1"])
    roster.learn(["me:1", "c:1"])
    roster.preferred = "b:1"
    assert GivenCoordinators(roster).ring("b:1") == ("b:1", "a:1")
    assert GivenCoordinators(roster).preferred == "b:1"
    roster.preferred = "c:1"
    limited = GivenCoordinators(roster)
    limited.learn(["me:1", "d:1"])
    assert (limited.preferred, limited.addresses) == ("a:1", ("a:1", "b:1"))


def osai(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def keys(folder: Path) -> tuple[list[bytes], str]:
    made = [create_key(folder / f"{name}.pem") for name in ("a", "b")]
    return sorted(identity.public_key for identity, _ in made), ",".join(str(public) for _, public in made)


def test_the_commands_read_key_files(tmp_path: Path) -> None:
    expected, files = keys(tmp_path)
    fake = FakeCoordinator(swarm=example_swarm())
    with serving(fake) as address:
        generated = osai("generate", "x", "--coordinator", address, "--trusted-only", files)
        chatted = osai("chat", "--coordinator", address, "--trusted-only", files, stdin="hello\n")
        with Client(address) as client:
            client.complete("x", trusted_only=expected)
    assert (generated.exit_code, chatted.exit_code) == (0, 0)
    assert [list(request.trusted_operators) for request in fake.requests] == [expected] * 3


@pytest.mark.parametrize("which", ["", "{files},", "{files},gone.pub", "{folder}/a.pem"])
def test_files_without_a_public_key_exit_2(which: str, tmp_path: Path) -> None:
    fake = FakeCoordinator()
    value = which.format(files=keys(tmp_path)[1], folder=tmp_path)
    with serving(fake) as address:
        result = osai("generate", "x", "--coordinator", address, "--trusted-only", value)
    assert result.exit_code == 2
    assert "--trusted-only" in result.stderr
    assert fake.requests == []


def test_status_shows_whose_a_node_is() -> None:
    swarm = example_swarm()
    swarm.nodes[0].operator = KEY
    with serving(FakeCoordinator(swarm=swarm)) as address:
        table, as_json = osai("status", "--coordinator", address), osai("status", "--coordinator", address, "--json")
    assert f" {KEY.hex()[:16]} " in table.stdout
    assert f'"operator": "{KEY.hex()}"' in as_json.stdout
    assert '"operator": ""' in as_json.stdout
