"""The links that a member has dialled: one for each peer and lane, made when first needed."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from typing import Self

from osai.core.errors import OsaiError, TrustError, UnavailableError
from osai.core.link import EdgeLink, LinkConfig, Wire, edge_link
from osai.core.member_tls import MemberTls
from osai.proto import edge_pb2

log = logging.getLogger(__name__)


class Lane(Enum):
    """Which of a pair's streams a message takes: a decode frame never waits behind a prefill chunk."""

    DECODE = "decode"
    PREFILL = "prefill"


class LinkPool:
    """Dials peers on demand; use it as an async context manager, which ends every link.

    Args:
        my_id: this member's id.
        on_message: called on the loop with a peer's id and each message it sends back on our link.
        on_lost: called once for each link that ends, with the peer's id and the reason.
        tls: of this member; None in a public swarm.
    """

    def __init__(
        self,
        my_id: str,
        on_message: Callable[[str, edge_pb2.LinkMessage], None],
        on_lost: Callable[[str, OsaiError], None],
        config: LinkConfig | None = None,
        tls: MemberTls | None = None,
    ) -> None:
        self._my_id = my_id
        self._on_message = on_message
        self._on_lost = on_lost
        self._config = config
        self._tls = tls
        self._links: dict[tuple[str, str, Lane], tuple[EdgeLink, asyncio.Task[None]]] = {}
        self._tasks = asyncio.TaskGroup()
        self._closing = False
        self._stack = ExitStack()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        if self._tls is not None:
            self._stack.enter_context(self._tls.subscribed(self._end_revoked))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._stack.close()
        for dialled in self._links.values():
            dialled[1].cancel()
        await self._tasks.__aexit__(None, None, None)

    def wire(self, peer: str, address: str, lane: Lane = Lane.DECODE) -> Wire[edge_pb2.LinkMessage]:
        """The link to `peer`, dialled now if there is none.

        Raises:
            UnavailableError: if the pool is closing.
            TrustError: if the peer is revoked.
        """
        if self._closing:
            raise UnavailableError("this member is shutting down")
        if self._tls is not None and self._tls.is_revoked(peer):
            raise _revoked(peer)
        key = (peer, address, lane)
        if key not in self._links:
            link = edge_link(peer, address, self._my_id, lambda m: self._on_message(peer, m), self._config, self._tls)
            self._links[key] = (link, self._tasks.create_task(self._run(key, link)))
        return self._links[key][0]

    def held(self, peer: str, address: str, lane: Lane = Lane.DECODE) -> Wire[edge_pb2.LinkMessage] | None:
        """The link to `peer` if there is one; nothing is dialled."""
        dialled = self._links.get((peer, address, lane))
        return None if dialled is None else dialled[0]

    def num_queued(self, peer: str, address: str, lane: Lane = Lane.DECODE) -> int:
        """Messages that wait to be written to `peer`; none where there is no link."""
        dialled = self._links.get((peer, address, lane))
        return dialled[0].num_queued if dialled else 0

    def _end_revoked(self) -> None:
        for (peer, _, _), (link, _) in self._links.items():
            if self._tls is not None and self._tls.is_revoked(peer):
                link.end(_revoked(peer))

    async def _run(self, key: tuple[str, str, Lane], link: EdgeLink) -> None:
        try:
            reason = await link.run()
        finally:
            del self._links[key]
        log.info("link to %s (%s) ended: %s", link.peer, key[2].value, reason)
        self._on_lost(link.peer, reason)


def _revoked(peer: str) -> TrustError:
    return TrustError(f"{peer} is revoked in this swarm", subject=peer)
