"""What a person is told while a generation waits or moves, on standard error: the text's stream stays as it is."""

import sys

import click

from osai.client.events import GenerationEvent, Rerouted, Waiting
from osai.client.terminal import harmless


def show_notice(event: GenerationEvent) -> None:
    """Print a line where the event is a Rerouted or a Waiting."""
    match event:
        case Waiting():
            line = f"waiting: {event.reason}; given up in {event.remaining_s:.0f} s"
        case Rerouted():
            stages = " > ".join(f"{stage.node_id[:8]} [{stage.span}]" for stage in event.pipeline)
            line = f"rerouted after {event.pause_s:.1f} s: {event.reason}; now {stages}"
        case _:
            return
    lead = "\n" if sys.stdout.isatty() else ""  # the text that streams has not ended its line
    click.echo(lead + harmless(" ".join(line.split())), err=True)
