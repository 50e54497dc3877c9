"""Rows as they travel from node to node on simulated edges; all other messages are production's own."""

import struct
from dataclasses import dataclass

from osai.node.engine.api import Rows
from osai.node.wire import read_rows
from osai.proto import edge_pb2


@dataclass(frozen=True, slots=True)
class Frames:
    """Rows: token ids into the head, else what the layer before gave."""

    rows: tuple[Rows, ...]
    values: list[int]


def read_frames(batch: edge_pb2.FrameBatch) -> Frames:
    """Token ids from a coordinator."""
    return Frames(tuple(map(read_rows, batch.frames)), list(struct.unpack(f"<{batch.shape[0]}i", batch.data)))


def pack(values: list[int]) -> memoryview:
    """Values as the journal keeps them."""
    return memoryview(struct.pack(f"<{len(values)}q", *values))


def unpack(data: bytes) -> list[int]:
    """The inverse."""
    return list(struct.unpack(f"<{len(data) // 8}q", data))
