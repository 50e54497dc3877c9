"""What happened within one minute, as far as this coordinator saw it. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from osai.coordinator.history.latencies import Latencies


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Generations of one model.

    Attributes:
        num_tokens: given out.
        num_recoveries: times that one went on over another pipeline.
        ttft: from a request to its first token.
        gaps: between one token and the next.
    """

    num_tokens: int = 0
    num_recoveries: int = 0
    ttft: Latencies = field(default_factory=Latencies)
    gaps: Latencies = field(default_factory=Latencies)

    def plus(self, other: "Flow") -> "Flow":
        """Both together."""
        return Flow(
            num_tokens=self.num_tokens + other.num_tokens,
            num_recoveries=self.num_recoveries + other.num_recoveries,
            ttft=Latencies.merged((self.ttft, other.ttft)),
            gaps=Latencies.merged((self.gaps, other.gaps)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """A model, at the worst moment of a minute. `thinnest`: ready nodes of the layer that had the fewest."""

    servable: bool
    thinnest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """One minute.

    Attributes:
        at: minutes since 1970.
        nodes: public names of the nodes that were present, by id; empty for one that has none.
        coverage: of each model.
        flows: of each model that was used.
        served: tokens by the node that had a part in them, and the model.
        names: public names of the nodes in `served`; they may have left meanwhile.
    """

    at: int
    nodes: Mapping[str, str]
    coverage: Mapping[str, Coverage]
    flows: Mapping[str, Flow]
    served: Mapping[tuple[str, str], int]
    names: Mapping[str, str]
