"""The `osai` command."""

import sys
from importlib import import_module
from typing import Any

import click

from osai.client.lost import CoordinatorLostError
from osai.core.protocol import software
from osai.core.reporting import CommandFailure, ReportingGroup

EXIT_INTERRUPTED = 130  # what shells give a program that Ctrl-C ended

# In the order in which people need them, each with where it is: what a command needs is imported when it is called.
COMMANDS = {
    "up": "osai.client.commands.up:up",
    "generate": "osai.client.commands.generate:generate",
    "chat": "osai.client.commands.chat:chat",
    "models": "osai.client.commands.swarm:models",
    "status": "osai.client.commands.swarm:status",
    "swarm": "osai.client.commands.private_swarm:swarm_group",
    "key": "osai.client.commands.key:key_group",
    "manifest": "osai.client.commands.manifest:manifest_group",
    "trust": "osai.client.commands.trust:trust_group",
    "oms": "osai.client.commands.oms:oms_group",
    "completion": "osai.client.commands.shell_completion:completion",
}
NOBODY_THERE = "Name another coordinator with --coordinator or OSAI_COORDINATOR, or start a swarm here: `osai up`."


class OsaiGroup(ReportingGroup):
    """Reports errors as one line, and Ctrl-C by its own exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own signature
        """The commands, in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """One command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Invoke the chosen command."""
        try:
            return super().invoke(ctx)
        except CommandFailure as e:
            if isinstance(e.__cause__, CoordinatorLostError):
                raise CommandFailure(
                    f"{e.message}{'' if e.message[-1] in '.?' else '.'} {NOBODY_THERE}"
                ) from e.__cause__
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=OsaiGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(message="%(version)s", version=software())
def main() -> None:
    """Use an osai swarm: large open models, served by machines none of which could hold one.

    \b
    Examples:
      osai up                                  a swarm on this machine, with the small model osai/shakespeare
      osai generate "ROMEO:" --max-tokens 60   continue a text
      osai chat --coordinator HOST:7070        talk with a model
      osai status                              who serves which layers

    \b
    Exit status:
      0    done
      1    an error; standard error says which, in one line
      2    a wrong command line
      130  ended by Ctrl-C
    """  # noqa: D301 (click reads the escape)
