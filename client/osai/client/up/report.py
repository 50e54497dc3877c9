"""What `osai up` tells: notes on standard error, and once ready a table or one JSON line on standard output."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from osai.client.terminal import harmless, print_table
from osai.client.up.plan import CoordinatorReady, NodeReady

FOLLOW_INTERVAL_S = 0.2  # for people who read along


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningNode:
    """A node that serves, and its process."""

    name: str
    pid: int
    ready: NodeReady


def note(text: str) -> None:
    """Tell what goes on."""
    click.echo(f"osai up: {harmless(text)}", err=True)


def as_json(coordinator: CoordinatorReady, nodes: tuple[RunningNode, ...]) -> str:
    """The ready line, for scripts."""
    return json.dumps(
        {
            "grpc": coordinator.grpc,
            "http": coordinator.http,
            "nodes": [
                {
                    "id": node.ready.node_id,
                    "pid": node.pid,
                    "spans": [
                        {"model": model, "start": span.start, "end": span.end} for model, span in node.ready.spans
                    ],
                }
                for node in nodes
            ],
        }
    )


def print_ready(model_id: str, coordinator: CoordinatorReady, nodes: tuple[RunningNode, ...]) -> None:
    """The ready table, for people."""
    rows = [
        (
            node.name,
            ", ".join(f"[{span}]" for _, span in node.ready.spans),
            node.ready.edge,
            str(node.pid),
            node.ready.node_id,
        )
        for node in nodes
    ]
    print_table(f"{model_id} on {len(rows)} nodes", ("node", "layers", "address", "pid", "id"), rows)
    click.echo(f"page:  {coordinator.http}")
    click.echo(f"try:   osai generate --coordinator {coordinator.grpc} --max-tokens 60 'ROMEO:'")
    click.echo("Ctrl-C stops everything.")


async def follow(logs: Mapping[str, Path]) -> None:
    """Pass logs on to standard error as they grow, each line with its name, until cancelled."""
    seen = dict.fromkeys(logs, 0)
    while True:
        for name, file in logs.items():
            seen[name] += _pass_on(name, file, seen[name])
        await asyncio.sleep(FOLLOW_INTERVAL_S)


def _pass_on(name: str, file: Path, start: int) -> int:
    """Print the whole lines after byte `start`; how many bytes they have."""
    if not file.exists():
        return 0
    with file.open("rb") as log:
        log.seek(start)
        data = log.read()
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        click.echo(f"{name}: {line}", err=True)
    return len(whole)
