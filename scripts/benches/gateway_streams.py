"""The thinnest clients of a coordinator's two doors: what they take of the machine, the doors can't have."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from osai.core.errors import UnavailableError
from osai.core.protocol import PROTOCOL_VERSION
from osai.proto import client_pb2, client_pb2_grpc

DEADLINE_S = 300.0
_READ_BYTES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A generation: the same through either door."""

    model_id: str
    prompt: tuple[int, ...]
    num_tokens: int


Stream = Callable[[Asked], Awaitable[tuple[float, int]]]  # seconds to the first token, and tokens


class HttpDoor:
    """Streams completions from `http://HOST:PORT`."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._host, self._port = host, int(port)

    async def stream(self, asked: Asked) -> tuple[float, int]:
        """One generation; errors as of `count_events`."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            start_s = time.perf_counter()
            writer.write(self._request(asked))
            return await count_events(reader, start_s)
        finally:
            writer.transport.abort()

    def _request(self, asked: Asked) -> bytes:
        body: dict[str, Any] = {
            "model": asked.model_id, "prompt": list(asked.prompt), "max_tokens": asked.num_tokens, "stream": True,
            "temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        content = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def count_events(reader: asyncio.StreamReader, start_s: float) -> tuple[float, int]:
    """Seconds to the first event with a token, and how many tokens there were: text may lag, so not each has an event.

    Raises:
        UnavailableError: if the stream does not end as it should.
    """
    first_s, num_events, last = 0.0, 0, b""
    while b"[DONE]" not in last:
        part = await reader.read(_READ_BYTES)
        if not part:
            raise UnavailableError(f"the HTTP stream broke off after {num_events} events: {last[-500:]!r}")
        joined = last[-5:] + part  # a mark may be cut in two
        num_events += joined.count(b"data: ") - last[-5:].count(b"data: ")
        last = joined
        if not first_s and num_events > 1:  # the first one tells of the start alone
            first_s = time.perf_counter() - start_s
    usage = re.search(rb'"completion_tokens":(\d+)', last)
    if usage is None:
        raise UnavailableError(f"the HTTP stream ended without its usage: {last[-500:]!r}")
    return first_s, int(usage[1])


class GrpcDoor:
    """Streams generations from a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = client_pb2_grpc.CoordinatorStub(channel)

    async def stream(self, asked: Asked) -> tuple[float, int]:
        """One generation."""
        request = client_pb2.GenerateRequest(
            model_id=asked.model_id,
            token_ids=client_pb2.TokenIds(ids=asked.prompt),
            max_tokens=asked.num_tokens,
            ignore_eos=True,
            protocol_version=PROTOCOL_VERSION,
        )
        start_s = time.perf_counter()
        first_s, num_tokens = 0.0, 0
        async for event in self._stub.Generate(request, timeout=DEADLINE_S):
            if event.HasField("chunk"):
                first_s = first_s or time.perf_counter() - start_s
                num_tokens += len(event.chunk.tokens)
        return first_s, num_tokens


async def rate(stream: Stream, asked: Asked, num_streams: int) -> float:
    """Tokens a second of streams that begin at once, from the first request to the last end."""
    start_s = time.perf_counter()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(stream, asked)) for _ in range(num_streams)]
    return sum(task.result()[1] for task in tasks) / (time.perf_counter() - start_s)


async def _run(stream: Stream, asked: Asked) -> tuple[float, int]:
    return await stream(asked)
