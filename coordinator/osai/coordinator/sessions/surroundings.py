"""What a session's runner needs of the coordinator around it."""

from typing import Protocol

from osai.coordinator.api import StageView
from osai.coordinator.sessions.actions import FindPipeline, FindStandby, Found
from osai.core.errors import NotCoveredError
from osai.proto import edge_pb2


class Surroundings(Protocol):
    """What a session's runner needs of the coordinator."""

    def find_pipeline(self, action: FindPipeline) -> Found | NotCoveredError | None:
        """A pipeline; None where there is no way around what is avoided, and an error where there is none at all."""
        ...

    def find_standby(self, action: FindStandby) -> StageView | None:
        """A node to follow a stage."""
        ...

    def send(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        """Send a message to a stage, which is dialled if it must be.

        Raises:
            OsaiError: if it can't be queued.
        """
        ...

    def close(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        """Send a CloseSession, now or when the node is connected again; nothing is dialled for it."""
        ...

    def renumber(self, number: int) -> int:
        """Another number for the session of this one, by which it is known from now on."""
        ...
