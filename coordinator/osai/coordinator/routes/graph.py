"""The cheapest ring of spans: a shortest path over stages and the edges between them, the closing one too. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import inf
from operator import itemgetter

from osai.coordinator.routes.hop import MAX_EXACT_HOPS, Hop

NO_GAIN_S = 1e-6  # what a ring must be better by to be preferred: sums of the same times differ in the last digits
SMALL_GAIN_S = 5e-4  # the same for more than MAX_EXACT_HOPS: less is noise of the times, at a third more work
NUM_FIRST_RINGS = 1  # found in a straight line before all else, to cut it short

_NODE_ID, _COST = Hop._fields.index("node_id"), Hop._fields.index("cost")


class RouteGraph:
    """Hops of one kind, those left out that can be in no ring that is cheaper than one that is known.

    An edge costs what its first node has measured, else what its second has (of more than MAX_EXACT_HOPS only for nodes
    that have measured nothing themselves), else what is usual for the first. A ring of one stage has no edge.

    Without the closing edge the problem is a dynamic program over layer boundaries: `rest` of each hop, from the last
    layer back to the first. A span leads forward always, so that one pass is enough; of the edges that nobody has
    measured only the one into the cheapest hop counts, so that the pass takes time for measured ones alone.
    `before` bounds from below what leads to a boundary: a first pass, by each hop's least edge. Between these a hop
    shows whether it can be of use.

    Args:
        hops: in an order that does not depend on chance: ties go to the earlier one.
        num_layers: of the model.
        broken: edges (from, to) that are not to be used.

    Attributes:
        hops: by node id.
        rest: by boundary and node, what it costs from there to the tail, the hop itself included.
        ranked: the same, cheapest first.
        best, ring: the cheapest ring that is known already.
        below: what another one must cost less than.
    """

    def __init__(self, hops: Sequence[Hop], num_layers: int, broken: Collection[tuple[str, str]] = ()) -> None:
        self.num_layers = num_layers
        self.hops = {hop.node_id: hop for hop in hops if hop.end <= num_layers}
        self._starting: dict[int, list[Hop]] = {}
        for hop in sorted(self.hops.values(), key=itemgetter(_COST)):
            self._starting.setdefault(hop.start, []).append(hop)
        self._more: dict[str, dict[str, float]] = {}
        self._note_besides(broken)
        self._before = self._bound_before()
        self.rest: dict[int, dict[str, float]] = {}
        self.ranked: dict[int, list[tuple[float, Hop]]] = {}
        self.best = self.below = inf
        self.ring: tuple[Hop, ...] = ()
        self._gain = NO_GAIN_S if len(self.hops) <= MAX_EXACT_HOPS else SMALL_GAIN_S
        for head in self._starting.get(0, ())[:NUM_FIRST_RINGS]:
            self.note(self._straight(head))
        for start in sorted(self._starting, reverse=True):
            self._settle(start)

    def note(self, ring: Sequence[Hop]) -> None:
        """Keep a ring if it is the cheapest so far."""
        if not ring or ring[-1].end != self.num_layers:
            return
        edges = (self.edge(hop, ring[(i + 1) % len(ring)]) for i, hop in enumerate(ring))
        cost = sum(hop.cost for hop in ring) + sum(edges)
        if cost < self.best:
            self.best, self.ring, self.below = cost, tuple(ring), cost - self._gain

    def known(self, hop: Hop) -> Mapping[str, float]:
        """Delays from a node to peers, broken edges among them as endless."""
        return self._more.get(hop.node_id, hop.delays)

    def edge(self, hop: Hop, to: Hop) -> float:
        """What it costs from hop to hop."""
        if hop is to:
            return 0.0
        delay = self.known(hop).get(to.node_id)
        return hop.usual if delay is None else delay

    def least_before(self, hop: Hop) -> float:
        """What leads to a hop costs no less than that."""
        return self._before.get(hop.start, inf)

    def onward(self, hop: Hop, below: float) -> Iterator[tuple[float, Hop]]:
        """What may follow a hop: the edge's cost, and the next one; edge and rest together cost less than `below`."""
        known, rests = self.known(hop), self.rest.get(hop.end, {})
        following = self.ranked.get(hop.end, ())
        for node_id, delay in known.items():
            if not following or delay + following[0][0] >= below:
                break
            if node_id in rests and delay + rests[node_id] < below:
                yield delay, self.hops[node_id]
        for rest, to in following:
            if hop.usual + rest >= below:
                break
            if to.node_id not in known:
                yield hop.usual, to

    def _note_besides(self, broken: Collection[tuple[str, str]]) -> None:
        """What a node knows besides its own measurements: those that peers made of it, and edges that are broken."""
        both_ways = len(self.hops) <= MAX_EXACT_HOPS
        asking: dict[int, dict[str, Hop]] = {}
        for hop in self.hops.values():
            if both_ways or not hop.delays:
                asking.setdefault(hop.end % self.num_layers, {})[hop.node_id] = hop
        for hop in list(self.hops.values()) if asking else ():
            for node_id, before in _measured(hop.delays, asking.get(hop.start, {})):
                if hop.node_id not in before.delays:
                    self._learn(node_id, hop.node_id, hop.delays[node_id])
        for node_id, to in broken:
            if node_id in self.hops:
                self._learn(node_id, to, inf)

    def _learn(self, node_id: str, to: str, delay: float) -> None:
        hop = self.hops[node_id]
        known = {**self.known(hop), to: delay}
        self._more[node_id] = dict(sorted(known.items(), key=itemgetter(1)))
        self.hops[node_id] = hop._replace(least=min(delay, hop.least))

    def _bound_before(self) -> dict[int, float]:
        before: dict[int, float] = {0: 0.0}
        for start in sorted(self._starting):
            paid = before.get(start, inf)
            for hop in self._starting[start]:
                cost = paid + hop.cost + hop.least
                if cost < before.get(hop.end, inf):
                    before[hop.end] = cost
        return before

    def _straight(self, head: Hop) -> list[Hop]:
        """A ring by the cheapest next hop each time, of those with a measured edge; empty if it leads nowhere."""
        chain = [head]
        while (hop := chain[-1]).end < self.num_layers:
            known = self.known(hop)
            near = ((self.hops[node_id], delay) for node_id, delay in known.items() if node_id in self.hops)
            costs = [(delay + to.cost, to) for to, delay in near if to.start == hop.end]
            costs += [(self.edge(hop, to) + to.cost, to) for to in self._starting.get(hop.end, ())[:2]]
            if not costs:
                return []
            chain.append(min(costs, key=itemgetter(0))[1])
        return chain

    def _settle(self, start: int) -> None:
        """Find what every hop that starts there costs from there on. Half of a route's time goes here."""
        paid, below, num_layers = self._before.get(start, inf), self.below, self.num_layers
        ranked: list[tuple[float, Hop]] = []
        for hop in self._starting[start]:
            _, _, end, cost, _, _, least = hop[:7]
            if end == num_layers:
                if paid + cost + (least if start else 0.0) < below:
                    ranked.append((cost, hop))
            elif (following := self.ranked.get(end)) and paid + cost + least + following[0][0] < below:
                ranked.append((cost + self._least_onward(hop, following), hop))
        ranked.sort(key=itemgetter(0))
        self.ranked[start] = ranked
        self.rest[start] = {hop.node_id: rest for rest, hop in ranked}

    def _least_onward(self, hop: Hop, following: Sequence[tuple[float, Hop]]) -> float:
        """The least of edge and rest over what may follow."""
        known = self.known(hop) if self._more else hop.delays
        rests, least_rest, usual, least = self.rest[hop.end], following[0][0], hop.usual, inf
        for rest, to in following:
            if to[_NODE_ID] not in known:
                least = usual + rest
                break
        for node_id, delay in known.items():
            if delay >= least - least_rest:
                break
            if node_id in rests and delay + rests[node_id] < least:
                least = delay + rests[node_id]
        return least


def _measured(delays: Mapping[str, float], hops: Mapping[str, Hop]) -> Iterator[tuple[str, Hop]]:
    """Those of `hops` to which there is a delay."""
    return ((node_id, hops[node_id]) for node_id in delays.keys() & hops.keys())
