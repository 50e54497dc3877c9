"""Whose a session is, and who may speak of it to a stage of its pipeline. Pure.

The S numbers are clauses of docs/security.md. `access` says which kinds of messages a role may send at all; here is
for which sessions. What a node must do in a private swarm:

- The peer of a link is the member in its certificate (`Gate.admit`); its hello must name the same id
  (`access.check_greeting`). A bare stream beside the link carries what the same peer may send: its ticket was given
  out over the link, and the stream is TLS to the same certificate.
- OpenSession: `check_open`. On success the stage keeps a `SessionParties` of the session's new epoch.
- Each frame of a batch: `SessionParties.check_push` of its session. A frame that is refused is answered with
  SessionFailed to its sender, and to nobody else: the session goes on, and so do the batch's other frames.
- ResumeSession and FollowSession: `check_steer`. CloseSession: `check_close`. What is refused is answered to its
  sender; the session does not end by it.
- When the owner's last link ends: `orphaned`.
- KV is shared, and blocks are named, within the scope of the owner's member id, as the certificate has it.

What a coordinator must do: dial a node by the name of its id (`roles.server_name`), so that whatever comes on that link
is the node's; take tokens from the tail of the epoch's pipeline alone, progress from its followers, and `opened` and
`failed` from nodes that take part (osai.coordinator.sessions.session does).
"""

from dataclasses import dataclass, replace
from typing import Self

from osai.core.admission.peer import Peer
from osai.core.admission.roles import Role
from osai.core.errors import ForbiddenError


def check_open(sender: Peer) -> None:
    """Who may open a session, or adopt one in a later epoch: a coordinator, any of the swarm (S19).

    A coordinator that adopts another's session is how one outlives it; the epoch decides between two.

    Raises:
        ForbiddenError: if the sender is none.
    """
    if sender.role is not Role.COORDINATOR:
        raise ForbiddenError(f"a {sender.role} may not open sessions: only coordinators do", subject=sender.member_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionParties:
    """Who may speak of one session to one stage, while an epoch lasts (S19).

    Attributes:
        owner: member id of the coordinator that opened the epoch; empty for an orphan.
        predecessor: id of the node before this one in the pipeline; the head's is the tail. Empty: no node pushes.
        epoch: as it was opened.
        is_head: the stage embeds token ids; every other one takes hidden states.
    """

    owner: str
    predecessor: str
    epoch: int
    is_head: bool

    def orphaned(self) -> Self:
        """The same session without an owner."""
        return replace(self, owner="")

    def check_push(self, sender: Peer, *, token_ids: bool) -> None:
        """Whose frames are taken: the predecessor's, and at the head the owner's token ids (S20).

        Args:
            sender: of the link that they came by.
            token_ids: whether they carry token ids (int32), and not hidden states.

        Raises:
            ForbiddenError: if the sender is another, or sends what is not due here.
        """
        is_owner = sender.role is Role.COORDINATOR and sender.member_id == self.owner and self.is_head
        is_predecessor = sender.role is Role.NODE and sender.member_id == self.predecessor
        if not is_owner and not is_predecessor:
            raise _refused(sender, "push rows of a session in which it does not come before this node")
        if token_ids is not self.is_head:
            due = "token ids" if self.is_head else "hidden states"
            raise _refused(sender, f"push anything but {due} to this stage")

    def check_steer(self, sender: Peer) -> None:
        """Who says where rows go on, and whom they follow: the owner alone (S19).

        Raises:
            ForbiddenError: if the sender is another.
        """
        if sender.role is not Role.COORDINATOR or sender.member_id != self.owner:
            raise _refused(sender, "steer a session that it has not opened in this epoch")

    def check_close(self, sender: Peer, epoch: int) -> None:
        """Who ends a session: its owner; another coordinator, if it is an orphan or has gone on in a later epoch (S19).

        Args:
            sender: of the link that it came by.
            epoch: that CloseSession names; 0 where it names none.

        Raises:
            ForbiddenError: if the sender may not.
        """
        if sender.role is Role.COORDINATOR and (self.owner in ("", sender.member_id) or epoch > self.epoch):
            return
        raise _refused(sender, "close another coordinator's session")


def _refused(sender: Peer, what: str) -> ForbiddenError:
    return ForbiddenError(f"{sender.role} {sender.member_id} may not {what}", subject=sender.member_id)
