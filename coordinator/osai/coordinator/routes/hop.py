"""A span that may be a stage, what it costs, and which of many are looked at. Pure."""

from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import NamedTuple, Self

from osai.core.layers import LayerRange

STAGE_S = 0.005  # of one stage more: makes fewer stages win over slightly faster ones
SESSION_SHARE = 0.25  # of a step, for each session that a node runs: their rows go in the same steps
ROW_SHARE = 1 / 32  # of a step, for each row that waits: rows of one step are that much cheaper than steps of their own
MAX_HOP_S = 10.0  # what is slower is no worse: bounds what a record can claim
MAX_EXACT_HOPS = 200  # of so many the best ring is found for certain; of more, very nearly, in less time
MIN_REPLICAS = 32  # of a span that are looked at, if there are as many


class Hop(NamedTuple):
    """One span that may be a stage; a node has one at most. A tuple: a route over 1,000 of them takes some ms in all.

    Attributes:
        cost: of a step on it; from `hop_cost_s`, and what a route's wish adds.
        delays: one-way seconds to peers, as the node measured them, the least first.
        usual: of an edge that nobody has measured.
        least: no edge takes less.
        served: id of the model, and digest of the manifest.
        kind: dtype, start and end.
        step_s, num_waiting_rows, num_sessions: by the node's last word; the cost is made of them.
        num_free_kv_tokens: by the same.
    """

    node_id: str
    start: int
    end: int
    cost: float
    delays: Mapping[str, float]
    usual: float
    least: float
    address: str
    served: tuple[str, bytes]
    kind: tuple[str, int, int]
    step_s: float
    num_waiting_rows: int
    num_sessions: int
    num_free_kv_tokens: int

    @property
    def dtype(self) -> str:
        """Of the layers' computation."""
        return self.kind[0]

    @property
    def layers(self) -> LayerRange:
        """Those that it hosts."""
        return LayerRange(self.start, self.end)

    def busy(self, num_sessions: int) -> Self:
        """The same with so many sessions on the node, if that is more than it tells of.

        It tells of those of other coordinators too, but some seconds late.
        """
        if num_sessions <= self.num_sessions:
            return self
        return self._replace(cost=hop_cost_s(self.step_s, num_sessions, self.num_waiting_rows))


def hop_cost_s(step_s: float, num_sessions: int, num_waiting_rows: int) -> float:
    """Expected seconds of a session's step on a span, queueing included.

    A share of a step for each session that the node runs, not a whole step: rows of all sessions go in one.
    """
    load = SESSION_SHARE * num_sessions + ROW_SHARE * num_waiting_rows
    return min(STAGE_S + step_s * (1.0 + load), MAX_HOP_S)


_COST = Hop._fields.index("cost")


def shortlist(replicas: Sequence[Sequence[Hop]]) -> list[Hop]:
    """Of many hops with the same layers, the third that costs least.

    Where all of 1,000 nodes with 16 measured delays each were looked at, in 24 swarms for each of 2, 4, 8, 12 and 16
    stages, the best ring was cheaper by 0.3% in the mean at 8, by 0.2% at 12, by 3.6% at most, and else not at all.

    Args:
        replicas: hops in order of their nodes' ids, those with the same layers together.
    """
    if sum(map(len, replicas)) <= MAX_EXACT_HOPS:
        return sorted((hop for some in replicas for hop in some), key=attrgetter("node_id"))
    kept: list[Hop] = []
    for some in replicas:
        kept += sorted(some, key=itemgetter(_COST))[: max(MIN_REPLICAS, len(some) // 3)]
    return kept
