"""Paged attention: the same code as on a GPU, over kernels that do on the CPU what the real are documented to do."""

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.varlen import varlen_attn

from engine.cuda_fakes import (
    CHUNKED,
    CPU,
    DIM,
    FULL,
    HEADS,
    NULL,
    NUM_BLOCKS,
    PLAIN,
    SCRATCH,
    SLIDING,
    FakeFlashInfer,
    Pages,
    fake_varlen,
)
from osai.node.engine import cuda_attention
from osai.node.engine.attention import How, attend
from osai.node.engine.cuda_attention import GatheredAttention, PagedAttention, VarlenAttention
from osai.node.engine.cuda_backends import AttentionKind, PagedBackends, backends_for, choose_backend
from osai.node.engine.cuda_flashinfer import FlashInferAttention
from osai.node.engine.cuda_pages import PagedPlan
from osai.node.engine.windows import Window


def make(name: str) -> PagedAttention:
    match name:
        case "gathered":
            return GatheredAttention()
        case "varlen":
            return VarlenAttention(fake_varlen)
        case _:
            return FlashInferAttention(FakeFlashInfer(), CPU)


CASES = [
    ("gathered", FULL, PLAIN), ("gathered", SLIDING, PLAIN), ("gathered", CHUNKED, PLAIN),
    ("gathered", SLIDING, How(0.2, 5.0)), ("gathered", FULL, How(0.1, None, torch.linspace(-1, 1, HEADS))),
    ("varlen", FULL, PLAIN), ("varlen", SLIDING, How(0.2)),
    ("flashinfer", FULL, PLAIN), ("flashinfer", SLIDING, How(0.2, 5.0)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "window", "how"), CASES)
@pytest.mark.parametrize("rows", [[(0, 1)], [(5, 1), (30, 1), (15, 1)], [(3, 1), (0, 21), (17, 9)]])
def test_each_way_gives_what_dense_attention_gives(
    name: str, window: Window, how: How, rows: list[tuple[int, int]]
) -> None:
    pages = Pages(4, seed=len(rows))
    parts = [pages.rows(*row) for row in rows]
    query = torch.randn(sum(part.count for part in parts), HEADS, DIM, generator=pages.generator)
    plan = PagedPlan.of(parts, 4, NULL, SCRATCH, CPU)
    backend = make(name)
    backend.prepare(plan)
    got = backend.attend(query, pages.keys, pages.values, plan, window, how)
    torch.testing.assert_close(got, pages.want(query, parts, window, how), rtol=1e-4, atol=1e-5)


