"""Routers in blocks of rows: what a row gets does not depend on the others, nor on how many there are."""

import torch
from torch import nn
from torch.nn import functional

from osai.node.engine.routers import NUM_ROWS, InBlocks, install_blocks


class TopKRouter(nn.Module):
    """As transformers has them."""

    def __init__(self, num_experts: int, hidden_size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(num_experts, hidden_size, generator=generator), requires_grad=False)
        self.num_rows: list[int] = []

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = hidden.reshape(-1, hidden.shape[-1])
        self.num_rows.append(len(rows))
        logits = functional.linear(rows, self.weight)
        scores, chosen = logits.sigmoid().topk(2)
        return logits, scores, chosen


def test_each_row_gets_what_it_gets_alone() -> None:
    router = TopKRouter(8, 96)
    assert install_blocks(nn.ModuleList([router, nn.Linear(4, 4)])) == 1
    hidden = torch.randn(1, 2 * NUM_ROWS + 3, 96, generator=torch.Generator().manual_seed(2))
    together = router(hidden)
    alone = [router(row[None, None]) for row in hidden[0]]
    for whole, *rows in zip(together, *alone, strict=True):
        assert torch.equal(whole, torch.cat(rows))
    assert set(router.num_rows) == {NUM_ROWS}


def test_where_places_of_a_block_are_rounded_apart_rows_go_one_by_one() -> None:
    calls: list[int] = []

    def by_place(rows: torch.Tensor) -> torch.Tensor:
        calls.append(len(rows))
        return rows.sum(1, keepdim=True) + torch.arange(len(rows))[:, None]

    blocks = InBlocks(by_place, 4, torch.float32)
    calls.clear()
    assert blocks(torch.ones(3, 4)).tolist() == [[4], [4], [4]]
    assert calls == [1, 1, 1]
