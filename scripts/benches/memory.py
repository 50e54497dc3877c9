"""Bench `memory`: how many sessions find room in a gibibyte of KV, against the bytes that their tokens take."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
import transformers as tf
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.figure import SESSIONS, Figure, Goal, figures_table
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison
from scripts.benches.span_child import span_child

from osai.core.layers import LayerRange
from osai.node.engine.loading import quiet

ITEM_BYTES = 2  # of bfloat16, in which both models run
ANSWER_DEADLINE_S = 300.0
WINDOW = 128
GOAL = Goal(bar=0.9, aim=0.97)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_tokens: of a session, prompt and generated.
        kv_mib: of KV, in MiB.
    """

    num_tokens: int = 512
    kv_mib: int = 1024
    model: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Sessions that found room, and those that the bytes of their keys and values alone would let in."""

    name: str
    sessions: int
    ideal: int
    goal: Goal | None


async def run(options: Options) -> Result:
    """Open sessions on an engine until there is no room for another."""
    model = bench_model(options.model, note)
    found = [await _fit(options, model, model.title, GOAL)]
    with tempfile.TemporaryDirectory(prefix="osai-bench-") as folder:
        _make_windowed(Path(folder))
        windowed = BenchModel.read(Path(folder))
        found.append(await _fit(options, windowed, f"Gemma 3's layers, windows of {WINDOW} in 5 of 6", None))
    return _result(options, model, found)


async def _fit(options: Options, model: BenchModel, name: str, goal: Goal | None) -> Found:
    budget = options.kv_mib * 2**20
    layers = LayerRange(0, model.num_layers)
    async with span_child(model.folder, layers, dtype="bfloat16", num_threads=1, kv_bytes=budget) as child:
        answer = await child.ask({"do": "fit", "tokens": options.num_tokens}, ANSWER_DEADLINE_S)
    config = tf.AutoConfig.from_pretrained(model.folder)
    session_bytes = ideal_session_bytes(config.to_dict(), options.num_tokens, ITEM_BYTES)
    return Found(name=name, sessions=int(answer["sessions"]), ideal=budget // session_bytes, goal=goal)


def ideal_session_bytes(config: Mapping[str, Any], num_tokens: int, item_bytes: int) -> int:
    """Bytes of the keys and values that a session's layers can still see once it has so many tokens.

    Args:
        config: of grouped-query attention, as transformers writes it, with its defaults.
        num_tokens: of the session.
        item_bytes: of an element.
    """
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token_bytes: int = 2 * config["num_key_value_heads"] * head_dim * item_bytes  # of one layer
    num_layers = config["num_hidden_layers"]
    kinds: Sequence[str] = config.get("layer_types") or ["full_attention"] * num_layers
    window = config.get("sliding_window") or num_tokens
    return token_bytes * sum(min(num_tokens, window) if kind == "sliding_attention" else num_tokens for kind in kinds)


def _make_windowed(path: Path) -> None:
    """A small Gemma 3 with random weights: five layers of six see a window."""
    config = tf.Gemma3TextConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        vocab_size=512,
        sliding_window=WINDOW,
        max_position_embeddings=4096,
        layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(12)],
        dtype="bfloat16",
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        tf.Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(path)


def _result(options: Options, model: BenchModel, found: Sequence[Found]) -> Result:
    figures = [
        Figure(name=one.name, unit=SESSIONS, compared=Comparison.of([one.sessions], [one.ideal]), goal=one.goal)
        for one in found
    ]
    return Result(
        name="memory",
        title=f"sessions of {options.num_tokens} tokens that find room in {options.kv_mib} MiB of KV, bfloat16",
        command=command_line("memory", tokens=options.num_tokens, kv_mib=options.kv_mib, model=options.model),
        table=figures_table(figures),
        notes=(
            "Measured: sessions that the engine opens, one after the other, until it refuses one or makes it wait.",
            "Against: the budget / the bytes of keys and values that the layers of one such session can still see.",
        ),
        figures={
            **asdict(options),
            "model": str(model.folder),
            "found": [asdict(one) for one in found],
            "figures": [figure.as_json() for figure in figures],
        },
    )


@click.command("memory")
@count_option("--tokens", "num_tokens", Options().num_tokens, "Of a session.", least=2)
@count_option("--kv-mib", "kv_mib", Options().kv_mib, "Of KV, in MiB.")
@model_option
@output_options
def command(**given: object) -> None:
    """Sessions that find room in so much KV, against the bytes that their tokens take."""
    run_asked(run, Options, given)
