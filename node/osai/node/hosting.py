"""Loading an assigned span: manifest, then only this span's tensors, then the engine."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import torch

from osai.core.errors import ManifestError
from osai.core.frames import FrameShape
from osai.core.layers import LayerRange
from osai.core.manifest import Manifest, SignedManifest, parse, refuse_unaccepted
from osai.core.precision import Quantization
from osai.core.trust_files import verify_and_remember
from osai.node.config import NodeConfig
from osai.node.device import Device, check_dtype
from osai.node.engine.engine import Engine
from osai.node.engine.quantize import announced_dtype, check_quantization, planned_bytes
from osai.node.engine.quantize_torchao import check_torchao
from osai.node.engine.span_model import load_span
from osai.node.load_count import CountedBytes, Progress
from osai.node.membership import Assigned, SpanStatus
from osai.node.ring import ServedSpan
from osai.node.span_plan import SpanPlan, plan_span
from osai.node.stages.stage import HostedSpan
from osai.node.tail_vocabulary import read_vocabulary, vocabulary_files
from osai.node.weights.lookout import NodeRecords, Swarm
from osai.node.weights.spread import Spread, Taking
from osai.node.weights.verified import VerifiedCheckpoint
from osai.node.weights.where import find_origin
from osai.node.wire import WIRE_DTYPES
from osai.proto import common_pb2

__all__ = ["Host", "Loaded", "Progress"]

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A span that the engine holds."""

    status: SpanStatus
    served: ServedSpan


class Host:
    """Loads spans into one engine.

    Args:
        config: of the node.
        device: where the spans run.
        engine: takes the loaded spans.
        progress: called from a loading thread with bytes read so far and in all.
        spread: where weights come from, beside their source; None: from nowhere else.
    """

    def __init__(
        self, config: NodeConfig, device: Device, engine: Engine, progress: Progress, spread: Spread | None = None
    ) -> None:
        self._config = config
        self._device = device
        self._engine = engine
        self._progress = progress
        self._spread = spread or Spread("")
        self._given: dict[str, int] = {}  # memory that each hosted span has been given, by model
        self._loading = asyncio.Lock()  # transformers builds models under process-wide settings: one at a time

    def join(self, directory: Callable[[], NodeRecords | None], announce: Callable[[], Awaitable[None]]) -> None:
        """There is a swarm now, of which weights may come; see osai.node.weights.lookout.Swarm."""
        self._spread.swarm = Swarm(directory=directory, announce=announce)

    def known(self, span: SpanStatus) -> SpanStatus:
        """A span that is not ready, with the manifest by which it is loaded: others look for that."""
        return replace(span, manifest_digest=span.manifest_digest or self._spread.digest_of(span.model_id))

    async def load(self, assigned: Assigned) -> Loaded:
        """Verify and load the assigned span, and measure a step of it.

        Raises:
            ManifestError: if the manifest is not to be believed.
            WeightsError: if a tensor is missing or differs from the manifest.
            AssignmentError: if the span does not fit in this node's memory.
        """
        async with self._loading:
            try:
                return await self._load(assigned)
            except BaseException:
                await self._engine.remove_span(assigned.model_id)  # what could not be measured is not kept
                raise

    async def unload(self, model_id: str) -> None:
        """Free what a span takes; nothing where there is none."""
        async with self._loading:
            self._spread.release(model_id)
            await self._engine.remove_span(model_id)
            self._given.pop(model_id, None)

    async def _load(self, assigned: Assigned) -> Loaded:
        signed = await asyncio.to_thread(parse, assigned.manifest)  # a large one takes seconds
        if signed.manifest.model_id != assigned.model_id:
            raise ManifestError(f"the manifest is of {signed.manifest.model_id}, not of {assigned.model_id}")
        verified = await asyncio.to_thread(self._verify, signed)  # it reads and writes a file
        refuse_unaccepted(signed.manifest, self._config.accepted_licences)
        origin = await asyncio.to_thread(find_origin, self._config.wishes, assigned.model_id, assigned.source)
        files = _files_read(assigned.layers, signed.manifest)
        async with self._spread.loading(assigned.model_id, signed, origin, assigned.layers, files) as taking:
            return await self._load_from(taking, assigned, signed, verified=verified)

    async def _load_from(self, taking: Taking, assigned: Assigned, signed: SignedManifest, *, verified: bool) -> Loaded:
        counted = CountedBytes(self._progress)
        checkpoint = VerifiedCheckpoint(taking.source, signed, counted.add)
        plan = await asyncio.to_thread(self._plan, assigned.layers, signed, checkpoint)
        vocabulary = await asyncio.to_thread(read_vocabulary, plan, checkpoint)
        quantization = self._check_arithmetic(plan.dtype)
        plan = replace(plan, weight_bytes=_weight_bytes(plan, signed, quantization))
        plan = replace(plan, memory_bytes=self._budget(plan))
        plan.check_memory()
        counted.expect(plan.num_bytes)
        taking.want(plan.names)
        tensors = {name: checkpoint.tensor(name) for name in plan.names}
        try:
            model = await asyncio.to_thread(
                load_span,
                plan.config,
                tensors,
                assigned.layers,
                dtype=plan.dtype,
                device=self._device.spec,
                quantization=quantization,
            )
        except Exception:
            checkpoint.raise_failure()  # the reason, where it was the data; what the loader made of it otherwise
            raise
        checkpoint.raise_failure()
        info = await self._engine.add_span(assigned.model_id, model, plan.kv_bytes(model.weight_bytes))
        self._given[assigned.model_id] = plan.memory_bytes
        step_time_s = await self._engine.measure(assigned.model_id)
        log.info("layers %s of %s: %d KV tokens, a step takes %.1f ms", assigned.layers, assigned.model_id,
                 info.num_kv_tokens, step_time_s * 1e3)  # fmt: skip
        dtype = announced_dtype(plan.dtype, quantization)
        loaded = _loaded(assigned, plan, signed, dtype=dtype, verified=verified, step_time_s=step_time_s)
        return replace(loaded, served=replace(loaded.served, vocabulary=vocabulary))

    def _budget(self, plan: SpanPlan) -> int:
        """Memory for one more span: an equal share of what is left.

        Where that is too little for layers that were asked for, as much as they take with the KV of one context.
        """
        left = self._config.memory_bytes - sum(self._given.values())
        fair = left // max(len(self._config.wishes) - len(self._given), 1)
        pinned = any(wish.layers is not None and wish.model_id in ("", plan.model_id) for wish in self._config.wishes)
        return max(fair, min(left, plan.least_bytes)) if pinned else fair

    def _check_arithmetic(self, dtype: torch.dtype) -> Quantization:
        device = self._device
        check_dtype(dtype, device)
        quantization = check_quantization(self._config.quantization, device.type, dtype, device.capability)
        check_torchao(quantization, device.type)
        return quantization

    def _verify(self, signed: SignedManifest) -> bool:
        try:
            verify_and_remember(signed, self._config.trust, self._config.state_dir, now_s=time.time())
        except ManifestError as e:
            if not self._config.allow_unsigned:
                raise
            log.warning("UNVERIFIED WEIGHTS: %s; going on because of --allow-unsigned", e)
            return False
        return True

    def _plan(self, layers: LayerRange, signed: SignedManifest, checkpoint: VerifiedCheckpoint) -> SpanPlan:
        return plan_span(
            signed,
            checkpoint.file(CONFIG_FILE),
            layers,
            dtype=self._config.dtype,
            memory_bytes=self._config.memory_bytes,
        )


