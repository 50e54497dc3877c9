"""Checks on frames before anything is allocated for them (no tensor library here: bytes and shapes only)."""

from dataclasses import dataclass
from math import prod

from osai.core.errors import BadFrameError
from osai.proto import common_pb2, edge_pb2

MAX_FRAME_BYTES = 48 * 2**20  # within the edge's message limit; 1,536 rows of the widest model known (16,384 x bf16)
MAX_DIMENSIONS = 8  # of a shape that a message repeats; frames have one or two
MAX_SESSIONS_PER_BATCH = 4096  # far above any batch that a CPU or GPU serves at once

ITEM_BYTES: dict[common_pb2.DType.ValueType, int] = {
    common_pb2.DTYPE_FLOAT32: 4,
    common_pb2.DTYPE_BFLOAT16: 2,
    common_pb2.DTYPE_FLOAT16: 2,
    common_pb2.DTYPE_INT32: 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameShape:
    """What a stage accepts.

    Attributes:
        dtype: INT32 token ids into the head, else the span's own dtype.
        hidden_size: width of a row; None for token ids.
    """

    dtype: common_pb2.DType.ValueType
    hidden_size: int | None


def check_num_frames(batch: edge_pb2.FrameBatch) -> None:
    """Refuse a batch of too many frames, before any of them is looked at.

    Raises:
        BadFrameError: if it is one, or has none.
    """
    if not 0 < len(batch.frames) <= MAX_SESSIONS_PER_BATCH:
        raise BadFrameError(f"batch of {len(batch.frames)} frames; 1 to {MAX_SESSIONS_PER_BATCH} are taken")


def check_batch(batch: edge_pb2.FrameBatch, expected: FrameShape) -> None:
    """Refuse a batch whose dtype, shape, counts or length disagree with each other or with the stage.

    Raises:
        BadFrameError: naming the first thing that is wrong.
    """
    check_num_frames(batch)
    if batch.dtype != expected.dtype:
        names = common_pb2.DType.Name
        got = names(batch.dtype) if batch.dtype in common_pb2.DType.values() else str(batch.dtype)
        raise BadFrameError(f"frame dtype is {got}; this stage takes {names(expected.dtype)}")
    num_rows = sum(frame.count for frame in batch.frames)
    shape = (num_rows,) if expected.hidden_size is None else (num_rows, expected.hidden_size)
    if len(batch.shape) > MAX_DIMENSIONS:  # before it is copied, and told of (B3)
        raise BadFrameError(f"frame shape has {len(batch.shape)} sizes; this stage takes {len(shape)}")
    if tuple(batch.shape) != shape or not all(frame.count for frame in batch.frames):
        raise BadFrameError(f"frame shape is {tuple(batch.shape)}; counts and stage ask for {shape}")
    num_bytes = prod(shape) * ITEM_BYTES[expected.dtype]
    if len(batch.data) != num_bytes:
        raise BadFrameError(f"frame carries {len(batch.data)} bytes; its shape asks for {num_bytes}")
    if num_bytes > MAX_FRAME_BYTES:
        raise BadFrameError(f"frame of {num_bytes} bytes is over the limit of {MAX_FRAME_BYTES}")
