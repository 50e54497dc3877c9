"""The thin client of an osai swarm and the `osai` command.

async with AsyncClient("127.0.0.1:7070") as client:
    async for event in client.generate("Once upon a time", max_tokens=64):
        ...

with Client("127.0.0.1:7070") as client:
    print(client.complete("Once upon a time", max_tokens=64).text)

Several coordinators may be given, and a client learns of more: a generation outlives the loss of its coordinator.
"""

from osai.client.aio import AsyncClient
from osai.client.blocking import Client
from osai.client.completion import partial_of
from osai.client.events import (
    Chunk,
    Completion,
    Embedding,
    Finished,
    GenerationEvent,
    Rerouted,
    Stage,
    Started,
    Timings,
    Token,
    TokenLogprob,
    Usage,
    Waiting,
)
from osai.client.lost import CoordinatorLostError
from osai.client.request import GenerationOptions, Prompt
from osai.client.retries import Retries
from osai.client.swarm import HostedSpan, Model, Node, Swarm
from osai.client.timeouts import Timeouts
from osai.core.chat_turns import ChatMessage, Tool, ToolCall
from osai.core.grammar import Grammar

__all__ = [
    "AsyncClient",
    "Client",
    "Timeouts",
    "Retries",
    "GenerationOptions",
    "Prompt",
    "ChatMessage",
    "Tool",
    "ToolCall",
    "Grammar",
    "Embedding",
    "GenerationEvent",
    "Started",
    "Chunk",
    "Rerouted",
    "Waiting",
    "Finished",
    "Completion",
    "CoordinatorLostError",
    "partial_of",
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
