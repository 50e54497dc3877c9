"""The KV blocks of one session, group by group. Data alone; `kv_ledger` decides."""

from dataclasses import dataclass, field

from osai.node.engine.windows import Window


@dataclass(slots=True, eq=False)
class GroupBlocks:
    """A session's blocks in one group of layers.

    Attributes:
        group: which.
        window: what the group keeps.
        limit: blocks that it holds at most between steps.
        first: number of the session's block that `blocks` begins with; blocks before it are let go of.
        blocks: in the order of tokens.
        revision: grows with every change.
    """

    group: int
    window: Window
    limit: int
    first: int = 0
    blocks: list[int] = field(default_factory=list)
    revision: int = 0

    @property
    def end(self) -> int:
        """Number of the block after the last."""
        return self.first + len(self.blocks)

    @property
    def is_full(self) -> bool:
        """Whether everything is kept."""
        return self.window.kind == "full"

    def at(self, number: int) -> int | None:
        """The session's block of that number, if it is held."""
        return self.blocks[number - self.first] if self.first <= number < self.end else None

    def replace(self, first: int, blocks: list[int]) -> None:
        """Hold these, from block number `first` on."""
        self.first, self.blocks = first, blocks
        self.revision += 1


@dataclass(slots=True, eq=False)
class SessionBlocks:
    """What one session holds of a span's KV.

    Attributes:
        scope: with whom it shares.
        hashes: of the prompt's full blocks, as far as rows that come are sure to be these tokens.
        groups: its blocks.
        num_computed: tokens from the first on whose rows have been through a step that succeeded.
        num_registered: blocks from the first on that need no registering any more.
        num_begun: tokens from the first on whose rows a step has taken; cutting back takes it back too.
        is_closed: whether it holds nothing any more.
    """

    scope: str
    hashes: tuple[bytes, ...]
    groups: tuple[GroupBlocks, ...]
    num_computed: int = 0
    num_registered: int = 0
    num_begun: int = 0
    is_closed: bool = False
