"""The node's control stream: to one coordinator at a time, found anew when it is lost."""

import logging
from collections.abc import Callable

from osai.core.directory import Directory
from osai.core.errors import OsaiError, UnavailableError
from osai.core.link import ControlLink, control_link
from osai.core.member_tls import MemberTls
from osai.node.coordinators import Coordinators
from osai.proto import control_pb2

log = logging.getLogger(__name__)


class Control:
    """Dials coordinators in turn and carries messages to the one that answers."""

    def __init__(
        self,
        node_id: str,
        coordinators: Coordinators,
        on_greeted: Callable[[], None],
        on_message: Callable[[control_pb2.CoordinatorMessage], None],
        tls: MemberTls | None = None,
    ) -> None:
        self._node_id = node_id
        self._coordinators = coordinators
        self._on_greeted = on_greeted
        self._on_message = on_message
        self._tls = tls
        self._link: ControlLink | None = None

    @property
    def address(self) -> str | None:
        """HOST:PORT of the coordinator that is dialled just now."""
        return self._link.address if self._link else None

    def send(self, message: control_pb2.NodeMessage) -> None:
        """Send to the coordinator; dropped with a line in the log where there is none just now."""
        if self._link is None:
            log.debug("no coordinator to send %s to", message.WhichOneof("kind"))
            return
        try:
            self._link.send(message)
        except OsaiError as e:
            log.warning("not sent to the coordinator: %s", e)

    async def hold(self, directory: Directory | None) -> OsaiError:
        """Dial the next coordinator and hold the stream until it ends; returns why it ended."""
        if directory is not None:
            await self._coordinators.refresh(directory)
        address = self._coordinators.next()
        if address is None:
            return UnavailableError("the DHT knows no coordinator; start one with `osai-coordinator serve`")
        self._link = control_link(address, self._node_id, self._on_message, self._on_greeted, self._tls)
        try:
            return await self._link.run()
        finally:
            self._link = None
