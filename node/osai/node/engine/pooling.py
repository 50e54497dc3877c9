"""The vector of a prompt: what the tail makes of its tokens' hidden states."""

from typing import Literal

import torch

from osai.core.errors import InternalError, InvalidRequestError

Pooling = Literal["mean", "last"]


class Pool:
    """Gathers the hidden states of one prompt after the final norm, chunk by chunk. Only the engine thread calls it.

    Args:
        pooling: "mean" of all tokens', or the "last" one's.
        num_tokens: of the prompt.
    """

    def __init__(self, pooling: Pooling, num_tokens: int) -> None:
        self._pooling, self._num_tokens = pooling, num_tokens
        self._next = 0
        self._sum: torch.Tensor | None = None

    def add(self, position: int, hidden: torch.Tensor) -> bytes | None:
        """The next rows; once all are here, the vector.

        Args:
            position: of the first of them.
            hidden: [count, hidden_size].

        Returns:
            float32 [hidden_size] of length 1, little-endian; None while rows are to come.

        Raises:
            InvalidRequestError: if rows are missing that count.
            InternalError: if the hidden states are not finite, or have no direction.
        """
        if self._pooling == "mean" and position == 0:
            self._sum, self._next = None, 0
        if self._pooling == "mean" and position != self._next:
            raise InvalidRequestError(
                f"rows from {position} on came where {self._next} was due: a mean needs every row of the prompt"
            )
        self._next = position + len(hidden)
        rows = hidden if self._pooling == "mean" else hidden[-1:]
        total = rows.to(torch.float64).sum(0)
        self._sum = total if self._sum is None or self._pooling == "last" else self._sum + total
        return _normal(self._sum) if self._next >= self._num_tokens else None


def _normal(vector: torch.Tensor) -> bytes:
    length = float(vector.norm())
    if not 0 < length < float("inf"):  # also NaN
        raise InternalError(f"the hidden states of the prompt add up to a vector of length {length}")
    return (vector / length).to(torch.float32).cpu().numpy().astype("<f4").tobytes()
