"""The command."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from osai.core.errors import OsaiError
from osai.core.logs import configure_logs
from osai.core.sizes import parse_bytes
from osai.node.doctor.facts import Facts
from osai.node.doctor.verdicts import exit_status, lines_of, verdicts


def doctor_command(join: click.Command) -> click.Command:
    """`osai-node doctor`, which looks at what `join` would use."""

    @click.command("doctor", context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ADDRESS] [OPTIONS OF join]...")
    @click.pass_context
    def doctor(context: click.Context, arguments: tuple[str, ...]) -> None:
        configure_logs("error")
        with join.make_context("join", list(arguments), parent=context.find_root()) as wanted:
            params = wanted.params
        found = verdicts(observe(params))
        if params["as_json"]:
            click.echo(json.dumps({"checks": [asdict(one) for one in found], "ok": not exit_status(found)}))
        else:
            for line in lines_of(found):
                click.echo(line)
        context.exit(exit_status(found))

    doctor.help = (
        "Look whether this machine can be a node: device, memory, ports, the coordinator at ADDRESS, its protocol, the "
        "clock, disk and trust files. It takes the options, environment and file of `join`, changes nothing, and exits "
        "with 1 if a check fails. --json prints one JSON line."
    )
    return doctor


def observe(params: dict[str, Any]) -> Facts:
    """Look at everything that `join` would use with these parameters."""
    from osai.node.coordinators import host_of  # noqa: PLC0415 - these bring gRPC
    from osai.node.doctor import looking  # noqa: PLC0415

    address, state = str(params["address"]), Path(params["state"]).expanduser()
    try:
        towards = host_of(address) if address else "192.0.2.1"
    except OsaiError:
        towards = "192.0.2.1"  # the coordinator's check says what is wrong
    memory = parse_bytes(params["memory"]) if params["memory"] else None
    ports = [looking.look_at_port("--listen", params["listen"], params["announce"], towards)]
    ports.append(looking.look_at_port("--dht", params["dht_listen"], None, towards))
    if params["metrics_listen"]:
        ports.append(looking.look_at_port("--metrics", params["metrics_listen"], None, towards))
    return Facts(
        device=looking.look_at_device(params["device"], params["dtype"], memory),
        ports=tuple(ports),
        coordinator=asyncio.run(looking.ask_coordinator(address, state)),
        disk=looking.look_at_disk(params["cache_dir"], params["cache_bytes"]),
        trust=looking.look_at_trust(
            params["trust"], state, has_token=bool(params["token"]), allow_unsigned=params["allow_unsigned"]
        ),
    )
