"""Members of a private swarm with their TLS, as real connections use them."""

import time
from dataclasses import dataclass, field
from random import Random

from admission.members import Member, sealed_list
from osai.core.admission import Authority, Credentials, Gate, Role
from osai.core.member_tls import MemberTls


@dataclass(slots=True)
class Clock:
    """Seconds since 1970, and as many more as a test says."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass(slots=True)
class PrivateSwarm:
    """An authority, and what its members show."""

    authority: Authority = field(default_factory=lambda: Authority.create(time.time(), Random(5).randbytes))
    clock: Clock = field(default_factory=Clock)

    def join(self, role: Role) -> MemberTls:
        """One more member."""
        now_s = time.time()
        member = Member.of(self.authority, role, now_s=now_s)
        credentials = Credentials.read(
            member.leaf,
            member.key,
            self.authority.anchor,
            role=role,
            member_id=member.identity.node_id,
            now_s=now_s,
        )
        gate = Gate.opened(self.authority.anchor, sealed_list(self.authority, now_s=now_s - 60), now_s)
        return MemberTls(credentials, gate, self.clock)

    def revoked(self, *members: MemberTls) -> bytes:
        """A newer list that says so, sealed."""
        return sealed_list(self.authority, *(tls.me.member_id for tls in members), now_s=time.time())
