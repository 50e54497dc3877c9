"""Two nodes of a private swarm, for a bench: their certificates travel to the other process as JSON."""

import base64
import secrets
import time
from dataclasses import dataclass
from typing import Self

from osai.core.admission import (
    Anchor,
    Authority,
    Credentials,
    Gate,
    RevocationList,
    Role,
    TlsKey,
    read_peer,
    seal,
)
from osai.core.identity import Identity
from osai.core.member_tls import MemberTls


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a member has, each in base64."""

    anchor: str
    leaf: str
    key: str
    sealed: str

    @classmethod
    def of(cls, authority: Authority) -> Self:
        """One more node."""
        now_s, key = time.time(), TlsKey.generate()
        node_id = Identity.generate().node_id
        leaf = authority.issue(Role.NODE, node_id, key.public_key, now_s=now_s, random=secrets.token_bytes)
        sealed = seal(RevocationList(swarm_id=authority.anchor.swarm_id).next(now_s), authority)
        parts = (authority.anchor.pem, leaf, key.pem, sealed)
        anchor, leaf_text, key_text, sealed_text = (base64.b64encode(part).decode() for part in parts)
        return cls(anchor=anchor, leaf=leaf_text, key=key_text, sealed=sealed_text)

    def tls(self) -> MemberTls:
        """The same, for connections."""
        parts = (self.anchor, self.leaf, self.key, self.sealed)
        anchor_pem, leaf, key, sealed = (base64.b64decode(part) for part in parts)
        anchor, now_s = Anchor.read(anchor_pem), time.time()
        me = read_peer(leaf, anchor, now_s)
        credentials = Credentials.read(
            leaf, TlsKey.from_pem(key), anchor, role=Role.NODE, member_id=me.member_id, now_s=now_s
        )
        return MemberTls(credentials, Gate.opened(anchor, sealed, now_s))


def private_pair() -> tuple[Bundle, Bundle]:
    """Two nodes of a new swarm."""
    authority = Authority.create(time.time(), secrets.token_bytes)
    return Bundle.of(authority), Bundle.of(authority)
