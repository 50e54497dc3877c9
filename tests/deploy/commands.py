"""What deployments run: containers' commands, as the programs' own command lines understand them."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from osai.client.cli import main as client
from osai.coordinator.cli import main as coordinator
from osai.node.cli import main as node

PROGRAMS: Mapping[str, click.Group] = {"osai": client, "osai-node": node, "osai-coordinator": coordinator}
_STUB = '#!/bin/sh\nprintf "%s\\0" "$(basename "$0")" "$@" >> "$CALLS"\nprintf "\\n" >> "$CALLS"\n'


def called(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[list[str]]:
    """The calls of osai's programs that a container's command makes: run with stubs in their place."""
    stubs, calls = folder / "stubs", folder / "calls"
    stubs.mkdir(exist_ok=True)
    for name in PROGRAMS:
        (stubs / name).write_text(_STUB)
        (stubs / name).chmod(0o755)
    calls.write_text("")
    path = f"{stubs}:{os.environ['PATH']}"
    subprocess.run(
        command, env={"PATH": path, "CALLS": str(calls), **environment}, capture_output=True, timeout=30, check=True
    )
    return [line.split("\0")[:-1] for line in calls.read_text().splitlines()]


def understood(call: Sequence[str], environment: Mapping[str, str]) -> Mapping[str, object]:
    """What a program makes of its command line.

    Raises:
        click.ClickException: if it refuses it.
    """
    program, *rest = call
    group, prefix = PROGRAMS[program], program.upper().replace("-", "_")
    name, context = program, None
    command: click.Command = group
    while isinstance(command, click.Group):
        context = click.Context(
            command, info_name=name, parent=context, auto_envvar_prefix=prefix if not context else None
        )
        found_name, found, rest = command.resolve_command(context, list(rest))
        assert found is not None, call
        name, command = found_name or "", found
    known = {variable for option in command.params for variable in _variables(option, f"{prefix}_{name.upper()}")}
    unknown = [key for key in environment if key.startswith(prefix) and key not in known]
    assert not unknown, f"{program} {name} reads no {unknown}"
    return command.make_context(name, list(rest), parent=context).params


def _variables(option: click.Parameter, prefix: str) -> tuple[str, ...]:
    own = (option.envvar,) if isinstance(option.envvar, str) else tuple(option.envvar or ())
    return (f"{prefix}_{(option.name or '').upper()}", *own)
