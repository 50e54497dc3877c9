"""Records what goes on, a minute at a time. Pure: events and `now` in, minutes out."""

from collections.abc import Sequence
from dataclasses import replace

from osai.coordinator.api import SwarmView
from osai.coordinator.history.minute import Coverage, Flow, Minute
from osai.coordinator.history.rates import Rates

MAX_NODES = 5000  # recorded of one minute; in a public swarm anybody may say that he is many
MINUTE_S = 60.0


class Recorder:
    """The minute that is open, and how fast tokens come."""

    def __init__(self) -> None:
        self.rates = Rates()
        self._nodes: dict[str, str] = {}
        self._coverage: dict[str, Coverage] = {}
        self._flows: dict[str, Flow] = {}
        self._served: dict[tuple[str, str], int] = {}
        self._names: dict[str, str] = {}  # of nodes seen of late

    def knows(self, node_ids: Sequence[str]) -> bool:
        """Whether all of these have been seen of late, and so have their names."""
        return all(node_id in self._names for node_id in node_ids)

    def first_token(self, model_id: str, wait_s: float) -> None:
        """A generation has its first token, so long after it was asked for."""
        self._flow(model_id).ttft.add(wait_s)

    def gap(self, model_id: str, gap_s: float, num_tokens: int) -> None:
        """So many tokens came, each so long after the one before."""
        self._flow(model_id).gaps.add(gap_s, num_tokens)

    def tokens(self, model_id: str, node_ids: Sequence[str], num_tokens: int, now_s: float) -> None:
        """Tokens were given out, that these nodes have worked on."""
        flow = self._flow(model_id)
        self._flows[model_id] = replace(flow, num_tokens=flow.num_tokens + num_tokens)
        for node_id in node_ids:
            key = node_id, model_id
            if key in self._served or len(self._served) < MAX_NODES:
                self._served[key] = self._served.get(key, 0) + num_tokens
        self.rates.add(model_id, node_ids, num_tokens, now_s)

    def recovery(self, model_id: str) -> None:
        """A generation goes on over another pipeline."""
        flow = self._flow(model_id)
        self._flows[model_id] = replace(flow, num_recoveries=flow.num_recoveries + 1)

    def see(self, view: SwarmView) -> None:
        """The swarm at a moment of the minute."""
        names = {node.node_id: node.name for node in view.nodes[:MAX_NODES]}
        self._names = names if len(self._names) > MAX_NODES else self._names | names
        for node in view.nodes:
            if node.node_id in self._nodes or len(self._nodes) < MAX_NODES:
                self._nodes[node.node_id] = node.name
        for model in view.models:
            before = self._coverage.get(model.model_id)
            thinnest = min(model.replicas, default=0)
            self._coverage[model.model_id] = Coverage(
                servable=model.covered and (before is None or before.servable),
                thinnest=thinnest if before is None else min(thinnest, before.thinnest),
            )

    def open_minute(self, at: int) -> Minute:
        """What there is of the minute so far."""
        return Minute(
            at=at,
            nodes=dict(self._nodes),
            coverage=dict(self._coverage),
            flows={model_id: Flow().plus(flow) for model_id, flow in self._flows.items()},
            served=dict(self._served),
            names={node_id: self._names.get(node_id, "") for node_id, _ in self._served},
        )

    def close_minute(self, at: int) -> Minute:
        """The minute, which ends here."""
        minute = self.open_minute(at)
        for part in (self._nodes, self._coverage, self._flows, self._served):
            part.clear()
        return minute

    def _flow(self, model_id: str) -> Flow:
        return self._flows.setdefault(model_id, Flow())
