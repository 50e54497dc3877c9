"""What a command would run with, and where each value comes from: `config show`. Secrets are never shown."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from osai.core.config_file import FILE_META, kind_of, parameters

HIDDEN = "(set; not shown)"
_UNSET = click.Argument(["any"]).default  # what click has for a default that was never given
_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_QUERY = re.compile(r"(?<=\?)\S+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One effective value.

    Attributes:
        value: as a file would hold it; None where it is not set.
        origin: in words.
    """

    key: str
    value: object
    origin: str


def settings(command: click.Command, name: str, arguments: Sequence[str], parent: click.Context) -> list[Setting]:
    """The values with which `NAME ARGUMENTS` would run, in the order of the options.

    Args:
        command: whose options they are.
        name: of the command, as in the environment variables.
        arguments: the command line after the name.
        parent: context of the program.

    Raises:
        SetupError: as `config_file.read_config`.
        click.UsageError: if the arguments are none for the command.
    """
    with command.make_context(name, list(arguments), parent=parent) as context:
        given, _, _ = command.make_parser(context).parse_args(list(arguments))
        return [_setting(key, param, context, given) for key, param in parameters(command).items()]


def _setting(key: str, param: click.Parameter, context: click.Context, given: dict[str, object]) -> Setting:
    raw, source = param.consume_value(context, given)
    value = param.type_cast_value(context, raw) if _is_set(raw) else None
    if getattr(param, "is_flag", False):
        value = bool(value)
    secret = getattr(param, "hide_input", False) and value
    return Setting(key=key, value=HIDDEN if secret else _plain(value), origin=_origin(param, context, source))


def _is_set(raw: object) -> bool:
    return raw is not None and raw is not _UNSET


def _plain(value: object) -> object:
    """As TOML has it, with what URLs may tell of their users left out."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value] or None
    if isinstance(value, str | Path):
        text = _USER.sub("...", str(value))
        text = _QUERY.sub("...", text) if "://" in text else text
        return text or None
    return value


def _origin(param: click.Parameter, context: click.Context, source: ParameterSource) -> str:
    match source:
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            names = environment_names(param, context)
            return f"environment: {next((name for name in names if os.environ.get(name)), names[0])}"
        case ParameterSource.DEFAULT_MAP:
            return f"file: {context.meta.get(FILE_META, '')}"
    return "default"


def environment_names(param: click.Parameter, context: click.Context) -> list[str]:
    """The variables that set a parameter, the first one before the others."""
    if not param.envvar:
        return [f"{context.auto_envvar_prefix}_{str(param.name).upper()}"]
    return [param.envvar] if isinstance(param.envvar, str) else list(param.envvar)


def lines_of(found: Sequence[Setting]) -> list[str]:
    """As a TOML file, with the origins as comments: what is not set is a comment as a whole."""
    texts = [
        f"# {one.key}" if one.value is None else f"{one.key} = {json.dumps(one.value, ensure_ascii=False)}"
        for one in found
    ]
    width = min(max(map(len, texts), default=0), 60)
    return [f"{text:<{width}}  # {one.origin}" for text, one in zip(texts, found, strict=True)]


def markdown_table(command: click.Command, context: click.Context) -> str:
    """Every option of a command: key, environment variable, kind, default, and what it does."""
    rows = ["| key | environment | is | default | what it does |", "|---|---|---|---|---|"]
    for key, param in parameters(command).items():
        wanted = kind_of(param)[0] + (", or a list" if param.multiple else "")
        if isinstance(param.type, click.Choice):
            wanted = " or ".join(f"`{choice}`" for choice in param.type.choices)
        told = " ".join((getattr(param, "help", None) or f"{param.human_readable_name} on the command line.").split())
        cells = (f"`{key}`", f"`{environment_names(param, context)[0]}`", wanted, _default(param, context), told)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _default(param: click.Parameter, context: click.Context) -> str:
    if isinstance(shown := getattr(param, "show_default", None), str):
        return shown
    default = param.get_default(context, call=False)
    if not _is_set(default) or default in ("", (), False):
        return "false" if getattr(param, "is_flag", False) else ""
    return f"`{default}`"