def test_sessions_of_very_unlike_lengths_are_gathered_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded to the longest, their keys could take more memory than there is."""
    monkeypatch.setattr(cuda_attention, "_MAX_GATHERED_KEYS", 50)
    pages, shapes = Pages(4, seed=0), list[torch.Size]()

    def noting(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, how: How) -> torch.Tensor:
        shapes.append(k.shape)
        return attend(q, k, v, mask, how)

    parts = [pages.rows(position, 1) for position in (3, 39, 9)]
    query = torch.randn(3, HEADS, DIM, generator=pages.generator)
    plan = PagedPlan.of(parts, 4, NULL, SCRATCH, CPU)
    monkeypatch.setattr(cuda_attention, "attend", noting)
    got = make("gathered").attend(query, pages.keys, pages.values, plan, FULL, PLAIN)
    assert [(shape[0], shape[2]) for shape in shapes] == [(1, 4), (1, 40), (1, 10)]
    torch.testing.assert_close(got, pages.want(query, parts, FULL, PLAIN), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gathered", "varlen", "flashinfer"])
def test_blocks_before_a_window_may_be_gone(name: str) -> None:
    pages = Pages(4, seed=1)
    parts = [pages.rows(30, 1, first_block=5), pages.rows(25, 3, first_block=4)]  # keys from 20 and 16 on
    query = torch.randn(4, HEADS, DIM, generator=pages.generator)
    plan = PagedPlan.of(parts, 4, NULL, SCRATCH, CPU)
    got = make(name).attend(query, pages.keys, pages.values, plan, SLIDING, PLAIN)
    torch.testing.assert_close(got, pages.want(query, parts, SLIDING, PLAIN), rtol=1e-4, atol=1e-5)
    assert plan.positions.tolist() == [30, 25, 26, 27]


def test_large_pages_are_read_in_place() -> None:
    pages = Pages(256, seed=1)
    parts = [pages.rows(300, 1), pages.rows(255, 1)]
    query = torch.randn(2, HEADS, DIM, generator=pages.generator)
    plan = PagedPlan.of(parts, 256, NULL, SCRATCH, CPU)
    got = make("varlen").attend(query, pages.keys, pages.values, plan, FULL, PLAIN)
    torch.testing.assert_close(got, pages.want(query, parts, FULL, PLAIN), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gathered", "varlen", "flashinfer"])
@given(data=st.data())
@settings(max_examples=15)
def test_a_plan_filled_again_is_as_good_as_a_new_one(name: str, data: st.DataObject) -> None:
    """Padded with parts that read the scratch block, whose results nobody wants."""
    backend, pages = make(name), Pages(4, seed=0)
    plan = PagedPlan.fixed(4, 8, 4, NULL, SCRATCH, CPU)
    for _ in range(2):
        pages.free = data.draw(st.permutations(range(NUM_BLOCKS)))
        positions = data.draw(st.lists(st.integers(0, 31), min_size=1, max_size=4))
        parts = [pages.rows(position, 1) for position in positions]
        query = torch.randn(4, HEADS, DIM, generator=pages.generator)
        plan.fill(parts)
        backend.prepare(plan)
        got = backend.attend(query, pages.keys, pages.values, plan, SLIDING, PLAIN)
        assert got.isfinite().all()
        want = pages.want(query, parts, SLIDING, PLAIN)
        torch.testing.assert_close(got[: len(parts)], want, rtol=1e-4, atol=1e-5)
        slots = [part.blocks[-1] * 4 + part.position % 4 for part in parts]
        assert plan.slots.tolist() == slots + [SCRATCH * 4] * (4 - len(parts))


def test_flashinfer_plans_once_a_step_and_not_within_a_replay() -> None:
    flashinfer, pages = FakeFlashInfer(), Pages(4, seed=0)
    backend = FlashInferAttention(flashinfer, CPU)
    query = torch.randn(1, HEADS, DIM)
    fixed = PagedPlan.fixed(1, 8, 4, NULL, SCRATCH, CPU)
    fixed.fill([pages.rows(9, 1)])
    for window in (FULL, SLIDING, FULL):
        backend.attend(query, pages.keys, pages.values, fixed, window, PLAIN)
    assert [wrapper.num_plans for wrapper in flashinfer.wrappers] == [1, 1]
    fixed.fill([pages.rows(10, 1)])
    backend.prepare(fixed)
    assert [wrapper.num_plans for wrapper in flashinfer.wrappers] == [2, 2]
    backend.attend(query, pages.keys, pages.values, fixed, FULL, PLAIN)  # as within a capture: no plan any more
    assert [wrapper.num_plans for wrapper in flashinfer.wrappers] == [2, 2]
    for _ in range(2):
        passing = PagedPlan.of([pages.rows(3, 1)], 4, NULL, SCRATCH, CPU)
        for _ in range(2):
            backend.attend(query, pages.keys, pages.values, passing, FULL, PLAIN)
    assert [wrapper.num_plans for wrapper in flashinfer.wrappers] == [2, 2, 1, 1]


def kind(**changes: Any) -> AttentionKind:  # noqa: ANN401
    usual: dict[str, Any] = {
        "device_type": "cuda", "capability": (9, 0), "dtype": torch.bfloat16, "key_dim": 128, "value_dim": 128,
        "window": FULL,
    }  # fmt: skip
    return AttentionKind(**(usual | changes))


@pytest.mark.parametrize(
    ("changes", "with_flashinfer", "without"),
    [
        ({}, "flashinfer", "varlen"),
        ({"window": SLIDING}, "flashinfer", "varlen"),
        ({"softcap": True}, "flashinfer", "gathered"),
        ({"key_dim": 80, "value_dim": 80}, "varlen", "varlen"),
        ({"key_dim": 512, "value_dim": 512}, "gathered", "gathered"),
        ({"key_dim": 20, "value_dim": 20}, "gathered", "gathered"),
        ({"window": CHUNKED}, "gathered", "gathered"),
        ({"sinks": True}, "gathered", "gathered"),
        ({"value_dim": 64}, "gathered", "gathered"),
        ({"dtype": torch.float32}, "gathered", "gathered"),
        ({"dtype": torch.float16}, "flashinfer", "varlen"),
        ({"capability": (7, 5)}, "gathered", "gathered"),
        ({"device_type": "cpu", "capability": (0, 0)}, "gathered", "gathered"),
    ],
)
def test_which_kernels_are_chosen(changes: dict[str, Any], with_flashinfer: str, without: str) -> None:
    assert choose_backend(kind(**changes), have_flashinfer=True) == with_flashinfer
    assert choose_backend(kind(**changes), have_flashinfer=False) == without


def test_layers_of_several_kinds_share_what_is_made() -> None:
    made: list[str] = []

    def maker(name: str) -> PagedAttention:
        made.append(name)
        return make(name)

    makers: Any = {name: lambda name=name: maker(name) for name in ("gathered", "varlen", "flashinfer")}
    backends = PagedBackends(torch.device("cuda:0"), (9, 0), makers)
    pages = Pages(4, seed=0)
    pages.keys, pages.values = pages.keys.bfloat16(), pages.values.bfloat16()
    parts = [pages.rows(9, 1)]
    plan = PagedPlan.of(parts, 4, NULL, SCRATCH, CPU)
    query = torch.randn(1, HEADS, DIM, dtype=torch.bfloat16)
    for window, how in ((FULL, PLAIN), (SLIDING, PLAIN), (CHUNKED, PLAIN), (FULL, How(0.1, 5.0))):
        got = backends.attend(query, pages.keys, pages.values, plan, window, how)
        torch.testing.assert_close(got, pages.want(query, parts, window, how), rtol=0.02, atol=0.02)
    assert sorted(made) == ["flashinfer", "gathered"]
    assert backends.names == {"flashinfer", "gathered"}
    backends.prepare(plan)


def test_the_cpu_gathers() -> None:
    backends, pages = backends_for(CPU), Pages(4, seed=0)
    parts = [pages.rows(9, 1), pages.rows(0, 6)]
    plan = PagedPlan.of(parts, 4, NULL, SCRATCH, CPU)
    query = torch.randn(7, HEADS, DIM)
    got = backends.attend(query, pages.keys, pages.values, plan, FULL, PLAIN)
    torch.testing.assert_close(got, pages.want(query, parts, FULL, PLAIN), rtol=1e-4, atol=1e-5)
    assert backends.names == {"gathered"}


def test_torchs_kernel_takes_the_arguments_that_it_is_given() -> None:
    want = inspect.signature(fake_varlen).parameters
    real = inspect.signature(varlen_attn).parameters
    assert set(want) <= set(real)
    assert [name for name in real if name in want][:7] == list(want)[:7], "the positional ones, in order"
