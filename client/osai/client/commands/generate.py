"""`osai generate`: one generation, its text streaming."""

import asyncio
import json
import sys
from contextlib import aclosing
from typing import Any, Unpack

import click

from osai.client.aio import AsyncClient
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
from osai.client.completion import CompletionBuilder, partial_of
from osai.client.events import Chunk, Completion, Token
from osai.client.request import GenerationOptions, Prompt
from osai.client.terminal import for_stdout, harmless
from osai.core.errors import OsaiError


def _token_ids(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is no list of token ids; write them as 1,2,3", context, parameter)
    return tuple(int(part) for part in parts)


@click.command("generate")
@click.argument("prompt", required=False)
@click.option("--token-ids", metavar="1,2,3", callback=_token_ids, help="Token ids in place of PROMPT.")
@coordinator_option
@api_key_option
@trusted_only_option
@sampling_options
@click.option("--ignore-eos", is_flag=True, help="Generate on past the model's end-of-sequence.")
@click.option("--logprobs", metavar="N", type=int, help="With --json: logprobs of each token and the N likeliest.")
@timeout_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line at the end in place of the text.")
def generate(
    *,
    prompt: str | None,
    token_ids: tuple[int, ...] | None,
    coordinator: tuple[str, ...],
    api_key: str | None,
    trusted_only: tuple[bytes, ...] | None,
    ignore_eos: bool,
    logprobs: int | None,
    timeout_s: float | None,
    as_json: bool,
    **sampling: Unpack[SamplingArguments],
) -> None:
    """Continue a text.

    PROMPT is the text; "-" reads it from standard input. What is generated streams to standard output.
    The exit status is 0 only for a complete generation, 1 for an error, 2 for a wrong command line, 130 for Ctrl-C.
    If the coordinator is lost, another one goes on: one of those given, or one that it told of. What came before an
    error is printed all the same.

    \b
    Examples:
      osai generate "It was a dark and stormy night" --max-tokens 200
      osai generate --temperature 0.8 --seed 7 --stop "JULIET:" "ROMEO:"
      osai generate --coordinator swarm.example.org:7070 --model org/model --json - < prompt.txt
    """  # noqa: D301 (click reads the escape)
    if (prompt is None) == (token_ids is None):
        raise click.UsageError("Give either PROMPT or --token-ids.")
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs needs --json.")
    asked: Prompt = token_ids if token_ids is not None else _text(prompt)
    options = generation_options(sampling)
    options["ignore_eos"] = ignore_eos
    options["num_logprobs"] = logprobs
    options["trusted_only"] = trusted_only
    client = AsyncClient(coordinator, timeouts=timeouts_of(timeout_s), api_key=api_key)
    try:
        completion = asyncio.run(_run(client, asked, options, stream=not as_json))
    except OsaiError as e:
        if (partial := partial_of(e)) is not None:
            _print_end(partial, as_json=as_json, error=e)
        raise
    _print_end(completion, as_json=as_json)


def _print_end(completion: Completion, *, as_json: bool, error: OsaiError | None = None) -> None:
    """The end of what has streamed, or all of it as JSON; also of what an error ended."""
    if as_json:
        click.echo(json.dumps(as_dict(completion) | ({"error": error.message} if error else {})))
    else:
        click.echo()
        click.echo(figures(completion), err=True)


def _text(prompt: str | None) -> str:
    return sys.stdin.read() if prompt == "-" else prompt or ""


async def _run(client: AsyncClient, prompt: Prompt, options: GenerationOptions, *, stream: bool) -> Completion:
    builder = CompletionBuilder(with_logprobs=options.get("num_logprobs") is not None)
    async with client, aclosing(client.generate(prompt, **options)) as events:
        async for event in events:
            builder.add(event)
            show_notice(event)
            if stream and isinstance(event, Chunk) and event.text:
                click.echo(for_stdout(event.text), nl=False)  # echo flushes
    return builder.completion()


def as_dict(completion: Completion) -> dict[str, Any]:
    """The JSON of a generation; `logprobs` only where they were asked for."""
    usage = completion.usage
    result: dict[str, Any] = {
        "token_ids": list(completion.token_ids),
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "usage": {
            "prompt_tokens": usage.num_prompt_tokens,
            "completion_tokens": usage.num_generated_tokens,
            "total_tokens": usage.num_prompt_tokens + usage.num_generated_tokens,
            "prompt_tokens_details": {"cached_tokens": completion.num_cached_tokens},
        },
        "timings": {
            "ttft_s": completion.timings.ttft_s,
            "decode_tokens_per_s": completion.timings.decode_tokens_per_s,
        },
        "pipeline": [
            {"node": stage.node_id, "start": stage.span.start, "end": stage.span.end} for stage in completion.pipeline
        ],
        "num_recoveries": completion.num_recoveries,
    }
    if completion.logprobs is not None:
        result["logprobs"] = [_logprob(token) for token in completion.logprobs]
    return result


def _logprob(token: Token) -> dict[str, Any]:
    top = [{"token_id": other.token_id, "logprob": other.logprob} for other in token.top]
    return {"token_id": token.token_id, "logprob": token.logprob, "top": top}


def figures(completion: Completion) -> str:
    """One line for people: how much, how fast, by which nodes."""
    pipeline = " > ".join(f"{stage.node_id[:8]} [{stage.span}]" for stage in completion.pipeline)
    usage, num_cached = completion.usage, completion.num_cached_tokens
    recovered = f", recovered {completion.num_recoveries} times" if completion.num_recoveries else ""
    cached = f", {num_cached} of {usage.num_prompt_tokens} prompt tokens cached" if num_cached else ""
    return harmless(
        f"{usage.num_generated_tokens} tokens ({completion.finish_reason}), "
        f"first after {completion.timings.ttft_s:.2f} s, then {completion.timings.decode_tokens_per_s:.1f} tokens/s, "
        f"seed {completion.seed}{cached}{recovered}; {pipeline}"
    )
