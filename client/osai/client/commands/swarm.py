"""`osai models` and `osai status`: what a swarm serves, and who serves it."""

import asyncio
import json
from dataclasses import asdict

import click

from osai.client.aio import AsyncClient
from osai.client.commands.options import api_key_option, coordinator_option
from osai.client.swarm import HostedSpan, Model, Node, Swarm
from osai.client.terminal import harmless, print_table

OPERATOR_DIGITS = 16  # of an operator's key that are shown: to tell operators apart, not to decide on trust
NODE_COLUMNS = ("node", "name", "operator", "state", "device", "memory", "spans", "sessions", "up", "software")

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON line in place of tables.")


@click.command("models")
@coordinator_option
@api_key_option
@json_option
def models(*, coordinator: tuple[str, ...], api_key: str | None, as_json: bool) -> None:
    """List the models that the swarm serves.

    \b
    Example:
      osai models --coordinator swarm.example.org:7070
    """  # noqa: D301 (click reads the escape)
    found = asyncio.run(_models(AsyncClient(coordinator, api_key=api_key)))
    if as_json:
        click.echo(json.dumps({"models": [asdict(model) for model in found]}))
        return
    _print_models(found)


@click.command("status")
@coordinator_option
@api_key_option
@json_option
def status(*, coordinator: tuple[str, ...], api_key: str | None, as_json: bool) -> None:
    """Show the swarm, who serves which layers.

    \b
    Example:
      osai status --coordinator swarm.example.org:7070
    """  # noqa: D301 (click reads the escape)
    swarm = asyncio.run(_swarm(AsyncClient(coordinator, api_key=api_key)))
    if as_json:
        click.echo(json.dumps(asdict(swarm)))
        return
    click.echo(harmless(f"coordinator {swarm.coordinator_id} ({swarm.software}), page {swarm.http_address or 'none'}"))
    if len(swarm.coordinators) > 1:
        click.echo(harmless(f"coordinators {', '.join(swarm.coordinators)}"))
    _print_models(swarm.models)
    rows = [_node_row(node) for node in swarm.nodes]
    print_table(f"{len(rows)} nodes", NODE_COLUMNS, rows)


async def _models(client: AsyncClient) -> tuple[Model, ...]:
    async with client:
        return await client.models()


async def _swarm(client: AsyncClient) -> Swarm:
    async with client:
        return await client.swarm()


def _print_models(found: tuple[Model, ...]) -> None:
    rows = [
        (
            model.model_id,
            str(model.num_layers),
            str(model.max_context),
            _coverage(model),
            "signed" if model.signed else "UNSIGNED",
            model.licence,
        )
        for model in found
    ]
    print_table(f"{len(rows)} models", ("model", "layers", "context", "serving", "manifest", "licence"), rows)


def _coverage(model: Model) -> str:
    gaps = [layer for layer, count in enumerate(model.replicas) if count == 0]
    if model.covered:
        return f"yes, by {min(model.replicas, default=0)} or more"
    if model.missing:
        return f"no: {model.missing}"
    return (
        f"no: {len(gaps)} layers have no node, the first is {gaps[0]}" if gaps else "no: the nodes' spans do not join"
    )


def _node_row(node: Node) -> tuple[str, ...]:
    return (
        node.node_id,
        node.name,
        node.operator[:OPERATOR_DIGITS],
        node.state,
        node.device,
        f"{node.memory_bytes / 2**30:.1f} GiB",
        "\n".join(_span_line(span) for span in node.spans),
        str(node.num_sessions),
        _duration(node.uptime_s),
        node.software,
    )


def _span_line(span: HostedSpan) -> str:
    notes = [span.state] if span.state != "ready" else []
    notes += [] if span.verified else ["unverified"]
    notes += [span.failure] if span.failure else []
    return f"{span.model_id} [{span.span}] {span.dtype}" + (f" ({'; '.join(notes)})" if notes else "")


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 48:  # noqa: PLR2004 - two days
        return f"{hours / 24:.0f} d"
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min"
