"""A generation that any scripted coordinator goes on with, and what its caller must see of it."""

from typing import Any

import grpc

from client.fake_coordinator import Event, Script, chunk, finished, started
from osai.client import AsyncClient, Chunk, Finished, GenerationEvent, Rerouted, Started, Waiting
from osai.proto import client_pb2, common_pb2

LONG = tuple(f"w{i} " for i in range(12))  # the text
IDS = [100 + i for i in range(len(LONG))]
NUM_EVENTS = len(LONG) + 2
LOST = grpc.StatusCode.UNAVAILABLE


def rest(request: client_pb2.GenerateRequest, **fields: Any) -> list[Event]:  # noqa: ANN401 - of Started
    """LONG from where the client has it, as any coordinator would go on: with what the client says, checked."""
    known = request.resume.tokens
    assert [token.token_id for token in known] == [100 + i for i in range(len(known))]
    values = {"seed": request.resume.seed or 7, "session_id": request.resume.session_id or f"{5:016x}", **fields}
    chunks = [chunk(i, [100 + i], LONG[i]) for i in range(len(known), len(LONG))]
    return [started(**values), *chunks, finished(len(LONG))]


def dying(num_events: int, status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, **fields: Any) -> Script:  # noqa: ANN401 - of Started
    """`rest`, which breaks after so many events."""
    return lambda request: [*rest(request, **fields)[:num_events], status]


def rerouted(*names: str) -> Event:
    stages = [
        common_pb2.Stage(node_id=name, address=f"{name}:1", span=common_pb2.LayerRange(start=i, end=i + 1))
        for i, name in enumerate(names)
    ]
    return Event(rerouted=client_pb2.Rerouted(pipeline=stages, reason="b was lost", pause_s=0.5))


def waiting(remaining_s: float) -> Event:
    return Event(waiting=client_pb2.Waiting(reason="layers 1:2 have no node", remaining_s=remaining_s))


async def collected(client: AsyncClient) -> list[GenerationEvent]:
    return [event async for event in client.generate("x")]


def check_whole(events: list[GenerationEvent]) -> None:
    """One Started, all tokens in order and once, their text, one Finished."""
    shown = [event for event in events if not isinstance(event, Waiting | Rerouted)]
    first, *chunks, last = shown
    assert isinstance(first, Started)
    assert isinstance(last, Finished)
    assert all(isinstance(event, Chunk) for event in chunks)
    tokens = [token.token_id for event in chunks if isinstance(event, Chunk) for token in event.tokens]
    assert tokens == IDS
    assert [event.index for event in chunks if isinstance(event, Chunk)] == list(range(len(LONG)))
    assert "".join(event.text for event in chunks if isinstance(event, Chunk)) == "".join(LONG)
    assert last.usage.num_generated_tokens == len(LONG)
