"""`osai completion`: what a shell is to know to complete osai's commands."""

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

PROGRAMS = ("osai", "osai-node", "osai-coordinator")


class Bash(BashComplete):
    """Its script is the same whichever bash runs here: whether that one is new enough, whoever reads it finds out."""

    @staticmethod
    def _check_version() -> None:
        """Nothing is run."""


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": FishComplete}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.argument("program", type=click.Choice(PROGRAMS), default=PROGRAMS[0])
def completion(*, shell: str, program: str) -> None:
    """Print a shell's completion script, for osai or another PROGRAM.

    Bash is to be 4.4 or newer.

    \b
    Examples:
      source <(osai completion bash)                               # in ~/.bashrc
      source <(osai completion bash osai-node)
      osai completion zsh > ~/.zfunc/_osai                         # a folder of $fpath
      osai completion fish > ~/.config/fish/completions/osai.fish
    """  # noqa: D301 (click reads the escape)
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"  # that click listens to
    click.echo(SHELLS[shell](click.Group(), {}, program, variable).source())
