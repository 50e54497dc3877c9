"""Whom one session has had bad luck with, and who holds its KV. Pure."""

from osai.coordinator.sessions.actions import Detour
from osai.coordinator.sessions.trouble import is_hopeless
from osai.core.errors import OsaiError, UnknownSessionError
from osai.core.layers import LayerRange

FIRST_BACKOFF_S = 0.5  # a node that has refused twice is left alone for so long, then twice as long, up to
MAX_BACKOFF_S = 8.0  # a quarter of the wait for coverage
SUSPICION_S = 30.0  # a node that has failed once is the last choice for so long


class Detours:
    """What the session's next pipeline is to be like."""

    def __init__(self) -> None:
        self.kept: dict[str, LayerRange] = {}  # nodes that hold the session's KV, as far as is known
        self._failures: dict[str, tuple[int, float]] = {}  # how often in a row, when last
        self._broken: set[str] = set()
        self._edges: dict[tuple[str, str], tuple[int, float]] = {}  # that broke: how often in a row, when last
        self._forgiven: set[tuple[str, str]] = set()  # of them, for want of a way around

    def failed(self, node_id: str, now_s: float) -> None:
        """A node was lost, refused, or did not answer: others go first; from the second time on it is left alone."""
        self._failures[node_id] = (self._failures.get(node_id, (0, 0.0))[0] + 1, now_s)

    def blame(self, node_id: str, error: OsaiError, now_s: float, *, is_open: bool, is_edge: bool) -> None:
        """A stage says that it can't go on.

        Args:
            node_id: its node.
            error: why; its subject is the stage itself, or its successor.
            now_s: the time.
            is_open: it keeps the session's KV.
            is_edge: it is about its link to its successor.
        """
        if not is_open:
            self.kept.pop(node_id, None)
        if is_edge and isinstance(error, UnknownSessionError):  # the successor was restarted, it seems
            self.kept.pop(error.subject, None)
        elif is_edge:  # this coordinator may well reach both ends
            self._edge_broke((node_id, error.subject), now_s)
        else:
            self.failed(node_id, now_s)
            if is_hopeless(error):
                self._broken.add(node_id)

    def forgive_edges(self, now_s: float) -> bool:
        """There is no way around the broken edges: some are to be tried again, each less and less often.

        Returns:
            Whether there are any.
        """
        due = {key for key, failures in self._edges.items() if now_s >= _until_s(*failures)} - self._forgiven
        self._forgiven |= due
        return bool(due)

    def progress(self) -> None:
        """A token has come: bad luck is over, but for nodes and edges that are broken."""
        self._failures.clear()

    def now(
        self, now_s: float, *, avoid: frozenset[str] = frozenset(), suspects: frozenset[str] = frozenset()
    ) -> Detour:
        """What holds now, with more nodes to keep clear of."""
        backed_off = {key for key, failures in self._failures.items() if now_s < _until_s(*failures)}
        lately = {key for key, (_, at_s) in self._failures.items() if now_s < at_s + SUSPICION_S}
        return Detour(
            avoid=avoid | self._broken | backed_off,
            avoid_edges=frozenset(self._edges.keys() - self._forgiven),
            suspects=suspects | lately,
            kept=dict(self.kept),
        )

    def _edge_broke(self, edge: tuple[str, str], now_s: float) -> None:
        self._edges[edge] = (self._edges.get(edge, (0, 0.0))[0] + 1, now_s)
        self._forgiven.discard(edge)


def _until_s(count: int, at_s: float) -> float:
    return at_s + min(FIRST_BACKOFF_S * 2.0 ** (count - 2), MAX_BACKOFF_S) if count > 1 else at_s
