"""Where the answers of a chat are shown, and how that is done in a file or a pipe."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import click

from osai.client.chat.tally import Taken
from osai.client.commands.notices import show_notice
from osai.client.events import Chunk, GenerationEvent
from osai.client.terminal import for_stdout, harmless


class View(Protocol):
    """Shows one answer after the other."""

    def answering(self) -> AbstractContextManager[None]:
        """An answer begins, and ends."""

    def show(self, event: GenerationEvent) -> None:
        """An event of the answer."""

    def stopped(self) -> None:
        """The answer was stopped."""

    def taken(self, taken: Taken) -> None:
        """What the answer took, after its end."""

    def tell(self, text: str) -> None:
        """What a command has to say, of one line or several."""

    def fail(self, message: str) -> None:
        """Why something did not work."""


class PlainView:
    """Not on a terminal: answers alone go to standard output, each with a newline after it."""

    @contextmanager
    def answering(self) -> Iterator[None]:
        """An answer begins, and ends."""
        try:
            yield
        finally:
            click.echo()

    def show(self, event: GenerationEvent) -> None:
        """Text goes on; notices go to standard error."""
        show_notice(event)
        if isinstance(event, Chunk):
            click.echo(for_stdout(event.text), nl=False)  # echo flushes

    def stopped(self) -> None:
        """The answer was stopped."""
        click.echo(" [stopped]", nl=False)

    def taken(self, taken: Taken) -> None:
        """Nobody asked."""

    def tell(self, text: str) -> None:
        """To standard error."""
        click.echo(harmless(text), err=True)

    def fail(self, message: str) -> None:
        """One line to standard error."""
        click.echo(harmless(f"error: {' '.join(message.split())}"), err=True)
