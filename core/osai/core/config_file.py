"""A program's configuration as a TOML file: every option of a command, by its long name without the dashes.

A flag goes before the environment, the environment before the file, the file before the default: click's own order.
"""

import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click

from osai.core.errors import SetupError

Command = TypeVar("Command", bound=Callable[..., None])

MAX_FILE_BYTES = 2**20
CONFIG_KEY = "config"
NOT_IN_FILES = frozenset({CONFIG_KEY, "help", "version"})
FILE_META = "osai.config_file"  # where a context keeps the name of its file


def key_of(param: click.Parameter) -> str:
    """How a parameter is named in a file: its long option without the dashes, or an argument's name."""
    longest = max((opt.lstrip("-") for opt in param.opts), key=len)
    return longest if isinstance(param, click.Option) else longest.lower()


def parameters(command: click.Command) -> dict[str, click.Parameter]:
    """What a file may hold for a command, by key, in the order of declaration."""
    return {key: param for param in command.params if (key := key_of(param)) not in NOT_IN_FILES}


def config_option(command: Command) -> Command:
    """Give a command --config; it goes above every other option, which are read after it."""

    def load(context: click.Context, _: click.Parameter, value: Path | None) -> None:
        if value is None:
            return
        found = read_config(value, context)
        context.meta[FILE_META] = value
        context.default_map = {**(context.default_map or {}), **found}

    return click.option(
        "--config", CONFIG_KEY, metavar="FILE", type=click.Path(path_type=Path), is_eager=True, expose_value=False,
        callback=load, help="TOML file of these options: docs/configuration.md.",
    )(command)  # fmt: skip


def read_config(file: Path, context: click.Context) -> dict[str, Any]:
    """A file's values for the context's command, by parameter name.

    Raises:
        SetupError: if the file can't be read or is no TOML, a key is unknown, or a value is none for its key.
    """
    known, values = parameters(context.command), {}
    for key, value in _parse(file).items():
        if (param := known.get(key)) is None:
            raise SetupError(f"{file}: {key!r} is no key{_hint(key, value, known)}", subject=key)
        values[str(param.name)] = _checked(file, key, param, value, context)
    return values


def _parse(file: Path) -> Mapping[str, object]:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise SetupError(f"{file} is larger than {MAX_FILE_BYTES // 2**10} KiB: it is no configuration")
        return tomllib.loads(data.decode())
    except OSError as e:
        raise SetupError(f"{file} can't be read ({e.strerror}): name another file with --config") from e
    except UnicodeDecodeError as e:
        raise SetupError(f"{file} is not UTF-8 at byte {e.start}: TOML files are") from e
    except tomllib.TOMLDecodeError as e:
        raise SetupError(f"{file} is no TOML: {e}") from e


def _hint(key: str, value: object, known: Mapping[str, click.Parameter]) -> str:
    if isinstance(value, dict):
        return ": it is a table, and all keys stand at the top, without one"
    nearest = get_close_matches(key.lower().replace("_", "-"), known, n=1)
    return f": did you mean {nearest[0]!r}?" if nearest else f"; there are {', '.join(sorted(known))}"


def _checked(file: Path, key: str, param: click.Parameter, value: object, context: click.Context) -> object:
    """The value as click takes it, once it is seen to be one."""
    values = value if param.multiple and isinstance(value, list) else [value]
    wanted, kinds = kind_of(param)
    for each in values:
        if not isinstance(each, kinds) or (isinstance(each, bool) and bool not in kinds):
            or_list = ", or a list of such" if param.multiple else ""
            raise SetupError(f"{file}: {key} must be {wanted}{or_list}, and is {_words(each)}", subject=key)
    taken = values if param.multiple else value
    try:
        param.type_cast_value(context, taken)
    except click.BadParameter as e:
        raise SetupError(f"{file}: {key}: {e.message}", subject=key) from e
    return taken


def kind_of(param: click.Parameter) -> tuple[str, tuple[type, ...]]:
    """What a file holds for a parameter: in words, and as TOML's types."""
    if getattr(param, "is_flag", False):
        return "true or false", (bool,)
    if isinstance(param.type, click.types.IntParamType):
        return "a whole number", (int,)
    if isinstance(param.type, click.types.FloatParamType):
        return "a number", (int, float)
    return "a string", (str,)


def _words(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(value), "a date or a time")
