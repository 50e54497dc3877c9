"""Bench `peer`: decode speed of one stream, a swarm's against llama.cpp in one process with the same weights."""

import asyncio
import base64
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import torch
import transformers as tf
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import (
    NotHereError,
    command_line,
    count_option,
    model_option,
    output_options,
    run_asked,
)
from scripts.benches.figure import TOKENS_A_SECOND, Figure, Goal, figures_table
from scripts.benches.program import Program, running
from scripts.benches.prompts import random_prompts
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison, decode_rate
from scripts.benches.swarm import Generated, generate, local_swarm

from osai.client import AsyncClient
from osai.core.errors import SetupError
from osai.node.engine.loading import quiet

NEEDED = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}  # package by module
NUM_PROMPT_TOKENS = 32
NUM_WARM_UP_TOKENS = 8
NODE_MEMORY = "3GiB"
LOAD_DEADLINE_S = 120.0
GENERATION_DEADLINE_S = 300.0
# Of llama.cpp's logits from transformers' in float32: measured 0.0005 in float32 and 0.006 in bfloat16; with rows of
# one projection in another order they have nothing in common.
MAX_LOGITS_ERROR = 0.05
GOAL = Goal(bar=0.75, aim=0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured; one thread a process on both sides."""

    dtype: str = "bfloat16"
    num_stages: int = 2
    num_tokens: int = 64
    repeats: int = 5
    model: Path | None = None


Pair = tuple[Generated, Generated]  # the swarm's, llama.cpp's


async def run(options: Options) -> Result:
    """Check that llama.cpp computes the same model, then measure in turns.

    Raises:
        NotHereError: if llama-cpp-python or gguf is not installed.
        SetupError: if llama.cpp computes something else.
    """
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise NotHereError(f"bench peer needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    from scripts.benches.gguf_file import write_gguf  # noqa: PLC0415  needs what may be missing

    model = bench_model(options.model, note)
    with tempfile.TemporaryDirectory(prefix="osai-bench-") as scratch:
        file = Path(scratch) / "model.gguf"
        await asyncio.to_thread(write_gguf, model.folder, file, options.dtype)
        context = str(NUM_PROMPT_TOKENS + options.num_tokens + NUM_WARM_UP_TOKENS)
        async with running("llama.cpp", "scripts.benches.llama_peer", str(file), context, "1") as llama:
            await llama.answer(LOAD_DEADLINE_S)
            error = await _check(model, llama)
            pairs = await _measure(options, model, llama)
    return _result(options, model, pairs, error)


async def _check(model: BenchModel, llama: Program) -> float:
    """The relative distance of llama.cpp's logits from transformers', if it is small."""
    [prompt] = random_prompts(model, 1, NUM_PROMPT_TOKENS, seed=0)
    answer = await llama.ask({"logits_of": prompt}, GENERATION_DEADLINE_S)
    found = torch.from_numpy(np.frombuffer(base64.b64decode(answer["logits"]), dtype=np.float32).copy())
    error = distance(found, await asyncio.to_thread(_reference_logits, model.folder, prompt))
    if not error <= MAX_LOGITS_ERROR:  # also catches NaN
        raise SetupError(f"llama.cpp computes another model: its logits differ by {error:.3f} of their norm")
    return error


def _reference_logits(folder: Path, prompt: list[int]) -> torch.Tensor:
    """float32 [vocab_size] of the token after the prompt, by transformers."""
    with quiet():
        model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([prompt])).logits
    return logits[0, -1]


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference / norm of what was wanted."""
    return float((found - wanted).norm() / wanted.norm())


async def _measure(options: Options, model: BenchModel, llama: Program) -> list[Pair]:
    pairs: list[Pair] = []
    async with local_swarm(
        model.folder,
        num_layers=model.num_layers,
        num_stages=options.num_stages,
        dtype=options.dtype,
        num_threads=1,
        memory=NODE_MEMORY,
    ) as client:
        prompts = random_prompts(model, options.repeats + 1, NUM_PROMPT_TOKENS)
        await _pair(client, llama, prompts.pop(), NUM_WARM_UP_TOKENS)
        for i, prompt in enumerate(prompts):
            pairs.append(await _pair(client, llama, prompt, options.num_tokens))
            ours, theirs = (decode_rate(one.arrivals) for one in pairs[-1])
            note(f"{i + 1} of {options.repeats}: swarm {ours:.1f}, llama.cpp {theirs:.1f} tok/s")
    return pairs


async def _pair(client: AsyncClient, llama: Program, prompt: list[int], num_tokens: int) -> Pair:
    answer = await llama.ask({"prompt": prompt, "num_tokens": num_tokens}, GENERATION_DEADLINE_S)
    arrivals = tuple((float(at), int(count)) for at, count in answer["arrivals"])
    theirs = Generated(token_ids=tuple(answer["token_ids"]), arrivals=arrivals)
    return await generate(client, prompt, num_tokens), theirs


def num_agreeing(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Tokens from the first on that are the same."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))


def _result(options: Options, model: BenchModel, pairs: Sequence[Pair], error: float) -> Result:
    rates = [[decode_rate(one.arrivals) for one in side] for side in zip(*pairs, strict=True)]
    agreeing = [num_agreeing(ours.token_ids, theirs.token_ids) for ours, theirs in pairs]
    figure = Figure(
        name=f"{options.num_stages} stages / llama.cpp in one process",
        unit=TOKENS_A_SECOND,
        compared=Comparison.of(*rates),
        goal=GOAL,
    )
    return Result(
        name="peer",
        title=f"decode tokens/s of one stream, {model.title}, {options.dtype}, medians of {options.repeats}",
        command=command_line(
            "peer",
            dtype=options.dtype,
            stages=options.num_stages,
            tokens=options.num_tokens,
            repeats=options.repeats,
            model=options.model,
        ),
        table=figures_table([figure]),
        notes=(
            (
                f"llama.cpp: llama-cpp-python {version('llama-cpp-python')} as it installs itself, the same weights in "
                f"{options.dtype}, one thread, else its defaults. Swarm: `osai up`, one thread a stage."
            ),
            (
                f"Greedy, {options.num_tokens} tokens after a prompt of {NUM_PROMPT_TOKENS}, from the first token to "
                "the last. The two take turns."
            ),
            (
                f"llama.cpp's logits differ from transformers' float32 by {error:.4f} of their norm. Tokens that both "
                f"gave alike, from the first on: {', '.join(map(str, agreeing))}."
            ),
        ),
        figures={
            **asdict(options),
            "model": str(model.folder),
            "logits_error": error,
            "agreeing_tokens": agreeing,
            "figures": [figure.as_json()],
        },
    )


@click.command("peer")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=Options().dtype, show_default=True)
@count_option("--stages", "num_stages", Options().num_stages, "Of the swarm, one thread each.")
@count_option("--tokens", "num_tokens", Options().num_tokens, "Generated in each repeat.", least=2)
@count_option("--repeats", "repeats", Options().repeats, "Pairs of runs.")
@model_option
@output_options
def command(**given: object) -> None:
    """Decode speed of one stream: a swarm against llama.cpp in one process, the same weights."""
    run_asked(run, Options, given)
