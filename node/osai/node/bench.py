"""Measures a span's decode steps on this machine, without a swarm: where the time of a step goes."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from osai.core.embedded import MODEL_ID, model_dir
from osai.core.errors import SetupError, WeightsError
from osai.core.layers import LayerRange
from osai.core.model import ModelFacts
from osai.node.bench_drive import Drive, Round
from osai.node.bench_parts import timing_parts
from osai.node.bench_report import PARTS, BenchReport, StepReport
from osai.node.bench_wire import frame_of, hops_s, serialisation_s
from osai.node.device import check_dtype, choose_dtype, find_device
from osai.node.engine.quantize import announced_dtype, check_quantization
from osai.node.engine.quantize_torchao import check_torchao
from osai.node.engine.span_model import SpanModel, load_span

_NUM_WARM_UPS = 3  # steps before those that count
_NUM_SMALL = 50  # repetitions of what takes microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure.

    Attributes:
        model: a name for it, or the embedded model's id.
        weights: the checkpoint's folder; empty for the embedded model.
        layers: None for all.
        device: as `osai-node join` takes it.
        dtype: likewise.
        quantization: likewise.
        num_threads: of torch.
        sessions: how many in a step, one after the other.
        context: tokens that each session holds.
        num_steps: measured for each.
    """

    model: str
    weights: str
    layers: LayerRange | None
    device: str
    dtype: str
    quantization: str
    num_threads: int
    sessions: tuple[int, ...]
    context: int
    num_steps: int


async def run_bench(options: BenchOptions) -> BenchReport:
    """Load the span, run it, and say where the time went.

    Raises:
        SetupError: if there is no such checkpoint or device, or the device can't do what is asked.
        WeightsError: if the checkpoint can't be read.
    """
    folder = _folder(options)
    config, tensors = _read(folder)
    facts = ModelFacts.from_config(config)
    room = 2 * 5 * (options.num_steps + _NUM_WARM_UPS)  # with and without hooks, and rounds that do not count
    if options.context + room > facts.max_context:
        raise SetupError(
            f"{options.context} tokens of context and {room} steps are more than the model's {facts.max_context}; "
            "use a smaller --context or --steps"
        )
    device = find_device(options.device)
    dtype = choose_dtype(options.dtype, facts.dtype)
    check_dtype(dtype, device)
    quantization = check_quantization(options.quantization, device.type, dtype, device.capability)
    check_torchao(quantization, device.type)
    torch.set_num_threads(options.num_threads)
    layers = options.layers or LayerRange(0, facts.num_layers)
    span = await asyncio.to_thread(
        load_span, config, tensors, layers, dtype=dtype, device=device.spec, quantization=quantization
    )
    kv_bytes = _kv_bytes(facts, len(layers), dtype, max(options.sessions) * (options.context + room))
    frames = [_frame_tensor(span, count) for count in options.sessions]
    hops = await hops_s([frame_of(len(tensor), tensor)[1] for tensor in frames], _NUM_SMALL)
    async with Drive.running(span, kv_bytes, options.num_threads) as drive:
        steps = []
        for count, tensor, hop_s in zip(options.sessions, frames, hops, strict=True):
            around = {"serialisation": serialisation_s(count, tensor, _NUM_SMALL), "wire": hop_s}
            steps.append(await _measure(span, drive, count, around, options))
    return BenchReport(
        model=options.model,
        layers=str(layers),
        dtype=announced_dtype(dtype, quantization),
        device=device.description,
        num_threads=options.num_threads,
        weight_bytes=span.weight_bytes,
        context=options.context,
        steps=tuple(steps),
    )


async def _measure(
    span: SpanModel, drive: Drive, count: int, around_s: dict[str, float], options: BenchOptions
) -> StepReport:
    sessions = list(range(1, count + 1))
    room = 2 * 5 * (options.num_steps + _NUM_WARM_UPS)
    for session in sessions:
        await drive.open(session, options.context, room)
    await drive.decode(sessions, _NUM_WARM_UPS)
    plain = await drive.decode(sessions, options.num_steps)
    with timing_parts(span) as timer:
        await drive.decode(sessions, _NUM_WARM_UPS)
        timer.seconds.clear()
        hooked = await drive.decode(sessions, options.num_steps)
        found = dict(timer.seconds)
    await drive.close()
    step_s = median(each.step_s for each in plain)
    return StepReport(
        num_sessions=count,
        step_s=step_s,
        parts_s=_parts(found, hooked, step_s),
        hooks_ratio=median(each.step_s for each in hooked) / step_s,
        around_s={"queueing": median(each.queueing_s for each in plain), **around_s},
        weight_bytes_per_s=span.weight_bytes / step_s,
    )


def _parts(found: Mapping[str, float], hooked: list[Round], step_s: float) -> dict[str, float]:
    """The parts of a step that takes `step_s`, by their shares of the steps with hooks."""
    total_s = sum(each.step_s for each in hooked)
    shares = {part: found.get(part, 0.0) / total_s for part in PARTS if part != "other"}
    shares["other"] = max(0.0, 1.0 - sum(shares.values()))
    return {part: share * step_s for part, share in shares.items()}


def _frame_tensor(span: SpanModel, count: int) -> torch.Tensor:
    """What a step of `count` sessions sends on: hidden states, or a tail's tokens."""
    if span.is_tail:
        return torch.arange(count, dtype=torch.int32)
    return torch.randn(count, span.hidden_size).to(span.dtype)


def _kv_bytes(facts: ModelFacts, num_layers: int, dtype: torch.dtype, num_tokens: int) -> int:
    """Enough for so many tokens, and as much again for blocks that are not full."""
    return 2 * facts.max_kv_numbers * dtype.itemsize * num_layers * num_tokens + (1 << 20)


def _folder(options: BenchOptions) -> Path:
    if options.weights:
        folder = Path(options.weights).expanduser()
    elif options.model == MODEL_ID:
        folder = model_dir()
    else:
        raise SetupError(f"where are the weights of {options.model}? Name their folder with --weights")
    if not (folder / "config.json").is_file():
        raise SetupError(f"{folder} has no config.json: name a checkpoint's folder with --weights")
    return folder


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, object]]:
    """A checkpoint's config and its tensors, read when asked for. Its owner trusts it: no digest is checked."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors: dict[str, object] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            handle: Any = safe_open(shard, framework="pt")
            tensors |= {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118  no mapping
    except (OSError, ValueError, SafetensorError) as e:
        raise WeightsError(f"{folder}: {e}") from e
    return config, tensors
