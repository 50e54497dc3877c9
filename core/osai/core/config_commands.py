"""`config show`: what a command would run with."""

import click

from osai.core.config_show import lines_of, settings
from osai.core.reporting import ReportingGroup


def config_group(command: click.Command, name: str) -> click.Group:
    """The group `config` of a program whose command `name` is configured by options, environment and file."""

    @click.group("config", cls=ReportingGroup, invoke_without_command=True)
    @click.pass_context
    def group(context: click.Context) -> None:
        """See what this program would run with: `show`, also where nothing is said."""
        if context.invoked_subcommand is None:
            context.invoke(show, arguments=())

    @group.command("show", context_settings={"ignore_unknown_options": True}, add_help_option=True)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar=f"[OPTIONS OF {name}]...")
    @click.pass_context
    def show(context: click.Context, arguments: tuple[str, ...]) -> None:
        # the docstring is what --help shows
        for line in lines_of(settings(command, name, arguments, context.find_root())):
            click.echo(line)

    show.help = (
        f"Print the effective value of every option of `{name}` and where it comes from, as a file for --config. "
        "What is secret is not shown."
    )
    return group
