"""Options that several commands share, and what they mean to the client."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import click

from osai.client.api_key import ENVIRONMENT, read_api_key
from osai.client.request import GenerationOptions
from osai.client.timeouts import Timeouts
from osai.core.errors import TrustError

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_COORDINATOR = "127.0.0.1:7070"
DEFAULT_MAX_TOKENS = 128  # a paragraph: an answer in a moment, also from a slow swarm


class SamplingArguments(TypedDict):
    """What `sampling_options` hands to a command."""

    model: str
    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: tuple[str, ...]


def _addresses(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    addresses = tuple(part.strip() for part in value.split(","))
    if not all(addresses):
        raise click.BadParameter(f"{value!r} is no list of coordinators; write HOST:PORT,HOST:PORT", context, parameter)
    return addresses


def coordinator_option(function: F) -> F:
    """`--coordinator HOST:PORT[,HOST:PORT...]`, also from the environment; the command gets a tuple."""
    return click.option(
        "--coordinator",
        metavar="HOST:PORT[,...]",
        envvar="OSAI_COORDINATOR",
        default=DEFAULT_COORDINATOR,
        show_default=True,
        show_envvar=True,
        callback=_addresses,
        help="The coordinator to speak to, and others that may take its place.",
    )(function)


def _api_key(context: click.Context, parameter: click.Parameter, value: Path | None) -> str | None:  # noqa: ARG001
    return None if value is None else read_api_key(value)


def api_key_option(function: F) -> F:
    """`--api-key-file FILE`; the command gets the key as `api_key`, None where it is to come from the environment.

    There is no option for the key itself: every user of the machine could read it in `ps`.
    """
    return click.option(
        "--api-key-file",
        "api_key",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="OSAI_API_KEY_FILE",
        callback=_api_key,
        help=f"File with the API key, where the coordinator asks for one; default: what {ENVIRONMENT} holds.",
    )(function)


def _trusted_only(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[bytes, ...] | None:
    if value is None:
        return None
    from osai.core.manifest.public_keys import MAX_KEY_FILE_BYTES, parse_public_key  # noqa: PLC0415 - it takes a while

    keys = []
    for name in value.split(","):
        try:
            with Path(name.strip()).open("rb") as file:
                keys.append(parse_public_key(file.read(MAX_KEY_FILE_BYTES + 1)))
        except OSError as e:
            raise click.BadParameter(f"{name!r} can't be read: {e.strerror}", context, parameter) from e
        except TrustError as e:
            raise click.BadParameter(f"{name}: {e.message}", context, parameter) from e
    return tuple(keys)


def trusted_only_option(function: F) -> F:
    """`--trusted-only KEY.pub[,KEY.pub...]`; the command gets the keys, None where any node will do."""
    return click.option(
        "--trusted-only",
        metavar="KEY.pub[,...]",
        callback=_trusted_only,
        help="Use the nodes of these operators alone (`osai-node join --operator`), or fail; see docs/privacy.md.",
    )(function)


def timeout_option(function: F) -> F:
    """`--timeout SECONDS`."""
    return click.option(
        "--timeout",
        "timeout_s",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help=f"Longest wait for the first token and for each next one; "
        f"default: {Timeouts().first_token_s:g} and {Timeouts().next_token_s:g}.",
    )(function)


def sampling_options(function: F) -> F:
    """Options of how a text is generated. Their bounds are the coordinator's to judge."""
    options = (
        click.option("--model", metavar="ID", default="", help="Model; may be left out where there is only one."),
        click.option(
            "--max-tokens",
            metavar="N",
            type=int,
            default=DEFAULT_MAX_TOKENS,
            show_default=True,
            help="At most so many tokens.",
        ),
        click.option(
            "--temperature",
            metavar="T",
            type=float,
            default=0.0,
            show_default=True,
            help="0 takes the likeliest token; around 1 varies.",
        ),
        click.option("--top-k", metavar="K", type=int, help="Draw from the K likeliest tokens."),
        click.option("--top-p", metavar="P", type=float, help="Draw from the likeliest tokens that make up P."),
        click.option("--min-p", metavar="P", type=float, help="Leave out tokens below P times the likeliest."),
        click.option("--repetition-penalty", metavar="X", type=float, help="Above 1: avoid every token so far."),
        click.option("--presence-penalty", metavar="X", type=float, help="Above 0: avoid tokens already generated."),
        click.option("--frequency-penalty", metavar="X", type=float, help="Above 0: the more, the oftener they came."),
        click.option("--seed", metavar="S", type=int, help="The same seed gives the same tokens."),
        click.option("--stop", metavar="TEXT", multiple=True, help="End before this text. Repeatable."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def generation_options(arguments: SamplingArguments) -> GenerationOptions:
    """The client's options of a command's arguments."""
    return GenerationOptions(
        model_id=arguments["model"],
        max_tokens=arguments["max_tokens"],
        temperature=arguments["temperature"],
        top_k=arguments["top_k"],
        top_p=arguments["top_p"],
        min_p=arguments["min_p"],
        repetition_penalty=arguments["repetition_penalty"],
        presence_penalty=arguments["presence_penalty"],
        frequency_penalty=arguments["frequency_penalty"],
        seed=arguments["seed"],
        stop=arguments["stop"],
    )


def timeouts_of(timeout_s: float | None) -> Timeouts:
    """The client's deadlines for `--timeout`."""
    return Timeouts() if timeout_s is None else Timeouts(first_token_s=timeout_s, next_token_s=timeout_s)
