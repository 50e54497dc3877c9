"""`osai chat`: a conversation in the terminal."""

import contextlib
import sys
from typing import Unpack

import click

from osai.client.blocking import Client
from osai.client.commands.notices import show_notice
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
from osai.client.events import ChatMessage, Chunk
from osai.client.request import GenerationOptions
from osai.client.terminal import for_stdout
from osai.core.errors import OsaiError

HINT = "/exit or Ctrl-D leaves, /reset forgets the conversation, Ctrl-C stops an answer."


class Conversation:
    """The turns so far, and how the next answer is asked for."""

    def __init__(self, client: Client, options: GenerationOptions, system: str | None) -> None:
        self._client = client
        self._options = options
        self._opening = [ChatMessage(role="system", content=system)] if system else []
        self._turns = list(self._opening)

    def reset(self) -> None:
        """Forget every turn but the system's."""
        self._turns = list(self._opening)

    def answer(self, question: str) -> None:
        """Stream the answer to standard output. A stopped answer stays in the history as far as it came.

        Raises:
            OsaiError: why there is no answer; the question is forgotten then.
        """
        asked = [*self._turns, ChatMessage(role="user", content=question)]
        texts: list[str] = []
        try:
            with contextlib.closing(self._client.generate(asked, **self._options)) as events:
                for event in events:
                    show_notice(event)
                    if isinstance(event, Chunk):
                        texts.append(event.text)
                        click.echo(for_stdout(event.text), nl=False)
        except KeyboardInterrupt:
            click.echo(" [stopped]", nl=False)
        finally:
            click.echo()
        self._turns = [*asked, ChatMessage(role="assistant", content="".join(texts))]


@click.command("chat")
@coordinator_option
@api_key_option
@click.option("--system", metavar="TEXT", help="What the model is told before the first question.")
@trusted_only_option
@sampling_options
@timeout_option
def chat(
    *,
    coordinator: tuple[str, ...],
    api_key: str | None,
    trusted_only: tuple[bytes, ...] | None,
    system: str | None,
    timeout_s: float | None,
    **sampling: Unpack[SamplingArguments],
) -> None:
    """Talk with a model.

    Its chat template is applied. /exit or Ctrl-D leaves, /reset forgets the conversation, Ctrl-C stops an answer.

    \b
    Examples:
      osai chat --coordinator swarm.example.org:7070 --model org/model
      osai chat --temperature 0.7 --system "Answer in one sentence."
    """  # noqa: D301 (click reads the escape)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, PLC0415 - gives input() its history and editing
        click.echo(HINT, err=True)
    with Client(coordinator, timeouts=timeouts_of(timeout_s), api_key=api_key) as client:
        client.models()  # nobody should type a question before hearing that nobody is there
        options = generation_options(sampling)
        options["trusted_only"] = trusted_only
        _converse(Conversation(client, options, system))


def _converse(conversation: Conversation) -> None:
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            click.echo(f"\n{HINT}", err=True)
            continue
        match line:
            case "":
                continue
            case "/exit":
                return
            case "/reset":
                conversation.reset()
            case _ if line.startswith("/"):
                click.echo(f"there is no command {line}. {HINT}", err=True)
            case _:
                _answer(conversation, line)


def _answer(conversation: Conversation, question: str) -> None:
    try:
        conversation.answer(question)
    except OsaiError as e:
        click.echo(f"error: {' '.join(e.message.split())}", err=True)
