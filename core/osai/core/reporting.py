"""How a command line reports osai's errors: one line on standard error, exit status 1."""

import functools
from collections.abc import Callable
from typing import IO, Any, ParamSpec, TypeVar

import click

from osai.core.errors import OsaiError

P = ParamSpec("P")
R = TypeVar("R")


class CommandFailure(click.ClickException):
    """An OsaiError on its way to the terminal."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print `error: MESSAGE` as one line."""
        line = " ".join(self.message.split())
        click.echo(f"error: {line}", file=file, err=file is None)


def reporting_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an OsaiError of `function` into a CommandFailure; goes below `@group.command()`."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except OsaiError as e:
            raise CommandFailure(e.message) from e

    return wrapper


class ReportingGroup(click.Group):
    """A group whose commands, and groups below it, all report as `reporting_errors` does."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 (click's own signature)
        """Invoke the chosen command.

        Raises:
            CommandFailure: for any OsaiError.
        """
        try:
            return super().invoke(ctx)
        except OsaiError as e:
            raise CommandFailure(e.message) from e
