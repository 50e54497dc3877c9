"""Where a client keeps its places: one a swarm, known at every address of that swarm's coordinators."""

import time
from pathlib import Path
from random import Random

import pytest

from osai.client.private import MAX_ADDRESSES, find_member, folder_of, join_swarm, note_addresses, swarms_folder
from osai.core import private_member
from osai.core.admission import Authority, Credentials, JoinToken, Role, TlsKey
from osai.core.errors import TrustError
from osai.core.identity import Identity
from private.swarm_members import PrivateSwarm


class Issuers:
    """What coordinators answer who ask to be enrolled, by their address."""

    def __init__(self) -> None:
        self.at: dict[str, PrivateSwarm] = {}
        self.asked: list[tuple[str, str]] = []  # (address, id of the client)

    async def enrol(
        self, address: str, token: str, identity: Identity, role: Role, now_s: float
    ) -> tuple[Credentials, bytes]:
        self.asked.append((address, identity.node_id))
        swarm = self.at[address]
        anchor = JoinToken.parse(token).check_authority(swarm.authority.anchor.pem)
        key = TlsKey.generate()
        leaf = swarm.authority.issue(role, identity.node_id, key.public_key, now_s=now_s, random=Random(1).randbytes)
        credentials = Credentials.read(leaf, key, anchor, role=role, member_id=identity.node_id, now_s=now_s)
        return credentials, swarm.revoked()


@pytest.fixture
def issuers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Issuers:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = Issuers()
    monkeypatch.setattr(private_member, "enrol", made.enrol)
    return made


def token_of(swarm: PrivateSwarm) -> str:
    return JoinToken.create(swarm.authority.anchor, Random(time.monotonic_ns()).randbytes).text


def swarm_of(seed: int) -> PrivateSwarm:
    return PrivateSwarm(authority=Authority.create(time.time(), Random(seed).randbytes))


async def test_who_has_joined_by_one_address_is_known_at_those_that_coordinators_tell_of(issuers: Issuers) -> None:
    issuers.at["a:1"] = swarm = swarm_of(1)
    joined = await join_swarm("a:1", token_of(swarm))
    assert folder_of(joined) == swarms_folder() / swarm.authority.anchor.swarm_id
    assert find_member(["b:1"]) is None
    note_addresses(joined, ["b:1", "c:1"])
    for address in ("a:1", "b:1", "c:1"):
        found = find_member(["unknown:1", address])
        assert found is not None
        assert found.tls.me.member_id == joined.tls.me.member_id


async def test_a_second_token_of_the_same_swarm_makes_no_second_place(issuers: Issuers) -> None:
    issuers.at["a:1"] = issuers.at["b:1"] = swarm = swarm_of(1)
    first, second = await join_swarm("a:1", token_of(swarm)), await join_swarm("b:1", token_of(swarm))
    assert first.tls.me.member_id == second.tls.me.member_id
    assert [path.name for path in swarms_folder().iterdir()] == [swarm.authority.anchor.swarm_id]
    await join_swarm("b:1", token_of(swarm))
    assert [address for address, _ in issuers.asked] == ["a:1", "b:1"]  # it is a member there, and uses up no token


async def test_a_certificate_is_kept_where_the_place_is_found(issuers: Issuers) -> None:
    """It is renewed into the folder of the swarm, not into that of the joining."""
    issuers.at["a:1"] = swarm = swarm_of(1)
    joined = await join_swarm("a:1", token_of(swarm))
    newer = swarm.revoked(swarm.join(Role.NODE))
    joined.revoke(newer)
    found = find_member(["a:1"])
    assert found is not None
    assert found.sealed == newer
    assert not list(swarms_folder().glob(".joining-*"))


async def test_a_join_that_failed_leaves_no_place_and_is_tried_again_by_the_same_identity(issuers: Issuers) -> None:
    swarm, other = swarm_of(1), swarm_of(2)
    issuers.at["a:1"], token = other, token_of(swarm)
    with pytest.raises(TrustError):
        await join_swarm("a:1", token)
    assert find_member(["a:1"]) is None
    issuers.at["a:1"] = swarm
    joined = await join_swarm("a:1", token)
    assert {member for _, member in issuers.asked} == {joined.tls.me.member_id}


async def test_an_address_is_of_the_swarm_that_was_joined_there_last(issuers: Issuers) -> None:
    one, two = swarm_of(1), swarm_of(2)
    issuers.at |= {"a:1": one, "b:1": one}
    await join_swarm("a:1", token_of(one))
    await join_swarm("b:1", token_of(one))
    issuers.at["a:1"] = two
    await join_swarm("a:1", token_of(two))
    found = [find_member([address]) for address in ("a:1", "b:1")]
    assert [member and member.tls.credentials.anchor.swarm_id for member in found] == [
        two.authority.anchor.swarm_id,
        one.authority.anchor.swarm_id,
    ]


async def test_so_many_addresses_are_remembered_and_the_latest_stay(issuers: Issuers) -> None:
    issuers.at["a:1"] = swarm = swarm_of(1)
    joined = await join_swarm("a:1", token_of(swarm))
    for i in range(MAX_ADDRESSES + 5):
        note_addresses(joined, [f"n{i}:1"])
    assert find_member(["n3:1"]) is None
    assert find_member([f"n{MAX_ADDRESSES + 4}:1"]) is not None
