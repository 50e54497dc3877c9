"""Engines whose steps run over pages and graphs, as on a GPU: the same code, on the CPU, with recorded graphs."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.cuda_fakes import AwayCopies, Recorder
from engine.harness import MIDDLE, WHOLE, Harness, running
from families.fixtures import Checkpoints
from families.reference import generate_greedy, lazy_tensors, load_whole, read_config
from osai.core.layers import LayerRange
from osai.core.prefix import shareable_hashes
from osai.core.sampling import SamplingParams
from osai.node.engine import hosted_span
from osai.node.engine.api import SessionSpec
from osai.node.engine.attention import Binding
from osai.node.engine.block_table import BlockTable
from osai.node.engine.cuda_capture import Capture, Graph
from osai.node.engine.cuda_runner import PagedRunner, paged_rows
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_plan import LayerShape, window_blocks
from osai.node.engine.layout import Part
from osai.node.engine.options import EngineOptions
from osai.node.engine.span_model import SpanModel, load_span
from osai.node.engine.step_runner import RunnerKind, runner_kind, tables_device
from osai.node.engine.windows import Window

NUM_TOKENS = 16
SMALL_STEPS = EngineOptions(max_prefill_tokens=9)
BEGIN = torch.randint(3, 370, (60,), generator=torch.Generator().manual_seed(5)).tolist()
WINDOWED = ("gemma2", "gpt_oss", "llama4_scout")  # their KV goes in groups
PROMPTS = [[*BEGIN[:length], length] for length in (4, 17, 40, 58)]


class Runners:
    """What spans got that were hosted meanwhile."""

    def __init__(self) -> None:
        self.made: list[PagedRunner] = []
        self.caches: list[KVCache] = []
        self.recorder = Recorder()
        self.copies = AwayCopies()
        self.capture: Capture = self.recorder

    def make(self, _: RunnerKind, model: SpanModel, binding: Binding, cache: KVCache, max_blocks: int) -> PagedRunner:
        self.made.append(PagedRunner(model, binding, cache, self.capture, self.copies, max_blocks))
        self.caches.append(cache)
        return self.made[-1]

    @property
    def num_replays(self) -> int:
        return sum(graph.num_replays for graph in self.recorder.graphs)


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> Runners:
    found = Runners()
    monkeypatch.setattr(hosted_span, "runner_kind", lambda *_: "paged")
    monkeypatch.setattr(hosted_span, "make_runner", found.make)
    return found


def load(path: Path, layers: LayerRange = WHOLE) -> SpanModel:
    return load_span(read_config(path), lazy_tensors(path), layers, dtype=torch.float32, pack=False)


async def generate(harness: Harness, session: int, prompt: list[int], scope: str = "") -> tuple[list[int], int]:
    """(its tokens, how many of its prompt were cached)."""
    cached = await harness.engine.open(
        SessionSpec(
            session=session,
            span="span",
            num_prompt_tokens=len(prompt),
            max_total_tokens=len(prompt) + NUM_TOKENS,
            sampling=SamplingParams(),
            block_hashes=shareable_hashes(prompt),
            scope=scope,
        )
    )
    sampled = await harness.generate(session, prompt[cached:], cached)
    return [token.token_id for token in sampled], cached


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "mixtral", "llama4_scout"])
async def test_sessions_get_transformers_tokens(family: str, checkpoints: Checkpoints, runners: Runners) -> None:
    """Prompts bit by bit among decode rows, decode steps by graphs, a cut-back, a shared beginning."""
    path = checkpoints(family)
    whole = load_whole(path)
    want = [generate_greedy(whole, prompt, NUM_TOKENS) for prompt in PROMPTS]
    async with running(load(path), SMALL_STEPS, 4_000_000) as harness:
        lives = [generate(harness, i, prompt, scope=str(i)) for i, prompt in enumerate(PROMPTS)]
        assert await asyncio.gather(*lives) == [(tokens, 0) for tokens in want]
        steps = [[rows.count for rows in output.rows] for output in harness.outputs]
        assert any(1 in counts and max(counts) > 1 for counts in steps), "prompts and decode rows in one step"
        assert any(len(counts) > 1 and max(counts) == 1 for counts in steps), "several decode rows, by a graph"
        position = len(PROMPTS[2]) - 5
        again = await harness.generate(2, PROMPTS[2][position:], position, epoch=1)
        assert [token.token_id for token in again] == want[2]
        await harness.engine.close(3)
        assert await generate(harness, 9, PROMPTS[3], scope="3") == (want[3], 48)
    (runner,) = runners.made
    assert runner.graphs.failure is None
    assert runners.num_replays > NUM_TOKENS
    assert (len(runners.caches[0].windows) > 1) == (family in WINDOWED)
    assert runners.copies.num_waits >= len(harness.outputs), "a step ends when the device is idle"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
async def test_what_other_sessions_left_in_blocks_spoils_nothing(
    family: str, checkpoints: Checkpoints, runners: Runners
) -> None:
    """A session whose numbers overflowed must not break those that get its blocks."""
    path = checkpoints(family)
    whole = load_whole(path)
    async with running(load(path), SMALL_STEPS, 4_000_000) as harness:
        cache = runners.caches[0]
        for store in (*cache._keys, *cache._values):
            store[: cache.null_slot] = torch.nan
        lives = [generate(harness, i, prompt) for i, prompt in enumerate(PROMPTS[1:3])]
        assert [tokens for tokens, _ in await asyncio.gather(*lives)] == [
            generate_greedy(whole, prompt, NUM_TOKENS) for prompt in PROMPTS[1:3]
        ]
    assert runners.num_replays > 0


async def test_hidden_states_are_those_of_packed_steps_and_stay(
    llama: Path, runners: Runners, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(llama, MIDDLE)
    hidden = torch.randn(40, model.hidden_size, generator=torch.Generator().manual_seed(0))
    found = []
    for kind in ("paged", "packed"):
        if kind == "packed":
            monkeypatch.undo()
        async with running(model, SMALL_STEPS) as harness:
            await harness.open(1, 30)
            harness.submit(1, 0, hidden[:30])
            while sum(rows.count for output in harness.outputs for rows in output.rows) < 30:
                await harness.output(len(harness.outputs))
            for position in range(30, 40):
                number = len(harness.outputs)
                harness.submit(1, position, hidden[position : position + 1])
                await harness.output(number)
            outs = [output.hidden for output in harness.outputs if output.hidden is not None]
            found.append(torch.cat(outs))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert runners.num_replays == 10


async def test_a_span_that_can_not_be_captured_runs_without_graphs(llama: Path, runners: Runners) -> None:
    def capture(run: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        run()
        raise RuntimeError("operation not permitted when stream is capturing")

    runners.capture = capture
    want = generate_greedy(load_whole(llama), PROMPTS[0], NUM_TOKENS)
    async with running(load(llama)) as harness:
        assert await generate(harness, 1, PROMPTS[0]) == (want, 0)
    assert "not permitted" in str(runners.made[0].graphs.failure)


async def test_a_span_that_is_removed_takes_its_graphs_and_their_memory_with_it(llama: Path, runners: Runners) -> None:
    want = generate_greedy(load_whole(llama), PROMPTS[0], NUM_TOKENS)
    async with running(load(llama)) as harness:
        assert await generate(harness, 1, PROMPTS[0]) == (want, 0)
        seconds = await harness.engine.measure("span")
        assert seconds > 0
        (runner,), (cache,) = runners.made, runners.caches
        held = [runner, runner.graphs, *cache._keys, *cache._values, *runners.recorder.graphs]
        refs = [weakref.ref(each) for each in held]
        del runner, cache, held
        runners.made.clear()
        runners.caches.clear()
        await harness.engine.remove_span("span")
        harness.outputs.clear()
        runners.recorder.graphs.clear()
        gc.collect()  # what make_fx records goes in circles; CUDA graphs do not
        assert [ref() for ref in refs] == [None] * len(refs)
        await harness.engine.add_span("span", load(llama), 2_000_000)
        assert await generate(harness, 1, PROMPTS[0]) == (want, 0)
        assert runners.num_replays >= NUM_TOKENS - 1, "by graphs of the new span's own"


SLIDING, CHUNKED = Window("sliding", 24), Window("chunked", 20)


@given(
    window=st.sampled_from([Window(), SLIDING, CHUNKED, Window("sliding", 1), Window("chunked", 16)]),
    position=st.integers(0, 200),
    count=st.integers(1, 40),
    num_gone=st.integers(0, 12),
)
def test_rows_are_given_the_blocks_that_they_see(window: Window, position: int, count: int, num_gone: int) -> None:
    num_gone = min(num_gone, window.first_key(position) // 16)
    table = BlockTable(range(100 + num_gone, 120), 16, first_block=num_gone)
    rows = paged_rows(Part(table, position, count), table, window, 16)
    seen = range(window.first_key(position), position + count)
    assert list(rows.blocks) == sorted({100 + key // 16 for key in seen})
    assert rows.first_block == seen.start // 16
    if count == 1 and window.kind != "full":
        assert len(rows.blocks) <= window_blocks(window, 16)


def shapes(expands: Sequence[bool]) -> list[LayerShape]:
    return [LayerShape(key=(1, 8), value=(1, 8), dtype=torch.float32, window=Window(), expands=e) for e in expands]


@pytest.mark.parametrize(
    ("device_type", "expands", "kind"),
    [
        ("cuda", (False, False), "paged"),
        ("cuda", (False, True), "packed"),
        ("cpu", (False,), "packed"),
        ("mps", (False,), "packed"),
    ],
)
def test_which_runner_a_span_gets(device_type: str, expands: tuple[bool, ...], kind: RunnerKind) -> None:
    assert runner_kind(device_type, shapes(expands)) == kind
    device = torch.device(device_type)
    assert tables_device(kind, device) == (torch.device("cpu") if kind == "paged" else device)
