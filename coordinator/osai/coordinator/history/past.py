"""What the history tells the page. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from osai.coordinator.history.minute import Flow, Minute

DAY_CELLS = 48  # of a 24 h strip
CELL_MINUTES = 30
DAY_MINUTES = DAY_CELLS * CELL_MINUTES

Day = tuple[int, ...]  # minutes of each half hour of the last 24 h, oldest first
NO_DAY: Day = (0,) * DAY_CELLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributor:
    """Tokens that nodes of one name had a part in. The empty name is that of all who gave none."""

    name: str
    num_nodes: int
    tokens_day: int
    tokens_month: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPast:
    """One model's last 24 h: minutes that it was servable, and what it served in them and in the last hour."""

    servable: Day = NO_DAY
    hour: Flow = field(default_factory=Flow)
    day: Flow = field(default_factory=Flow)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What was recorded, up to now.

    Attributes:
        trouble: why nothing is kept on disk; empty where it is.
        since: the first minute that was recorded, minutes since 1970; None: there is none.
        recorded: minutes that this coordinator has watched.
        nodes: minutes that each node was present.
        models: of each model that was seen.
        contributors: those of most tokens of the last 30 days first.
    """

    trouble: str = ""
    since: int | None = None
    recorded: Day = NO_DAY
    nodes: Mapping[str, Day] = field(default_factory=dict)
    models: Mapping[str, ModelPast] = field(default_factory=dict)
    contributors: tuple[Contributor, ...] = ()

    def with_minutes(self, *minutes: Minute) -> "Past":
        """This and what came since: minutes that are not stored yet."""
        past = self
        for minute in minutes:
            past = past._with_minute(minute)
        return past

    def _with_minute(self, minute: Minute) -> "Past":
        models = dict(self.models)
        for model_id, flow in minute.flows.items():
            so_far = models.get(model_id, ModelPast())
            models[model_id] = replace(so_far, hour=so_far.hour.plus(flow), day=so_far.day.plus(flow))
        return replace(self, models=models, contributors=_contributors(self.contributors, minute))


def _contributors(so_far: tuple[Contributor, ...], minute: Minute) -> tuple[Contributor, ...]:
    if not minute.served:
        return so_far
    found = {one.name: one for one in so_far}
    for (node_id, _), tokens in minute.served.items():
        name = minute.names.get(node_id, "")
        one = found.get(name) or Contributor(name=name, num_nodes=1, tokens_day=0, tokens_month=0)
        found[name] = replace(one, tokens_day=one.tokens_day + tokens, tokens_month=one.tokens_month + tokens)
    return tuple(sorted(found.values(), key=lambda one: (-one.tokens_month, one.name)))
