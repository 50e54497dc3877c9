"""The options by which a node is told what one peer may take of it. Without torch."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from osai.core.sizes import parse_bytes
from osai.node.budgets import BudgetConfig

DEFAULTS = BudgetConfig()


def budget_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --peer-rows, --peer-bytes, --peer-kv and --peer-links, all together as `budgets`."""

    @wraps(command)
    def with_budgets(*, peer_rows: int, peer_bytes: int, peer_kv: int, peer_links: int, **given: Any) -> None:  # noqa: ANN401
        budgets = BudgetConfig(
            tokens_a_second=peer_rows, bytes_a_second=peer_bytes, kv_tokens=peer_kv, num_links=peer_links
        )
        command(budgets=budgets, **given)

    def size(_: click.Context, __: click.Parameter, value: str) -> int:
        return parse_bytes(value)

    at_least_1, done = click.IntRange(min=1), with_budgets
    for option in (
        click.option("--peer-links", type=at_least_1, default=DEFAULTS.num_links, show_default=True,
                     help="Links that one peer may hold; each peer that pushes to this node needs two."),
        click.option("--peer-kv", type=at_least_1, default=DEFAULTS.kv_tokens, show_default=True,
                     help="Tokens whose KV one coordinator's sessions may hold here."),
        click.option("--peer-bytes", default=f"{int(DEFAULTS.bytes_a_second) // 2**30}GiB", show_default=True,
                     callback=size, help="Of hidden states that one peer may send a second, as in 100MiB."),
        click.option("--peer-rows", type=at_least_1, default=int(DEFAULTS.tokens_a_second), show_default=True,
                     help="Rows, one a token, that one peer may send a second."),
    ):  # fmt: skip
        done = option(done)
    return done
