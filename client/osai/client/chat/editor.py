"""The line editor of a chat: several lines, history over sessions, completion of commands."""

import contextlib
import termios
from collections.abc import Callable, Iterable, Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from osai.client.chat.orders import completions

PROMPT, CONTINUATION = "> ", ". "


class Orders(Completer):
    """Completes commands, and the ids of models. `model_ids`: those that are served just now."""

    def __init__(self, model_ids: Callable[[], tuple[str, ...]]) -> None:
        self._model_ids = model_ids

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        """What the last word may become."""
        line = document.text_before_cursor
        last = line if " " not in line else line.rpartition(" ")[2]
        for word in completions(line, self._model_ids()):
            yield Completion(word, start_position=-len(last))


def _accept(event: KeyPressEvent) -> None:
    buffer = event.current_buffer
    if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
        buffer.delete_before_cursor()
        buffer.insert_text("\n")
    else:
        buffer.validate_and_handle()


def _break_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


def editor(history: History, model_ids: Callable[[], tuple[str, ...]]) -> Callable[[], str]:
    """What reads a question or a command from the terminal; Enter ends it, unless after a backslash.

    It raises EOFError at Ctrl-D, and KeyboardInterrupt at Ctrl-C.
    """
    keys = KeyBindings()
    keys.add("enter")(_accept)
    keys.add("escape", "enter")(_break_line)
    session: PromptSession[str] = PromptSession(
        PROMPT,
        multiline=True,
        prompt_continuation=CONTINUATION,
        key_bindings=keys,
        history=history,
        completer=Orders(model_ids),
        reserve_space_for_menu=4,
    )
    return session.prompt


@contextlib.contextmanager
def unechoed(descriptor: int) -> Iterator[None]:
    """While an answer streams, keys that are pressed are not shown among its words; the next line gets them."""
    before = termios.tcgetattr(descriptor)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO  # 3: the local modes
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
