"""Options that every long-running program of osai has: how it logs, and where its traces go."""

from collections.abc import Callable
from typing import TypeVar

import click

from osai.core.logs import LEVELS

Command = TypeVar("Command", bound=Callable[..., None])

OTLP_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"  # OpenTelemetry's own


def log_options(command: Command) -> Command:
    """Give a command --log-level and --log-format."""
    for option in (
        click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
                     help="Log lines as text, or each as a JSON object."),
        click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True,
                     help="Log from this level on."),
    ):  # fmt: skip
        command = option(command)
    return command


def traces_option(prefix: str) -> Callable[[Command], Command]:
    """Give a command --traces; `prefix` is that of its environment variables."""
    return click.option(
        "--traces", default="", metavar="URL", envvar=[f"{prefix}_TRACES", OTLP_VARIABLE],
        help=f"OTLP gRPC collector, http(s)://HOST:PORT, that gets spans of requests; also by {OTLP_VARIABLE}.",
    )  # fmt: skip
