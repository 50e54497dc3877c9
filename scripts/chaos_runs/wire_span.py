"""The span that attacks over sockets are aimed at, and what honest and other peers say to it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from osai.core.errors import NotFiniteError
from osai.core.frames import FrameShape
from osai.core.layers import LayerRange
from osai.core.link import EdgeLink, Link
from osai.core.protocol import hello
from osai.core.rpc import Pings
from osai.node.engine.api import Input, Rows, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.ring import ServedSpan
from osai.node.stages.stage import HostedSpan, Peer
from osai.proto import common_pb2, edge_pb2

MODEL_ID, DIGEST, HIDDEN_SIZE, NUM_LAYERS = "me/attacked", b"d" * 32, 4, 6
LAYERS = LayerRange(2, 4)
UNHURRIED = Pings(interval_ms=1000, timeout_ms=60_000)  # a process that other work keeps waiting is not frozen
NEXT = Peer(node_id="next", address="127.0.0.1:9")  # nothing listens on the discard port


class Forgetful(Engine):
    """Takes every session and all finite rows, computes nothing, and keeps nothing."""

    def __init__(self, on_output: Callable[[StepOutput], None]) -> None:
        """No thread and no model; nothing is ever put out."""

    async def open(self, spec: SessionSpec) -> int:  # noqa: ARG002 - the engine's own signature
        """A session begins, with nothing that is known already."""
        return 0

    def submit(self, inp: Input) -> None:
        """Rows have come; refused as osai.node.engine.input_checks does."""
        if inp.data.is_floating_point() and not inp.data.isfinite().all():
            raise NotFiniteError("hidden states are not finite")

    async def resume(self, spec: SessionSpec, position: int) -> None:
        """A later epoch."""

    async def cut(self, session: int, position: int) -> None:
        """Rows are forgotten."""

    def release(self, session: int, block_hashes: Sequence[bytes] = ()) -> None:
        """A session has ended."""

    def num_free_kv_tokens(self, key: str) -> int:  # noqa: ARG002 - the engine's own signature
        """There is always room."""
        return 1000


def served_span() -> ServedSpan:
    """As a ring is told of it."""
    hosted = HostedSpan(key=MODEL_ID, layers=LAYERS, num_layers=NUM_LAYERS, manifest_digest=DIGEST)
    shape = FrameShape(dtype=common_pb2.DTYPE_FLOAT32, hidden_size=HIDDEN_SIZE)
    return ServedSpan(hosted=hosted, frames=shape)


def open_session(session: int, **fields: Any) -> edge_pb2.OpenSession:  # noqa: ANN401 - of any field
    """A coordinator's wish: a prompt of 3 tokens, 10 in all."""
    values = {"num_prompt_tokens": 3, "max_total_tokens": 10, **fields}
    return edge_pb2.OpenSession(
        session=session,
        epoch=1,
        model_id=MODEL_ID,
        manifest_digest=DIGEST,
        sampling=common_pb2.SamplingParams(top_p=1.0, repetition_penalty=1.0),
        span=common_pb2.LayerRange(start=LAYERS.start, end=LAYERS.end),
        successor=common_pb2.Stage(node_id=NEXT.node_id, address=NEXT.address),
        **values,
    )


def rows(session: int, position: int = 0, count: int = 3) -> Rows:
    """Rows of a session's first epoch."""
    return Rows(session=session, epoch=1, position=position, count=count)


def hidden(num_tokens: int) -> torch.Tensor:
    """Rows that differ, [num_tokens, HIDDEN_SIZE]."""
    return torch.arange(num_tokens * HIDDEN_SIZE, dtype=torch.float32).reshape(num_tokens, HIDDEN_SIZE) / 8


def unhurried_link(address: str, on_message: Callable[[edge_pb2.LinkMessage], None]) -> EdgeLink:
    """An honest peer's link, as osai.core.link.edge_link makes them, but for its pings."""
    return Link(
        peer="me",
        address=address,
        method="/osai.v1.Edge/Link",
        parse=edge_pb2.LinkMessage.FromString,
        greeting=edge_pb2.LinkMessage(hello=hello("honest")),
        hello_of=lambda message: message.hello if message.HasField("hello") else None,
        on_message=on_message,
        pings=UNHURRIED,
    )
