"""What the page shows beside the swarm's view. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from osai.coordinator.history.past import Past

NO_HISTORY = Past(trouble="this coordinator keeps none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one moment.

    Attributes:
        past: the history.
        model_rates, node_rates: tokens a second of late, by model and by node.
        num_recoveries: since this coordinator started.
        now: minutes since 1970.
    """

    past: Past = NO_HISTORY
    model_rates: Mapping[str, float] = field(default_factory=dict)
    node_rates: Mapping[str, float] = field(default_factory=dict)
    num_recoveries: int = 0
    now: int = 0
