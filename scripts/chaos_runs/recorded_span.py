"""What a recorded node made of the rows that came in: input row in, the recorded output row out. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from scripts.chaos_runs.recording import Recording

from osai.core.errors import BadFrameError
from osai.proto import common_pb2, edge_pb2

LINK = "/osai.v1.Edge/Link"
TOLERANCE = 1e-4  # float32 from other kernels or of another chunk; activations are of the order of 1
DTYPES: Mapping[int, type[np.generic]] = {common_pb2.DTYPE_FLOAT32: np.float32, common_pb2.DTYPE_INT32: np.int32}
Rows = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


def rows_of(batch: edge_pb2.FrameBatch) -> list[tuple[edge_pb2.Frame, Rows]]:
    """A batch's frames with their rows: [count] int32 or [count, hidden_size] float32."""
    data = np.frombuffer(batch.data, DTYPES[batch.dtype]).reshape(tuple(batch.shape))
    ends = np.cumsum([frame.count for frame in batch.frames])
    return [(frame, data[end - frame.count : end]) for frame, end in zip(batch.frames, ends, strict=True)]


@dataclass(slots=True)
class RecordedSession:
    """Rows of one recorded session on one node, by position.

    Attributes:
        opened: how it was opened.
        came: what came in.
        pushed: what went on to the successor; of the tail, token ids by the position that they were pushed at.
        drawn: by the tail, by index.
    """

    opened: edge_pb2.OpenSession
    came: dict[int, Rows] = field(default_factory=dict)
    pushed: dict[int, Rows] = field(default_factory=dict)
    drawn: dict[int, int] = field(default_factory=dict)

    @property
    def is_tail(self) -> bool:
        """Whether the node drew tokens."""
        return bool(self.drawn)

    def output(self, position: int, row: Rows) -> Rows:
        """What the recorded node pushed for a row.

        Raises:
            BadFrameError: if another row came at that position in the recording, or none.
        """
        seen = self.came.get(position)
        if seen is None or seen.shape != row.shape or not np.allclose(seen, row, rtol=TOLERANCE, atol=TOLERANCE):
            raise BadFrameError(f"row {position} is not the recorded one")
        return self.pushed[position]

    def token(self, position: int) -> int:
        """The token that the recorded tail drew from the row at `position`.

        Raises:
            BadFrameError: if it drew none there.
        """
        index = position + 1 - self.opened.num_prompt_tokens
        if index not in self.drawn:
            raise BadFrameError(f"no token {index} was recorded")
        return self.drawn[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSpan:
    """All sessions of one recorded node."""

    sessions: tuple[RecordedSession, ...]

    @classmethod
    def of(cls, recording: Recording, name: str) -> Self:
        """Gather what came to the node called `name`, and what it pushed."""
        sessions: dict[int, RecordedSession] = {}
        mine = {said.call for said in recording.of(LINK) if _dialler(said.data) == recording.ids[name]}
        for said in recording.of(LINK):
            message = edge_pb2.LinkMessage.FromString(said.data)
            if not said.by_dialler:
                for token in message.tokens.tokens if said.server == name else ():
                    sessions[token.session].drawn[token.index] = token.token.token_id
                continue
            if message.HasField("open") and said.server == name:
                sessions[message.open.session] = RecordedSession(message.open)
            for frame, rows in rows_of(message.frames) if message.HasField("frames") else ():
                if frame.session in sessions:
                    at = {frame.position + i: row for i, row in enumerate(rows)}
                    if said.server == name:
                        sessions[frame.session].came |= at
                    if said.call in mine:
                        sessions[frame.session].pushed |= at
        return cls(sessions=tuple(sessions.values()))

    def session(self, sampling: common_pb2.SamplingParams) -> RecordedSession:
        """The session that was sampled so.

        Raises:
            BadFrameError: if none was.
        """
        for session in self.sessions:
            then = session.opened.sampling
            greedy = then.temperature == 0  # then the seed does not matter
            if then.temperature == sampling.temperature and (greedy or then.seed == sampling.seed):
                return session
        raise BadFrameError("no such request was recorded")


def _dialler(data: bytes) -> str:
    message = edge_pb2.LinkMessage.FromString(data)
    return message.hello.peer_id if message.HasField("hello") else ""
