"""`osai chat`: a conversation in the terminal."""

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Unpack

import click

from osai.client.blocking import Client
from osai.client.chat.conversation import Conversation
from osai.client.commands.options import (
    SamplingArguments,
    api_key_option,
    coordinator_option,
    generation_options,
    sampling_options,
    timeout_option,
    timeouts_of,
    trusted_only_option,
)
from osai.client.swarm import Model
from osai.client.terminal import harmless
from osai.core.errors import SetupError

if TYPE_CHECKING:
    from prompt_toolkit.history import History


@click.command("chat")
@coordinator_option
@api_key_option
@click.option("--system", metavar="TEXT", default="", help="What the model is told before the first question.")
@trusted_only_option
@sampling_options
@timeout_option
def chat(
    *,
    coordinator: tuple[str, ...],
    api_key: str | None,
    trusted_only: tuple[bytes, ...] | None,
    system: str,
    timeout_s: float | None,
    **sampling: Unpack[SamplingArguments],
) -> None:
    """Talk with a model.

    Its chat template is applied. /help lists the commands of a chat: another model, another system text, figures, and
    more. Alt-Enter, or a backslash at the end of a line, begins another line. Ctrl-C stops an answer, Ctrl-D leaves.
    What was asked is kept for the next chat in ~/.local/state/osai/client/chat-history, for you alone.

    Where standard input or output is no terminal, each line is one question.

    \b
    Examples:
      osai chat --coordinator swarm.example.org:7070 --model org/model
      osai chat --temperature 0.7 --system "Answer in one sentence."
      osai chat < questions.txt > answers.txt
    """  # noqa: D301 (click reads the escape)
    options = generation_options(sampling)
    options["trusted_only"] = trusted_only
    with Client(coordinator, timeouts=timeouts_of(timeout_s), api_key=api_key) as client:
        models = client.models()  # nobody should type a question before hearing that nobody is there
        conversation = Conversation(options, system)
        if sys.stdin.isatty() and sys.stdout.isatty():
            _at_terminal(client, conversation, models)
        else:
            _plainly(client, conversation, models)


def _plainly(client: Client, conversation: Conversation, models: tuple[Model, ...]) -> None:
    from osai.client.chat.talk import Talk  # noqa: PLC0415 - as below
    from osai.client.chat.views import PlainView  # noqa: PLC0415

    Talk(client, conversation, PlainView(), models).run(input)


def _at_terminal(client: Client, conversation: Conversation, models: tuple[Model, ...]) -> None:
    # the editor's library takes a quarter of a second to import: for those alone who chat
    from osai.client.chat.editor import editor, unechoed  # noqa: PLC0415
    from osai.client.chat.screen import Screen  # noqa: PLC0415
    from osai.client.chat.talk import HINT, Talk  # noqa: PLC0415
    from osai.client.chat.terminal_view import TerminalView  # noqa: PLC0415

    screen = Screen(sys.stdout, lambda: shutil.get_terminal_size().columns)
    view = TerminalView(screen, partial(unechoed, sys.stdin.fileno()))
    talk = Talk(client, conversation, view, models)
    view.tell(f"{_greeting(conversation, models)}. {HINT}.")
    talk.run(editor(_history(view.fail), lambda: talk.model_ids))


def _history(tell: Callable[[str], None]) -> "History":
    from prompt_toolkit.history import FileHistory, InMemoryHistory  # noqa: PLC0415

    from osai.client.chat.history_file import history_file, prepare  # noqa: PLC0415

    try:
        prepare(history_file())
    except SetupError as e:
        tell(e.message)
        return InMemoryHistory()
    return FileHistory(os.fspath(history_file()))


def _greeting(conversation: Conversation, models: tuple[Model, ...]) -> str:
    """Whom one talks with."""
    named = conversation.options.get("model_id")
    if named or len(models) == 1:
        return harmless(named or models[0].model_id)
    return f"{len(models)} models are served: choose one with /model ID" if models else "No model is served just now"
