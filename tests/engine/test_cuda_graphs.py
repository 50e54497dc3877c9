"""Decode steps through buckets, buffers and replays."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.cuda_fakes import CPU, Recorder
from families.fixtures import Checkpoints
from families.reference import generate_greedy, lazy_tensors, load_whole, read_config
from osai.core.layers import LayerRange
from osai.node.engine import cuda_graphs
from osai.node.engine.attention import install
from osai.node.engine.cuda_backends import backends_for
from osai.node.engine.cuda_cache import PagedStepCache, run_buffers, run_paged
from osai.node.engine.cuda_capture import Graph
from osai.node.engine.cuda_copies import PlainCopies, copies_for
from osai.node.engine.cuda_graphs import BATCH_BUCKETS, MAX_BUCKET_BLOCKS, GraphedSteps, StepBuffers, bucket_of
from osai.node.engine.cuda_pages import PagedPlan, PagedRows
from osai.node.engine.kv_pages import PagedLayer
from osai.node.engine.kv_shapes import measure_shapes
from osai.node.engine.span_model import load_span

SIZE, NUM_BLOCKS, MAX_BLOCKS = 4, 60, 20
NUM_TOKENS = 20


def plans_of(parts: Sequence[Sequence[PagedRows]]) -> list[PagedPlan]:
    return [PagedPlan.of(group, SIZE, NUM_BLOCKS, NUM_BLOCKS + 1, CPU) for group in parts]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "llama4_scout", "mixtral"])
@torch.no_grad()
def test_graphed_decode_gives_transformers_tokens(family: str, checkpoints: Checkpoints) -> None:
    """Windows, soft caps, sinks, chunks, experts by groups: one prefill as it is, then every token by replays."""
    path = checkpoints(family)
    prompts = [[5, 17, 300, 42, 8], [9, 8, 7, 6, 5, 4, 3, 99, 7, 250, 31], [77]]
    whole = load_whole(path)
    want = [generate_greedy(whole, prompt, NUM_TOKENS) for prompt in prompts]
    span = load_span(read_config(path), lazy_tensors(path), LayerRange(0, 6), dtype=torch.float32, pack=False)
    binding = install(span)
    rows = (NUM_BLOCKS + 2) * SIZE
    layers = [
        PagedLayer(group=0, keys=torch.zeros(rows, *s.key), values=torch.zeros(rows, *s.value), window=s.window)
        for s in measure_shapes(span, binding)
    ]
    cache = PagedStepCache(layers, SIZE, backends_for(CPU))
    binding.cache = cache
    recorder = Recorder()

    def make_buffers(batch: int, num_blocks: int) -> StepBuffers:
        plan = PagedPlan.fixed(batch, num_blocks, SIZE, NUM_BLOCKS, NUM_BLOCKS + 1, CPU)
        return StepBuffers(torch.zeros(1, batch, dtype=torch.int64), [plan])

    forward = span.forward
    steps = GraphedSteps(
        partial(run_buffers, forward, cache),
        make_buffers,
        lambda buffers: cache.prepare(buffers.plans),
        recorder,
        MAX_BLOCKS,
    )
    tables = [list(range(i * MAX_BLOCKS, (i + 1) * MAX_BLOCKS))[::-1] for i in range(3)]

    def part(i: int, position: int, count: int) -> PagedRows:
        return PagedRows(blocks=tables[i][: -(-(position + count) // SIZE)], position=position, count=count)

    parts = [[part(i, 0, len(prompt)) for i, prompt in enumerate(prompts)]]
    last = torch.tensor([len(prompt) for prompt in prompts]).cumsum(0) - 1
    logits = run_paged(forward, cache, torch.tensor([[*chain.from_iterable(prompts)]]), plans_of(parts), last)
    tokens = [[int(row.argmax())] for row in logits]
    for step in range(NUM_TOKENS - 1):
        leaves = family == "llama" and step >= NUM_TOKENS // 2
        count = 2 if leaves else 3  # when a session leaves, the bucket is another one, and full
        data = torch.tensor([tokens[i][-1] for i in range(count)])
        out = steps.step(data, [[part(i, len(prompts[i]) + step, 1) for i in range(count)]])
        assert out is not None, steps.failure
        for i in range(count):
            tokens[i].append(int(out[i].argmax()))
    assert tokens[:2] == want[:2]
    assert tokens[2] == want[2][: len(tokens[2])]
    assert len({*chain.from_iterable(tokens)}) > 8, "a constant output would prove nothing"
    assert steps.num_graphs == (2 if family == "llama" else 1)
    assert sum(graph.num_replays for graph in recorder.graphs) == NUM_TOKENS - 1


@given(
    counts=st.lists(st.integers(1, 3), max_size=200), num_blocks=st.integers(1, 3000), max_blocks=st.integers(16, 2048)
)
def test_buckets_hold_what_goes_into_them(counts: list[int], num_blocks: int, max_blocks: int) -> None:
    bucket = bucket_of(counts, num_blocks, max_blocks)
    if not counts or max(counts) > 1 or len(counts) > BATCH_BUCKETS[-1] or num_blocks > max_blocks:
        assert bucket is None
        return
    if bucket is None:
        assert 4 * len(counts) * num_blocks > MAX_BUCKET_BLOCKS, "too much is read"
        return
    batch, blocks = bucket
    assert batch * blocks <= MAX_BUCKET_BLOCKS
    assert len(counts) <= batch < max(2 * len(counts), 2)
    assert num_blocks <= blocks <= max(min(2 * num_blocks, max_blocks), 16)


def simple_steps(recorder: Callable[[Callable[[], torch.Tensor]], tuple[Graph, torch.Tensor]]) -> GraphedSteps:
    def make_buffers(batch: int, num_blocks: int) -> StepBuffers:
        plan = PagedPlan.fixed(batch, num_blocks, SIZE, NUM_BLOCKS, NUM_BLOCKS + 1, CPU)
        return StepBuffers(torch.zeros(1, batch, 3), [plan])

    def run(buffers: StepBuffers) -> torch.Tensor:
        return buffers.data[0] * 2 + buffers.positions[:, None]

    return GraphedSteps(run, make_buffers, lambda _: None, recorder, MAX_BLOCKS)


def one_row_each(*positions: int) -> list[list[PagedRows]]:
    return [[PagedRows(blocks=range(p // SIZE + 1), position=p, count=1) for p in positions]]


def test_a_step_reads_what_its_buffers_hold_now() -> None:
    recorder = Recorder()
    steps = simple_steps(recorder)
    for positions in ((3, 7, 11), (5, 6, 7), (2, 70, 1, 4)):
        data = torch.randn(len(positions), 3)
        out = steps.step(data, one_row_each(*positions))
        assert out is not None
        torch.testing.assert_close(out, data * 2 + torch.tensor(positions)[:, None])
    assert [graph.num_replays for graph in recorder.graphs] == [2, 1]  # 70 needs the bucket of 20 blocks


def test_graphs_of_as_many_sessions_share_their_output() -> None:
    recorder = Recorder()
    steps = simple_steps(recorder)
    outs = [steps.step(torch.ones(1, 3), one_row_each(position)) for position in (3, 70)]
    assert [None if out is None else out.data_ptr() for out in outs] == [
        graph.out.data_ptr() for graph in recorder.graphs
    ]
    assert len({graph.out.data_ptr() for graph in recorder.graphs}) == 1
    assert len(recorder.graphs) == 2


def test_prefill_and_large_steps_run_as_they_are() -> None:
    steps = simple_steps(Recorder())
    prefill = [[PagedRows(blocks=(0, 1), position=0, count=5)]]
    assert steps.step(torch.zeros(5, 3), prefill) is None
    assert steps.step(torch.zeros(129, 3), one_row_each(*[1] * 129)) is None
    assert steps.step(torch.zeros(1, 3), one_row_each(MAX_BLOCKS * SIZE)) is None
    assert steps.num_graphs == 0


def test_a_capture_that_fails_is_tried_once() -> None:
    tries = []

    def capture(_: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    steps = simple_steps(capture)
    assert [steps.step(torch.zeros(1, 3), one_row_each(1)) for _ in range(2)] == [None, None]
    assert len(tries) == 1
    assert "not permitted" in str(steps.failure)


def test_the_number_of_graphs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 1)
    steps = simple_steps(Recorder())
    assert steps.step(torch.zeros(1, 3), one_row_each(1)) is not None
    assert steps.step(torch.zeros(2, 3), one_row_each(1, 2)) is None
    assert steps.step(torch.zeros(1, 3), one_row_each(2)) is not None


def test_copies_on_the_host_move_nothing() -> None:
    copies = copies_for(CPU)
    assert isinstance(copies, PlainCopies)
    piece = torch.randn(2, 3)
    assert copies.to_device([piece]) is piece
    assert torch.equal(copies.to_device([piece, piece[:1]]), torch.cat([piece, piece[:1]]))
    assert copies.to_host(piece.t()).is_contiguous()
