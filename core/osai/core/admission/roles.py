"""Who a member of a private swarm is, and the names that say so in its certificate. Pure.

The S numbers are clauses of docs/security.md.
"""

import re
from enum import StrEnum

from osai.core.errors import TrustError
from osai.core.identity import NODE_ID_HEX_DIGITS

SERVER_DOMAIN = "osai.internal"  # S6: never looked up; .internal is no public domain and will be none
JOIN_NAME = f"join.{SERVER_DOMAIN}"  # S10: what joiners demand of a coordinator: by it a port tells them from members
_ID = f"[0-9a-f]{{{NODE_ID_HEX_DIGITS}}}"
_MEMBER_ID = re.compile(_ID)


class Role(StrEnum):
    """What a member may be; docs/security.md says what each may do."""

    NODE = "node"
    COORDINATOR = "coordinator"
    CLIENT = "client"


_URI = re.compile(f"spiffe://({_ID})/({'|'.join(Role)})/({_ID})")


def is_member_id(text: str) -> bool:
    """Whether `text` has the form of a member's id; a swarm's has the same."""
    return _MEMBER_ID.fullmatch(text) is not None


def member_uri(swarm_id: str, role: Role, member_id: str) -> str:
    """The name of a member in its certificate (S5)."""
    return f"spiffe://{swarm_id}/{role}/{member_id}"


def parse_member_uri(uri: str) -> tuple[str, Role, str]:
    """Swarm id, role and member id of a member's name.

    Raises:
        TrustError: if it has not exactly the form that `member_uri` gives.
    """
    match = _URI.fullmatch(uri)
    if match is None:  # S5
        raise TrustError(f"the certificate's name {uri[:100]!r} is no member's: get a certificate from the coordinator")
    return match[1], Role(match[2]), match[3]


def server_name(role: Role, member_id: str = "") -> str:
    """The name that a dialler demands of the server's certificate, whatever address it dials (S6).

    It goes into gRPC's `grpc.ssl_target_name_override`, or the `server_hostname` of the module ssl.

    Args:
        role: of the member that is dialled.
        member_id: its id; empty where the dialler does not know it, and any member of the role will do.

    Raises:
        TrustError: if the role never serves.
    """
    if role is Role.CLIENT:  # S6
        raise TrustError("a client serves nobody: dial a node or a coordinator")
    return f"{member_id}.{role}.{SERVER_DOMAIN}" if member_id else f"{role}.{SERVER_DOMAIN}"


def server_names(role: Role, member_id: str) -> tuple[str, ...]:
    """The DNS names in a member's certificate (S6): of its role and of itself, a coordinator's also for joiners."""
    if role is Role.CLIENT:
        return ()
    names = (server_name(role), server_name(role, member_id))
    return (*names, JOIN_NAME) if role is Role.COORDINATOR else names
