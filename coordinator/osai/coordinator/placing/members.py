"""What the operators of nodes want hosted, and what memory each model gets of a node. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from osai.core.layers import LayerRange
from osai.core.precision import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a node's operator wants hosted.

    An empty model id: any, or with layers the only one there is. No layers: whichever are needed.
    """

    model_id: str
    layers: LayerRange | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node whose control stream this coordinator holds.

    Attributes:
        precision: what it runs in.
        memory_bytes: what it has for weights and KV of all its spans.
    """

    node_id: str
    wishes: tuple[Wish, ...]
    precision: Precision
    memory_bytes: int

    def wish_for(self, model_id: str) -> Wish | None:
        """The wish that a span of the model meets: the one that names it, else one for any model."""
        by_name = {wish.model_id: wish for wish in self.wishes}
        return by_name.get(model_id) or by_name.get("")

    def may_move(self, model_id: str) -> bool:
        """Whether the layers were left to the coordinator."""
        wish = self.wish_for(model_id)
        return wish is not None and wish.layers is None

    def any_slot(self, held: Collection[str]) -> str | None:
        """The hosted model that meets the wish for any model, which another one may take the place of."""
        named = {wish.model_id for wish in self.wishes}
        if "" not in named or not self.may_move(""):
            return None
        return next((model_id for model_id in sorted(held) if model_id not in named), None)

    def budget_bytes(self, pinned: Mapping[str, int]) -> int:
        """Memory of a span whose layers were left to the coordinator: an equal share of what the others leave.

        Args:
            pinned: what spans take whose layers were asked for, by the wish's model id.
        """
        fair = self.memory_bytes // max(len(self.wishes), 1)
        taken = sum(max(num_bytes, fair) for num_bytes in pinned.values())
        return max(0, self.memory_bytes - taken) // max(len(self.wishes) - len(pinned), 1)
