"""The `osai` command."""

import sys
from typing import Any

import click

from osai.client.commands.chat import chat
from osai.client.commands.generate import generate
from osai.client.commands.key import key_group
from osai.client.commands.manifest import manifest_group
from osai.client.commands.oms import oms_group
from osai.client.commands.private_swarm import swarm_group
from osai.client.commands.swarm import models, status
from osai.client.commands.trust import trust_group
from osai.client.commands.up import up
from osai.core.protocol import software
from osai.core.reporting import ReportingGroup

EXIT_INTERRUPTED = 130  # what shells give a program that Ctrl-C ended


class OsaiGroup(ReportingGroup):
    """Reports errors as one line, and Ctrl-C by its own exit status."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Invoke the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=OsaiGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(message="%(version)s", version=software())
def main() -> None:
    """Use an osai swarm: large open models, served by machines none of which could hold one.

    \b
    Examples:
      osai up                                  a swarm on this machine, with the small model that comes along
      osai generate "ROMEO:" --max-tokens 60   continue a text
      osai chat --coordinator HOST:7070        talk with a model
      osai status                              who serves which layers
    """  # noqa: D301 (click reads the escape)


for command in (generate, chat, models, status, up, key_group, manifest_group, trust_group, oms_group, swarm_group):
    main.add_command(command)
