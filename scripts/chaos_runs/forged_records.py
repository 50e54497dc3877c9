"""Records that nobody could believe, of each kind in turn: forged, replayed, untagged, expired, damaged."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from random import Random
from types import SimpleNamespace
from typing import Self

from scripts.chaos_runs.mutants import damaged

from osai.core.admission import Authority, Credentials, Gate, RevocationList, Role, TlsKey
from osai.core.admission import seal as seal_list
from osai.core.errors import TrustError
from osai.core.identity import Identity
from osai.core.member_tls import MemberTls
from osai.core.record_guard import RecordGuard
from osai.core.records import COORDINATORS_KEY, NODES_KEY, seal, unseal
from osai.proto import record_pb2

LIFE_S = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A member's identity and its leaf."""

    identity: Identity
    leaf: bytes
    tls_key: TlsKey

    @classmethod
    def of(cls, authority: Authority, role: Role, random: Random) -> Self:
        """A new one."""
        identity, key = Identity.generate(), TlsKey.generate()
        leaf = authority.issue(role, identity.node_id, key.public_key, now_s=time.time(), random=random.randbytes)
        return cls(identity=identity, leaf=leaf, tls_key=key)

    def tls(self, authority: Authority) -> MemberTls:
        """As it sees the swarm, in which nobody is revoked."""
        now_s, anchor = time.time(), authority.anchor
        credentials = Credentials.read(
            self.leaf, self.tls_key, anchor, role=Role.NODE, member_id=self.identity.node_id, now_s=now_s
        )
        none_revoked = seal_list(RevocationList(swarm_id=anchor.swarm_id).next(now_s - 60), authority)
        return MemberTls(credentials, Gate.opened(anchor, none_revoked, now_s))


class Forger:
    """Makes records of a member that are not to be believed, one after the other, of each kind in turn.

    Args:
        authority: of the swarm.
        identity: whose the records are said to be.
        leaf: its certificate.
        expiry_s: under which they are to be stored.
    """

    def __init__(self, authority: Authority, identity: Identity, leaf: bytes, expiry_s: float, seed: int = 3) -> None:
        self._identity, self._leaf, self.expiry_s = identity, leaf, expiry_s
        self._random, self.sound = Random(seed), seal(identity, NODES_KEY, b"true", expiry_s, leaf)  # noqa: S311
        self._client = Signer.of(authority, Role.CLIENT, self._random)
        self._foreign = Signer.of(Authority.create(time.time(), self._random.randbytes), Role.NODE, self._random)
        self._old = seal(identity, NODES_KEY, b"old", expiry_s - LIFE_S / 2, leaf)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        kinds = (self._forged, self._replayed, self._untagged, self._another_key, self._damaged, self._foreign_leaf,
                 self._another_role, self._expired)  # fmt: skip
        for make in cycle(kinds):
            yield make.__name__, make()

    def _sealed(self, identity: Identity, leaf: bytes, key: str = NODES_KEY) -> bytes:
        return seal(identity, key, b"a lie", self.expiry_s, leaf)

    def _forged(self) -> bytes:
        return self._sealed(Identity.generate(), self._leaf)

    def _replayed(self) -> bytes:
        """Its own word, under a later expiry."""
        return self._old

    def _expired(self) -> bytes:
        return seal(self._identity, NODES_KEY, b"past", time.time() - self._random.uniform(1, 10_000), self._leaf)

    def _untagged(self) -> bytes:
        record = record_pb2.SignedRecord.FromString(self.sound)
        record.ClearField("signature")
        record.payload = self._random.randbytes(8)
        return record.SerializeToString()

    def _foreign_leaf(self) -> bytes:
        return self._sealed(self._identity, self._foreign.leaf)

    def _another_role(self) -> bytes:
        return self._sealed(self._identity, self._client.leaf)

    def _another_key(self) -> bytes:
        return self._sealed(self._identity, self._leaf, COORDINATORS_KEY)

    def _damaged(self) -> bytes:
        changed = self.sound
        while means_the_same(changed, self.sound):
            changed = damaged(self.sound, self._random)
        return changed


def means_the_same(record: bytes, sound: bytes) -> bool:
    """Whether two records say the same: bytes may differ that are no part of what is said."""
    with suppress(Exception):
        return record_pb2.SignedRecord.FromString(record) == record_pb2.SignedRecord.FromString(sound)
    return False


@dataclass(slots=True, kw_only=True)
class Forged:
    """What came of the records.

    Attributes:
        num_refused: that were neither stored nor believed.
        believed: kinds of those that were.
    """

    num_sent: int = 0
    num_refused: int = 0
    believed: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all were refused."""
        return self.num_refused == self.num_sent


def forge(*, seed: int, count: int) -> Forged:
    """Send so many to the guard of a DHT and to a reader."""
    random, told = Random(seed), Forged()  # noqa: S311 - not for secrets
    authority = Authority.create(time.time(), random.randbytes)
    member, expiry_s = Signer.of(authority, Role.NODE, random), time.time() + LIFE_S
    tls, node_id = member.tls(authority), member.identity.node_id
    guard = RecordGuard({b"place": NODES_KEY}, lambda data: node_id if data == b"me" else data, tls.peer_of)
    forger = Forger(authority, member.identity, member.leaf, expiry_s, seed)
    sound = SimpleNamespace(key=b"place", subkey=b"me", value=forger.sound, expiration_time=expiry_s)
    if not guard.validate(sound):
        raise TrustError("an honest record is refused: nothing is shown by refusing others")
    for kind, record in islice(forger, count):
        told.num_sent += 1
        sent = SimpleNamespace(key=b"place", subkey=b"me", value=record, expiration_time=expiry_s)
        # within its own time an older word is the member's too: that it is old is seen by its sequence number (B7)
        if guard.validate(sent) or (kind != "_replayed" and _is_believed(record, node_id, tls)):
            told.believed.append(f"a record that was {kind.strip('_').replace('_', ' ')}")
        else:
            told.num_refused += 1
    return told


def _is_believed(record: bytes, node_id: str, tls: MemberTls) -> bool:
    try:
        unseal(record, NODES_KEY, node_id, time.time(), tls.peer_of)
    except TrustError:
        return False
    return True
