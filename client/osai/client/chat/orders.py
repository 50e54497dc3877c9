"""The commands of a chat: lines that begin with a slash. Pure."""

from dataclasses import dataclass

from osai.core.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. `argument` is how it is written: none where empty, optional in brackets."""

    name: str
    argument: str = ""
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command that was given. `argument` is empty where there is none."""

    name: str
    argument: str = ""


COMMANDS = (
    Command(name="help", help="What there is to say."),
    Command(name="model", argument="[ID]", help="Talk with another model; without ID: which ones there are."),
    Command(name="system", argument="[TEXT]", help="What the model is told first; without TEXT: nothing any more."),
    Command(name="temperature", argument="X", help="0 takes the likeliest token; around 1 varies."),
    Command(name="seed", argument="[N]", help="The same seed gives the same tokens; without N: any seed."),
    Command(name="stats", help="Tokens and times of this chat, and who serves it."),
    Command(name="save", argument="FILE", help="Write the conversation to a new file; as JSON if it ends in .json."),
    Command(name="clear", help="Forget the conversation, but not the system's text."),
    Command(name="quit", help="Leave; Ctrl-D does the same."),
)
ALIASES = {"exit": "quit", "reset": "clear"}
_BY_NAME = {command.name: command for command in COMMANDS}


def parse(line: str) -> Order | None:
    """Read a line; None: it is a question. One that begins with a slash is asked with a space before it.

    Raises:
        InvalidRequestError: if there is no such command, or its argument is missing or superfluous.
    """
    if not line.startswith("/"):
        return None
    written, _, argument = line[1:].strip().partition(" ")
    name, argument = ALIASES.get(written, written), argument.strip()
    command = _BY_NAME.get(name)
    if command is None:
        raise InvalidRequestError(
            f"there is no command /{written}: /help lists them; put a space before a question that begins with a slash"
        )
    if bool(argument) != bool(command.argument) and not command.argument.startswith("["):
        raise InvalidRequestError(f"write it as {usage(command)}")
    return Order(name=name, argument=argument)


def usage(command: Command) -> str:
    """How a command is written."""
    return f"/{command.name} {command.argument}".strip()


def help_text() -> str:
    """All commands, one a line, and the keys."""
    width = max(len(usage(command)) for command in COMMANDS)
    lines = [f"{usage(command):{width}}  {command.help}" for command in COMMANDS]
    return "\n".join([*lines, KEYS])


KEYS = (
    "Alt-Enter, or a backslash at the end, begins another line. Ctrl-C stops an answer, or empties the line; "
    "Ctrl-D leaves. Up and Down go through what was asked before."
)


def completions(line: str, model_ids: tuple[str, ...]) -> tuple[str, ...]:
    """What the last word of a line may become: a command's name, or a model's id after /model."""
    if not line.startswith("/") or "\n" in line:
        return ()
    name, gap, argument = line[1:].partition(" ")
    if not gap:
        return tuple(f"/{command.name}" for command in COMMANDS if command.name.startswith(name))
    if name == "model" and " " not in argument:
        return tuple(model_id for model_id in model_ids if model_id.startswith(argument))
    return ()
