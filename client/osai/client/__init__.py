"""The thin client of an osai swarm and the `osai` command.

async with AsyncClient("127.0.0.1:7070") as client:
    async for event in client.generate("Once upon a time", max_tokens=64):
        ...

with Client("127.0.0.1:7070") as client:
    print(client.complete("Once upon a time", max_tokens=64).text)
"""

from osai.client.aio import AsyncClient
from osai.client.blocking import Client
from osai.client.events import (
    ChatMessage,
    Chunk,
    Completion,
    Finished,
    GenerationEvent,
    HostedSpan,
    Model,
    Node,
    Stage,
    Started,
    Swarm,
    Timings,
    Token,
    TokenLogprob,
    Usage,
)
from osai.client.request import GenerationOptions, Prompt
from osai.client.timeouts import Timeouts

__all__ = [
    "AsyncClient",
    "Client",
    "Timeouts",
    "GenerationOptions",
    "Prompt",
    "ChatMessage",
    "GenerationEvent",
    "Started",
    "Chunk",
    "Finished",
    "Completion",
    "Token",
    "TokenLogprob",
    "Usage",
    "Timings",
    "Stage",
    "Model",
    "Swarm",
    "Node",
    "HostedSpan",
]
