"""How many tokens a second come of late. Pure."""

from collections import Counter
from collections.abc import Sequence

SLOT_S = 2.0
NUM_SLOTS = 15  # a rate is of the last half minute


class Rates:
    """Counts tokens by node and by model, and forgets them after half a minute."""

    def __init__(self) -> None:
        self._slots: dict[int, tuple[Counter[str], Counter[str]]] = {}

    def add(self, model_id: str, node_ids: Sequence[str], num_tokens: int, now_s: float) -> None:
        """Tokens of a model came, that these nodes have worked on."""
        slot = int(now_s // SLOT_S)
        self._forget(slot)
        by_model, by_node = self._slots.setdefault(slot, (Counter(), Counter()))
        by_model[model_id] += num_tokens
        for node_id in node_ids:
            by_node[node_id] += num_tokens

    def by_model(self, now_s: float) -> dict[str, float]:
        """Tokens a second of each model that has had any."""
        return self._rates(0, now_s)

    def by_node(self, now_s: float) -> dict[str, float]:
        """Tokens a second of each node that has had a part in any."""
        return self._rates(1, now_s)

    def _rates(self, which: int, now_s: float) -> dict[str, float]:
        self._forget(int(now_s // SLOT_S))
        total: Counter[str] = Counter()
        for slot in self._slots.values():
            total.update(slot[which])
        return {name: count / (SLOT_S * NUM_SLOTS) for name, count in total.items()}

    def _forget(self, slot: int) -> None:
        """Also what a clock that was set back has left in the future."""
        for old in [at for at in self._slots if not slot - NUM_SLOTS < at <= slot]:
            del self._slots[old]
