"""What the health page shows of the swarm as a whole, made from its view. Pure."""

import json
import shlex
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from osai.coordinator.api import SwarmView
from osai.coordinator.health.figures import Figures
from osai.coordinator.health.redaction import redacted
from osai.coordinator.health.wording import amount, latency, rate, shortened
from osai.coordinator.history.latencies import Latencies
from osai.core.privacy import privacy_line

MAX_SHOWN_CONTRIBUTORS = 12
MINUTES_UNTIL_WHOLE = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ContributorLine:
    """One name among the contributors. `width`: of its bar, in percent."""

    name: str
    num_nodes: int
    tokens_day: str
    tokens_month: str
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The swarm in a few figures: what is live above the models."""

    num_servable: int
    num_models: int
    servable_mark: str
    headline: str
    num_ready: int
    num_nodes: int
    num_sessions: int
    tokens_per_s: str
    ttft_p50: str
    ttft_p95: str
    token_p50: str
    token_p95: str
    num_recoveries: str
    recoveries_since: str
    history: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributors:
    """Who has served, and how much."""

    lines: tuple[ContributorLine, ...]
    num_more: int
    num_unnamed_nodes: int
    unnamed_day: str
    unnamed_month: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The page around what is live: how to use the swarm, as its reader reaches it. `models`: servable ones first."""

    coordinator: str
    software: str
    join: str
    base_url: str
    curl: str
    models: tuple[str, ...]
    is_private: bool
    privacy: str


def summary(view: SwarmView, figures: Figures) -> Summary:
    """The figures of a swarm."""
    past = figures.past
    hours = [model.hour for model in past.models.values()]
    ttft = Latencies.merged(flow.ttft for flow in hours)
    gaps = Latencies.merged(flow.gaps for flow in hours)
    num_servable = sum(model.covered for model in view.models)
    recoveries = sum(model.day.num_recoveries for model in past.models.values())
    return Summary(
        num_servable=num_servable,
        num_models=len(view.models),
        servable_mark="good" if num_servable == len(view.models) > 0 else "warn" if num_servable else "bad",
        headline=_headline(num_servable, len(view.models)),
        num_ready=sum(node.state == "ready" for node in view.nodes),
        num_nodes=len(view.nodes),
        num_sessions=sum(node.num_sessions for node in view.nodes),
        tokens_per_s=rate(sum(figures.model_rates.values())),
        ttft_p50=latency(ttft.quantile(0.5)),
        ttft_p95=latency(ttft.quantile(0.95)),
        token_p50=latency(gaps.quantile(0.5)),
        token_p95=latency(gaps.quantile(0.95)),
        num_recoveries=f"{figures.num_recoveries if past.trouble else recoveries:,}",
        recoveries_since="since the start" if past.trouble else "in 24 h",
        history=_history(figures),
    )


def contributors(figures: Figures) -> Contributors:
    """Who gave the most tokens of the last 30 days; those who gave no name are counted together."""
    named = [one for one in figures.past.contributors if one.name.strip()]
    unnamed = [one for one in figures.past.contributors if not one.name.strip()]
    most = max((one.tokens_month for one in named), default=0) or 1
    return Contributors(
        lines=tuple(
            ContributorLine(
                name=shortened(redacted(one.name)),
                num_nodes=one.num_nodes,
                tokens_day=amount(one.tokens_day),
                tokens_month=amount(one.tokens_month),
                width=max(1, round(100 * one.tokens_month / most)),
            )
            for one in named[:MAX_SHOWN_CONTRIBUTORS]
        ),
        num_more=max(0, len(named) - MAX_SHOWN_CONTRIBUTORS),
        num_unnamed_nodes=sum(one.num_nodes for one in unnamed),
        unnamed_day=amount(sum(one.tokens_day for one in unnamed)),
        unnamed_month=amount(sum(one.tokens_month for one in unnamed)),
    )


def page_frame(view: SwarmView, *, own_url: str) -> Frame:
    """How to use the swarm; `own_url` is where the reader found the page."""
    url = _announced(view.http_address) or own_url.rstrip("/")
    servable = tuple(model.model_id for model in view.models if model.covered)
    return Frame(
        coordinator=redacted(view.coordinator_id)[:8],
        software=shortened(redacted(view.software)),
        join=_join(view, own_url),
        base_url=f"{url}/v1",
        curl=_curl(url, servable[0] if servable else "MODEL"),
        models=(*servable, *(model.model_id for model in view.models if not model.covered)),
        is_private=view.private,
        privacy=privacy_line(is_private=view.private),
    )


def _headline(num_servable: int, num_models: int) -> str:
    if not num_models:
        return "No model yet"
    if num_servable == num_models:
        return "All models are servable" if num_models > 1 else "The model is servable"
    return f"{num_models - num_servable} of {num_models} models can't be served now"


def _history(figures: Figures) -> str:
    """What a reader must know of the history; empty where there is a whole day of it."""
    past = figures.past
    if past.trouble:
        return f"No history is kept ({shortened(redacted(past.trouble))}): figures are since this coordinator started."
    minutes = figures.now - past.since if past.since is not None else 0
    if minutes >= MINUTES_UNTIL_WHOLE:
        return ""
    return f"The history began {minutes // 60} h {minutes % 60} min ago: what is of 24 h or 30 days is since then."


def _announced(http_address: str) -> str:
    """The coordinator's own address as a URL, where it is a name; an IP address is not told (the reader has one)."""
    url = http_address if "://" in http_address else f"http://{http_address}"
    return url.rstrip("/") if http_address and not _is_ip(_host(url)) and redacted(url) == url else ""


def _join(view: SwarmView, own_url: str) -> str:
    """The command that joins; empty where this coordinator announces nothing."""
    grpc = view.coordinators[0] if view.coordinators else ""
    host, _, port = grpc.rpartition(":")
    if not host or not port.isdecimal():
        return ""
    if _is_ip(host.strip("[]")) or redacted(host) != host:
        host = _host(own_url) or "THIS_HOST"
    return f"osai-node join {shlex.quote(f'[{host}]:{port}' if ':' in host else f'{host}:{port}')}"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _curl(url: str, model: str) -> str:
    body = json.dumps({"model": model, "prompt": "Once upon a time", "max_tokens": 64, "stream": True})
    return (
        f"curl -N {shlex.quote(f'{url}/v1/completions')} \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(body)}"
    )
