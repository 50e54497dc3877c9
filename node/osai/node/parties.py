"""Who may speak of which session on this node: osai.core.admission's rules in a private swarm, none in a public one."""

from osai.core.admission.access import check_sent
from osai.core.admission.ownership import SessionParties, check_open
from osai.core.admission.peer import Peer
from osai.core.errors import TrustError
from osai.proto import common_pb2, edge_pb2


class Parties:
    """The members behind the links of those who dialled in, and what they have to do with each session. Pure.

    A link without a member, in a public swarm, may do anything.
    """

    def __init__(self) -> None:
        self._members: dict[int, Peer] = {}
        self._sessions: dict[int, SessionParties] = {}

    def attach(self, link: int, member: Peer) -> None:
        """A member has dialled in by the link of that number."""
        self._members[link] = member

    def detach(self, link: int) -> None:
        """A link has ended; with its last one a coordinator's sessions are orphans."""
        gone = self._members.pop(link, None)
        if gone is None or any(each.member_id == gone.member_id for each in self._members.values()):
            return
        for session, parties in self._sessions.items():
            if parties.owner == gone.member_id:
                self._sessions[session] = parties.orphaned()

    def check_kind(self, link: int, kind: str | None) -> None:
        """Let a kind of message in (S18); who sends another breaks the contract, and its link ends.

        Raises:
            TrustError: if its sender sends no such messages.
        """
        if (member := self._members.get(link)) is not None:
            check_sent(kind, member.role)

    def check_session(self, link: int, message: edge_pb2.LinkMessage) -> None:
        """Let a message about a session in (S19); frames are judged row by row, see `check_push`.

        Raises:
            TrustError: if the session is another's.
        """
        member = self._members.get(link)
        if member is None:
            return
        match message.WhichOneof("kind"):
            case "open":
                check_open(member)
            case "resume" if parties := self._sessions.get(message.resume.session):
                parties.check_steer(member)
            case "follow" if parties := self._sessions.get(message.follow.session):
                parties.check_steer(member)
            case "close" if parties := self._sessions.get(message.close.session):
                parties.check_close(member, message.close.epoch)

    def check_push(self, link: int, frame: edge_pb2.Frame, dtype: common_pb2.DType.ValueType) -> None:
        """Let one session's rows in (S20). Rows of an older epoch are let through: they are dropped as such.

        Raises:
            TrustError: if its sender does not come before this node in the session's pipeline.
        """
        member, parties = self._members.get(link), self._sessions.get(frame.session)
        if member is None or parties is None or frame.epoch < parties.epoch:
            return
        if frame.epoch > parties.epoch:
            raise TrustError("rows of an epoch that has not been opened here are refused", subject=member.member_id)
        parties.check_push(member, token_ids=dtype == common_pb2.DTYPE_INT32)

    def opened(self, link: int, message: edge_pb2.OpenSession) -> None:
        """An epoch of a session has been opened by a link's member."""
        member = self._members.get(link)
        if member is not None:
            self._sessions[message.session] = SessionParties(
                owner=member.member_id,
                predecessor=message.predecessor,
                epoch=message.epoch,
                is_head=message.span.start == 0,
            )

    def forget(self, session: int) -> None:
        """A session has ended here."""
        self._sessions.pop(session, None)
