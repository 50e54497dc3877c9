"""One span of a checkpoint in a process of its own, as a node's engine runs it; it measures what it is asked to.

python -m scripts.benches.span_child FOLDER START:END DTYPE NUM_THREADS KV_BYTES says `{"ready": true}`, then answers
each line:
`{"do": "read"}`: how fast this process reads memory, by way;
`{"do": "decode", "sessions": N, "context": N, "steps": N}`: seconds of decode steps of so many sessions;
`{"do": "prefill", "tokens": N, "stages": N}`: seconds of each step of one prompt;
`{"do": "fit", "tokens": N}`: how many sessions of so many tokens find room.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from scripts.benches.program import Program, running
from scripts.benches.read_speed import ReadSpeed
from scripts.benches.span_steps import SpanSteps, hosted

from osai.core.errors import InvalidRequestError
from osai.core.layers import LayerRange
from osai.node.cores import thread_environment
from osai.node.engine.options import EngineOptions
from osai.node.engine.span_model import SpanModel, load_span

LOAD_DEADLINE_S = 180.0  # imports, half a GB of weights, and packing them on a busy machine
NUM_WARM_UP_STEPS = 3


def environment() -> dict[str, str]:
    """What a node's process sets for torch, and no threads of OpenBLAS's own, which would read beside measured ones."""
    return {**thread_environment(), "OPENBLAS_NUM_THREADS": "1"}


@asynccontextmanager
async def span_child(
    folder: Path, layers: LayerRange, *, dtype: str, num_threads: int, kv_bytes: int
) -> AsyncIterator[Program]:
    """The program below, loaded and ready to be asked."""
    arguments = (str(folder), str(layers), dtype, str(num_threads), str(kv_bytes))
    name = f"the engine of layers {layers}"
    async with running(name, "scripts.benches.span_child", *arguments, **environment()) as child:
        await child.answer(LOAD_DEADLINE_S)
        yield child


def load(folder: Path, layers: LayerRange, dtype: torch.dtype) -> SpanModel:
    """A span of a checkpoint in a folder."""
    tensors: dict[str, object] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        handle: Any = safe_open(shard, framework="pt")
        tensors |= {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118  not a mapping
    config = json.loads((folder / "config.json").read_text())
    return load_span(config, tensors, layers, dtype=dtype)


class Bench:
    """What is asked, on one engine; sessions that decode stay open and are cut back."""

    def __init__(self, steps: SpanSteps, num_threads: int) -> None:
        self._steps, self._num_threads = steps, num_threads
        self._read: ReadSpeed | None = None
        self._sessions: dict[tuple[int, int], list[int]] = {}  # by context and tokens

    async def answer(self, asked: dict[str, Any]) -> dict[str, object]:
        """The answer to one question.

        Raises:
            InvalidRequestError: if there is no such question.
        """
        match asked.get("do"):
            case "read":
                self._read = self._read or ReadSpeed(self._num_threads)
                return {"bytes_per_s": self._read.measure()}
            case "decode":
                return await self._decode(asked["sessions"], asked["context"], asked["steps"])
            case "prefill":
                session = await self._steps.open(asked["tokens"], asked["tokens"] + 1, asked["stages"])
                times = await self._steps.prefill(session, asked["tokens"])
                await self._steps.engine.close(session)
                return {"step_s": times}
            case "fit":
                return {"sessions": await self._steps.fit(asked["tokens"])}
        raise InvalidRequestError(f"no such question: {asked}")

    async def _decode(self, num_sessions: int, context: int, num_steps: int) -> dict[str, object]:
        room = context + num_steps + NUM_WARM_UP_STEPS + 64  # some rounds may not count
        known = self._sessions.setdefault((context, room), [])
        while len(known) < num_sessions:
            session = await self._steps.open(context, room)
            await self._steps.prefill(session, context)
            known.append(session)
        await self._steps.decode(known[:num_sessions], context, NUM_WARM_UP_STEPS)
        times = await self._steps.decode(known[:num_sessions], context, num_steps)
        return {"step_s": times.step_s, "interval_s": times.interval_s}


async def main(folder: str, layers: str, dtype: str, num_threads: str, kv_bytes: str) -> None:
    """Answer until standard input ends."""
    torch.set_num_threads(int(num_threads))
    model = load(Path(folder), LayerRange.parse(layers), getattr(torch, dtype))
    async with hosted(model, int(kv_bytes), EngineOptions(num_threads=int(num_threads))) as steps:
        bench = Bench(steps, int(num_threads))
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await bench.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
