"""Between the control stream's messages and the node's own data."""

from osai.core.errors import InvalidRequestError
from osai.core.layers import LayerRange
from osai.node.config import NodeConfig
from osai.node.membership_actions import Assigned
from osai.proto import common_pb2, control_pb2, record_pb2

MAX_NAME_CHARS = 255
MAX_SOURCE_CHARS = 4096  # a folder, a hub id or an address


def read_assignment(message: control_pb2.Assignment) -> Assigned:
    """Read an assignment.

    Raises:
        InvalidRequestError: if its layer range is empty or negative, or a name in it is too long (B2).
    """
    if len(message.model_id) > MAX_NAME_CHARS or len(message.source) > MAX_SOURCE_CHARS:
        raise InvalidRequestError("an assignment's model id or source is too long: is the coordinator osai's?")
    return Assigned(
        assignment_id=message.assignment_id,
        model_id=message.model_id,
        layers=LayerRange(message.span.start, message.span.end),
        manifest=message.manifest,
        source=message.source,
        replace=message.replace,
        urgent=message.urgent,
    )


def write_join(record: record_pb2.NodeRecord, sealed: bytes, config: NodeConfig) -> control_pb2.Join:
    """How a node introduces itself; `sealed` is the record as it has signed it, where it names an operator."""
    wishes = [
        control_pb2.Wish(
            model_id=wish.model_id,
            span=common_pb2.LayerRange(start=wish.layers.start, end=wish.layers.end) if wish.layers else None,
        )
        for wish in config.wishes
    ]
    return control_pb2.Join(
        record=record,
        wishes=wishes,
        dtype=config.announced_dtype,
        memory_bytes=config.memory_bytes,
        sealed=sealed,
    )
