"""What the health page shows of one model. Pure."""

from dataclasses import dataclass

from osai.coordinator.api import ModelView, SwarmView
from osai.coordinator.health.day import DayStrip, day_strip
from osai.coordinator.health.energy import joules_a_token
from osai.coordinator.health.figures import Figures
from osai.coordinator.health.redaction import redacted
from osai.coordinator.health.strip import MANY, Strip, strip_of
from osai.coordinator.health.wording import amount, energy, latency, listed, rate, replicas_in_words, shortened
from osai.coordinator.history.past import ModelPast


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model. `reason`: why it can't be served, where no layer is missing."""

    name: str
    servable: bool
    signed: bool
    licence: str
    num_layers: int
    max_context: int
    num_queued: int
    strip: Strip
    num_cells: int
    height: int
    missing: str
    lacking: str
    single: str
    reason: str
    runs: str
    day: DayStrip
    ttft_p50: str
    ttft_p95: str
    token_p50: str
    token_p95: str
    tokens_per_s: str
    tokens_day: str
    num_recoveries: str
    energy: str


def hosts_of(view: SwarmView) -> dict[str, list[tuple[str, int]]]:
    """Device and number of layers of each ready span, by model."""
    hosts: dict[str, list[tuple[str, int]]] = {}
    for node in view.nodes:
        for span in node.spans:
            if span.state == "ready":
                hosts.setdefault(span.model_id, []).append((node.device, len(span.span)))
    return hosts


def token_joules(past: ModelPast, hosts: list[tuple[str, int]]) -> float | None:
    """Energy of a token at the pace of the last hour, or of the last day where there was none."""
    gaps = past.hour.gaps if past.hour.gaps.num_samples else past.day.gaps
    return joules_a_token(gaps.quantile(0.5), hosts)


def model_card(
    model: ModelView, figures: Figures | None = None, hosts: list[tuple[str, int]] | None = None
) -> ModelCard:
    """What is shown of a model; `hosts` as of `hosts_of`."""
    figures = figures or Figures()
    past = figures.past.models.get(model.model_id, ModelPast())
    strip = strip_of(model.replicas)
    return ModelCard(
        name=shortened(model.model_id),
        servable=model.covered,
        signed=model.signed,
        licence=shortened(redacted(model.licence)) or "no licence stated",
        num_layers=model.num_layers,
        max_context=model.max_context,
        num_queued=model.num_queued,
        strip=strip,
        num_cells=len(strip.cells),
        height=MANY,
        missing=listed(strip.missing),
        lacking=shortened(redacted(model.missing)),
        single=listed(strip.single),
        reason=reason(model),
        runs=listed([replicas_in_words(run) for run in strip.runs]),
        day=day_strip(past.servable, figures.past.recorded),
        ttft_p50=latency(past.hour.ttft.quantile(0.5)),
        ttft_p95=latency(past.hour.ttft.quantile(0.95)),
        token_p50=latency(past.hour.gaps.quantile(0.5)),
        token_p95=latency(past.hour.gaps.quantile(0.95)),
        tokens_per_s=rate(figures.model_rates.get(model.model_id, 0.0)),
        tokens_day=amount(past.day.num_tokens),
        num_recoveries=amount(past.day.num_recoveries),
        energy=energy(token_joules(past, hosts or [])),
    )


def reason(model: ModelView) -> str:
    """Why a model can't be served though every layer has a node; empty where it can, or layers are missing."""
    if model.covered or not all(model.replicas):
        return ""
    return "Every layer has a node, but no spans of one precision join from the first layer to the last."
