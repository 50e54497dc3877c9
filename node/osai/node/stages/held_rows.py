"""Rows of an epoch that has not begun here yet: a predecessor that was told earlier pushes them already."""

import torch

from osai.core.errors import ResourceExhaustedError
from osai.node.engine.api import Rows

MAX_HELD_BYTES = 2**28  # of all sessions: as much as a node's journal holds, from which such rows come


class HeldRows:
    """Rows with their data and the links that they came by, session by session, in order."""

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[Rows, torch.Tensor, int | None]]] = {}
        self._num_bytes = 0

    def add(self, rows: Rows, data: torch.Tensor, sender: int | None) -> None:
        """Hold rows behind those of the same session.

        Raises:
            ResourceExhaustedError: if there are too many.
        """
        if self._num_bytes + data.nbytes > MAX_HELD_BYTES:
            raise ResourceExhaustedError(f"session {rows.session:016x} has not begun, and too many rows wait for that")
        self._num_bytes += data.nbytes
        self._held.setdefault(rows.session, []).append((rows, data.clone(), sender))  # else all of its batch stays

    def take(self, session: int) -> list[tuple[Rows, torch.Tensor, int | None]]:
        """A session's rows, which are held no longer."""
        held = self._held.pop(session, [])
        self._num_bytes -= sum(data.nbytes for _, data, _ in held)
        return held
