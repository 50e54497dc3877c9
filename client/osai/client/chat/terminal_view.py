"""How the answers of a chat are shown on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import click

from osai.client.chat.screen import Screen
from osai.client.chat.tally import Taken, figures
from osai.client.events import Chunk, GenerationEvent, Rerouted, Waiting
from osai.client.terminal import harmless

BUSY = "\N{HORIZONTAL ELLIPSIS}"
LOST = ("a node was lost, the answer goes on", "a node was lost", BUSY)


class TerminalView:
    """On a terminal.

    Args:
        screen: the terminal.
        quiet: keeps keys that are pressed off the screen while it is entered.
    """

    def __init__(self, screen: Screen, quiet: Callable[[], AbstractContextManager[None]]) -> None:
        self._screen = screen
        self._quiet = quiet
        self._has_text = False

    @contextmanager
    def answering(self) -> Iterator[None]:
        """An answer begins, and ends."""
        self._has_text = False
        with self._quiet():
            self._screen.note(BUSY)
            try:
                yield
            finally:
                self._screen.end()

    def show(self, event: GenerationEvent) -> None:
        """Text goes on; a pause is noted while it lasts."""
        match event:
            case Chunk() if event.text:
                self._has_text = True
                self._screen.text(event.text)
            case Rerouted():
                self._screen.note(*LOST)
            case Waiting() if self._has_text:
                self._screen.note(f"{LOST[0]} within {event.remaining_s:.0f} s", *LOST)
            case Waiting():
                reason = " ".join(event.reason.split())
                self._screen.note(f"waiting: {reason}", f"waiting for {event.remaining_s:.0f} s at most", BUSY)

    def stopped(self) -> None:
        """The answer was stopped."""
        self._screen.end()

    def taken(self, taken: Taken) -> None:
        """One dim line."""
        self._screen.line(figures(taken))

    def tell(self, text: str) -> None:
        """Dim lines."""
        for line in text.splitlines():
            self._screen.line(line)

    def fail(self, message: str) -> None:
        """One line."""
        self._screen.end()
        click.echo(harmless(f"error: {' '.join(message.split())}"), err=True)