def _files_read(layers: LayerRange, manifest: Manifest) -> tuple[str, ...]:
    """The files that a span reads besides its tensors."""
    num_layers = 1 + max((entry.layer for entry in manifest.tensors if entry.layer is not None), default=0)
    return (CONFIG_FILE, *vocabulary_files(layers, num_layers))


def _weight_bytes(plan: SpanPlan, signed: SignedManifest, quantization: Quantization) -> int:
    """Of the span in memory, once it is quantised."""
    names = set(plan.names)
    entries = [entry for entry in signed.manifest.tensors if entry.name in names]
    return sum(planned_bytes(entry.name, entry.shape, quantization, plan.dtype) for entry in entries)


def _loaded(
    assigned: Assigned, plan: SpanPlan, signed: SignedManifest, *, dtype: str, verified: bool, step_time_s: float
) -> Loaded:
    hosted = HostedSpan(
        key=assigned.model_id,
        layers=assigned.layers,
        num_layers=plan.facts.num_layers,
        manifest_digest=signed.digest,
    )
    head = assigned.layers.start == 0
    frames = FrameShape(
        dtype=common_pb2.DTYPE_INT32 if head else WIRE_DTYPES[plan.dtype],
        hidden_size=None if head else plan.facts.hidden_size,
    )
    status = SpanStatus(
        model_id=assigned.model_id,
        layers=assigned.layers,
        state="ready",
        manifest_digest=signed.digest,
        dtype=dtype,
        verified=verified,
        step_time_s=step_time_s,
    )
    return Loaded(status=status, served=ServedSpan(hosted=hosted, frames=frames))
