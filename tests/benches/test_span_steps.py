"""Steps of one span as the benches time them: real engines over tiny weights. No time is judged."""

from pathlib import Path

import pytest
import torch
from scripts.benches import gpu
from scripts.benches.cli import NotHereError
from scripts.benches.prefill import ideal_s
from scripts.benches.read_speed import ReadSpeed
from scripts.benches.span_child import Bench, load
from scripts.benches.span_steps import hosted

from osai.core.errors import InvalidRequestError
from osai.core.layers import LayerRange
from osai.node.engine.options import EngineOptions

KV_BYTES = 4_000_000
ONE_THREAD = EngineOptions(num_threads=1)
TOKEN_BYTES = 2 * 2 * 16 * 4  # of one layer in float32


@pytest.mark.parametrize("layers", [LayerRange(0, 2), LayerRange(2, 4), LayerRange(4, 6)])  # head, middle, tail
@pytest.mark.parametrize("held", [False, True])
async def test_every_counted_step_runs_a_row_of_each_session(llama: Path, layers: LayerRange, held: bool) -> None:
    async with hosted(load(llama, layers, torch.float32), KV_BYTES, ONE_THREAD) as steps:
        sessions = [await steps.open(5, 200) for _ in range(3)]
        for session in sessions:
            assert len(await steps.prefill(session, 5)) == 1
        for _ in range(2):  # the second time they are cut back to the same position
            times = await steps.decode(sessions, 5, 6, held=held)
            assert len(times.step_s) == 6
            assert min(times.step_s) > 0
            assert len(times.interval_s) <= 6
            assert bool(times.interval_s) is not held
        assert steps.engine.num_waiting_rows("span") == 0


async def test_a_prompt_takes_the_steps_that_the_engine_cuts_it_into(llama: Path) -> None:
    options = EngineOptions(num_threads=1, max_prefill_tokens=16)
    async with hosted(load(llama, LayerRange(2, 4), torch.float32), KV_BYTES, options) as steps:
        session = await steps.open(70, 71)
        assert len(await steps.prefill(session, 70)) == 5


async def test_questions_of_a_bench_are_answered(llama: Path) -> None:
    layers = LayerRange(4, 6)
    async with hosted(load(llama, layers, torch.float32), KV_BYTES, ONE_THREAD) as steps:
        bench = Bench(steps, 1)
        answer = await bench.answer({"do": "prefill", "tokens": 20, "stages": 2})
        assert len(answer["step_s"]) == 1  # type: ignore[arg-type]
        answer = await bench.answer({"do": "decode", "sessions": 2, "context": 8, "steps": 3})
        assert len(answer["step_s"]) == 3  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match="no such question"):
            await bench.answer({"do": "nothing"})


async def test_sessions_are_let_in_until_there_is_no_room(llama: Path) -> None:
    layers = LayerRange(2, 4)
    async with hosted(load(llama, layers, torch.float32), KV_BYTES, ONE_THREAD) as steps:
        found = await steps.fit(64)
        ideal = KV_BYTES // (64 * TOKEN_BYTES * len(layers))
        assert 0.8 * ideal <= found <= ideal


def test_an_ideal_pipeline_is_as_slow_as_its_slowest_stage() -> None:
    assert ideal_s([[1.0, 3.0], [2.0, 4.0]]) == pytest.approx((2 + 2 - 1) * 3.0)
    assert ideal_s([[2.0] * 4]) == pytest.approx(8.0)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_every_way_reads_the_whole_buffer(num_threads: int) -> None:
    read = ReadSpeed(num_threads, 2**20)
    assert read.num_bytes == 2**20
    speeds = read.measure()
    assert len(speeds) == 5
    assert min(speeds.values()) > 0


async def test_the_bench_of_a_gpu_runs_on_any_device() -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "num_kv_heads": 2}
    options = gpu.Options(
        device="cpu", num_layers=2, num_steps=3, repeats=1, context=4, copy_mib=1, kv_mib=32, sessions=(1, 4), **sizes
    )
    result = await gpu.run(options)
    # query and output 64 x 64, key and value 64 x 32, three of 64 x 96, in each of two layers
    assert result.figures["weight_bytes"] == 2 * 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert set(result.figures["step_s"]) == {1, 4}  # type: ignore[call-overload]
    assert len(result.table.rows) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
async def test_without_a_gpu_the_bench_says_so() -> None:
    with pytest.raises(NotHereError, match="no GPU"):
        await gpu.run(gpu.Options())
