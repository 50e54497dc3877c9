"""Which role may call what, and send what, in a private swarm. What is not listed is refused. Pure.

The S numbers are clauses of docs/security.md.
"""

from collections.abc import Mapping

from osai.core.admission.peer import Peer
from osai.core.admission.roles import Role
from osai.core.errors import ForbiddenError, UnauthenticatedError

Caller = Role | None  # None: whoever has shown no certificate

_ANY_MEMBER: frozenset[Caller] = frozenset(Role)
_CLIENTS: frozenset[Caller] = frozenset({Role.CLIENT})
METHODS: Mapping[str, frozenset[Caller]] = {  # S17
    "/osai.v1.Coordinator/Greet": _CLIENTS,
    "/osai.v1.Coordinator/Generate": _CLIENTS,
    "/osai.v1.Coordinator/Embed": _CLIENTS,
    "/osai.v1.Coordinator/ListModels": _CLIENTS,
    "/osai.v1.Coordinator/GetSwarm": _CLIENTS,
    "/osai.v1.Control/Membership": frozenset({Role.NODE}),
    "/osai.v1.Edge/Link": frozenset({Role.NODE, Role.COORDINATOR}),
    "/osai.v1.Weights/Have": frozenset({Role.NODE}),
    "/osai.v1.Weights/Fetch": frozenset({Role.NODE}),
    "/osai.v1.Admission/Enrol": _ANY_MEMBER | {None},  # the token decides
    "/osai.v1.Admission/Renew": _ANY_MEMBER,
    "/osai.v1.Admission/Revocations": _ANY_MEMBER,
    "/grpc.health.v1.Health/Check": _ANY_MEMBER,
    "/grpc.health.v1.Health/List": _ANY_MEMBER,
    "/grpc.health.v1.Health/Watch": _ANY_MEMBER,
}

# S18: kinds of Edge.Link's messages that who dialled a node may send it, and that it answers to whom
DIALLER_SENDS: Mapping[Role, frozenset[str]] = {
    Role.COORDINATOR: frozenset({"hello", "open", "resume", "follow", "close", "frames"}),
    Role.NODE: frozenset({"hello", "frames", "probe"}),
    Role.CLIENT: frozenset(),
}
NODE_ANSWERS: Mapping[Role, frozenset[str]] = {
    Role.COORDINATOR: frozenset({"hello", "opened", "tokens", "progress", "failed"}),
    Role.NODE: frozenset({"hello", "echo", "failed"}),
    Role.CLIENT: frozenset(),
}


def check_call(method: str, caller: Caller) -> None:
    """Let a call in (S17).

    Args:
        method: as gRPC has it, `/osai.v1.Edge/Link`.
        caller: the role in the caller's certificate; None where it has shown none.

    Raises:
        UnauthenticatedError: if the caller has shown no certificate, and one is due.
        ForbiddenError: if its role may not.
    """
    allowed = METHODS.get(method, frozenset())
    if caller in allowed:
        return
    if caller is None:
        raise UnauthenticatedError(
            f"{method[:100]} takes members alone: join this swarm with a token, then show the certificate"
        )
    listed = " or a ".join(sorted(role for role in allowed if role is not None)) or "nobody"
    raise ForbiddenError(f"a {caller} may not call {method[:100]}: it is for a {listed}; join anew in that role")


def check_greeting(peer: Peer, peer_id: str) -> None:
    """Hold a peer to its certificate: its hello names the same id; a client's may name none (S17).

    Raises:
        ForbiddenError: if it names another.
    """
    if peer_id != peer.member_id and (peer_id or peer.role is not Role.CLIENT):
        raise ForbiddenError(
            f"{peer.role} {peer.member_id} greets as {peer_id[:80]!r}: start it with the --state folder whose "
            "certificate it shows",
            subject=peer.member_id,
        )


def check_sent(kind: str | None, dialler: Role) -> None:
    """Let a message in that who dialled this node sends on its link (S18).

    Args:
        kind: the field of LinkMessage that is set; None where none is known.
        dialler: its role.

    Raises:
        ForbiddenError: if that role sends no such message.
    """
    if kind not in DIALLER_SENDS[dialler]:
        raise ForbiddenError(f"a {dialler} may not send {kind or 'what is not known here'} to a node")


def check_answer(kind: str | None, dialler: Role) -> None:
    """Let a message in that a node sends to this member, of role `dialler`, which dialled it (S18).

    Raises:
        ForbiddenError: if a node says nothing of the kind to that role.
    """
    if kind not in NODE_ANSWERS[dialler]:
        raise ForbiddenError(f"a node may not answer {kind or 'what is not known here'} to a {dialler}")
