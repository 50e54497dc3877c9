"""A chat from its first question to its end: questions are answered, commands are carried out."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from osai.client.blocking import Client
from osai.client.chat.conversation import Conversation
from osai.client.chat.orders import Order, help_text, parse
from osai.client.chat.tally import Clock, Taken, Tally, taken_by
from osai.client.chat.views import View
from osai.client.completion import CompletionBuilder
from osai.client.events import Chunk
from osai.client.swarm import Model
from osai.core.errors import InvalidRequestError, OsaiError, SetupError, UnknownModelError

HINT = "/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves"


class Talk:
    """Reads lines until there are no more.

    Args:
        client: whom to ask.
        conversation: what was said before.
        view: where answers are shown.
        models: that are served, as far as is known.

    Attributes:
        model_ids: of those.
    """

    def __init__(self, client: Client, conversation: Conversation, view: View, models: tuple[Model, ...]) -> None:
        self.model_ids = tuple(model.model_id for model in models)
        self._client = client
        self._conversation = conversation
        self._view = view
        self._tally = Tally()

    def run(self, read: Callable[[], str]) -> None:
        """Answer what `read` gives, until it raises EOFError or is told to quit. KeyboardInterrupt ends no chat."""
        while True:
            try:
                line = read()
                if line.strip() and not self._goes_on(line):
                    return
            except EOFError:
                return
            except KeyboardInterrupt:
                self._view.tell(HINT)
            except OsaiError as e:
                self._view.fail(e.message)

    def _goes_on(self, line: str) -> bool:
        order = parse(line)
        if order is None:
            self._answer(line.strip())
        elif order.name == "quit":
            return False
        else:
            self._carry_out(order)
        return True

    def _answer(self, question: str) -> None:
        """Stream an answer. A stopped one is kept as far as it came; where there is none, the question is forgotten."""
        builder, clock = CompletionBuilder(with_logprobs=False), Clock(time.monotonic())
        texts: list[str] = []
        taken: Taken | None = None
        with self._view.answering():
            try:
                asked = self._conversation.asking(question)
                with closing(self._client.generate(asked, **self._conversation.options)) as events:
                    for event in events:
                        builder.add(event)
                        if isinstance(event, Chunk):
                            texts.append(event.text)
                            clock.came(len(event.tokens), time.monotonic())
                        self._view.show(event)
                taken = taken_by(builder.completion())
            except KeyboardInterrupt:
                self._view.stopped()
                taken = _stopped(builder, clock)
        self._conversation.keep(question, "".join(texts))
        self._tally.add(taken)
        self._view.taken(taken)

    def _carry_out(self, order: Order) -> None:
        options, said = self._conversation.options, order.argument
        match order.name:
            case "help":
                self._view.tell(help_text())
            case "model":
                self._choose_model(said)
            case "system":
                self._conversation.system = said
                self._view.tell("it is told that first" if said else "it is told nothing first")
            case "temperature":
                options["temperature"] = _temperature(said)
            case "seed":
                options["seed"] = _seed(said)
            case "stats":
                self._view.tell("\n".join([f"coordinator  {self._client.address}", *self._tally.lines()]))
            case "save":
                self._save(Path(said).expanduser())
            case "clear":
                self._conversation.clear()
                self._view.tell("the conversation is forgotten")

    def _choose_model(self, model_id: str) -> None:
        models = self._client.models()
        self.model_ids = tuple(model.model_id for model in models)
        if not model_id:
            self._view.tell("\n".join(map(self._described, models)) or "no model is served just now")
            return
        if model_id not in self.model_ids:
            raise UnknownModelError(f"no model {model_id} is served; there are: {', '.join(self.model_ids) or 'none'}")
        self._conversation.options["model_id"] = model_id
        self._view.tell(f"{model_id} answers from here on")

    def _described(self, model: Model) -> str:
        chosen = self._conversation.options.get("model_id") or (self.model_ids[0] if len(self.model_ids) == 1 else "")
        mark = "*" if model.model_id == chosen else " "
        state = "" if model.covered else f"; not served just now{f': {model.missing}' if model.missing else ''}"
        return f"{mark} {model.model_id}: {model.num_layers} layers, context of {model.max_context} tokens{state}"

    def _save(self, file: Path) -> None:
        if not self._conversation.num_questions:
            raise InvalidRequestError("there is nothing to save yet")
        as_json = file.suffix == ".json"
        text = self._conversation.as_json() if as_json else self._conversation.as_markdown()
        try:
            with file.open("x", encoding="utf-8") as new:
                new.write(text)
        except FileExistsError as e:
            raise SetupError(f"{file} is there already; choose another name") from e
        except (OSError, ValueError) as e:
            raise SetupError(f"{file} can't be written: {getattr(e, 'strerror', None) or e}") from e
        self._view.tell(f"saved to {file}")


def _stopped(builder: CompletionBuilder, clock: Clock) -> Taken:
    partial = builder.partial(clock.timings())
    if partial is not None:
        return taken_by(partial)
    return Taken(num_tokens=0, num_prompt_tokens=0, timings=clock.timings(), finish_reason=None)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InvalidRequestError(f"{text!r} is no temperature; write a number from 0 on, as in 0.7")
    return value


def _seed(text: str) -> int | None:
    if text and not (text.isascii() and text.isdecimal()):
        raise InvalidRequestError(f"{text!r} is no seed; write a whole number from 0 on")
    return int(text) if text else None
