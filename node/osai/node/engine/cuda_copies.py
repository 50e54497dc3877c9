"""Between frames on the host and tensors on the device."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Copies(Protocol):
    """How a step's data come to the device, and its results go."""

    def to_device(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pieces [count, ...] of one dtype, on the host, as one tensor on the device."""
        ...

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """A device's tensor on the host, contiguous, complete, and untouched by later steps."""
        ...

    def wait(self) -> None:
        """Return once the device has done all that this thread gave it."""
        ...


class PlainCopies:
    """By torch's copies, which wait for the device; where the host is the device, nothing is copied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def to_device(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """See Copies."""
        return (pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))).to(self._device)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Copies."""
        return tensor.contiguous().cpu()

    def wait(self) -> None:
        """See Copies."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)


class PinnedCopies:
    """By way of page-locked memory, from and to which a GPU copies by itself, at the bus's full speed.

    torch keeps freed page-locked memory for the next step, and hands none out that a copy still reads: so each step
    asks for its own, and no buffer here has to be waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def to_device(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """See Copies. Returns at once; what the stream runs later finds the data there."""
        count = sum(len(piece) for piece in pieces)
        staged = torch.empty(count, *pieces[0].shape[1:], dtype=pieces[0].dtype, pin_memory=True)
        torch.cat(list(pieces), out=staged)
        return staged.to(self._device, non_blocking=True)

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Copies. Waits for this copy and what went before it, not for the whole device."""
        landed = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        landed.copy_(tensor, non_blocking=True)
        self._done.record(torch.cuda.current_stream(self._device))
        self._done.synchronize()
        return landed

    def wait(self) -> None:
        """See Copies. Also of use where nothing came back: the next step writes where this one's copies read."""
        torch.cuda.current_stream(self._device).synchronize()


def copies_for(device: torch.device) -> Copies:
    """What fits the device."""
    return PinnedCopies(device) if device.type == "cuda" else PlainCopies(device)
