"""What reads bytes or messages of peers that nobody vouches for, each ready to be attacked."""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message
from scripts.chaos_runs.attack_ring import attacked_ring
from scripts.chaos_runs.mutants import damaged, drawn
from scripts.chaos_runs.sound_hello import client_hello

from osai.coordinator.client_wire import read_request
from osai.coordinator.wire import read_node
from osai.core.admission import Authority, JoinToken, RevocationList, Role, TokenBook, read_peer, seal, unseal
from osai.core.embedded import model_dir
from osai.core.frame_receiver import FrameReceiver
from osai.core.identity import Identity
from osai.core.manifest import MANIFEST_FILE, parse
from osai.core.port.client_hello import read_client_hello
from osai.core.record_guard import RecordGuard
from osai.core.records import NODES_KEY
from osai.core.records import seal as seal_record
from osai.core.records import unseal as unseal_record
from osai.node.control_wire import read_assignment
from osai.proto import client_pb2, control_pb2, record_pb2

Feed = Callable[[Random], Awaitable[None]]
"""One attack: it draws what is sent, and lets the reader have it; what the reader raises comes out."""

Reader = Callable[[], Any]  # an async context manager that gives a Feed
MakeBytes = Callable[[], tuple[bytes, Callable[[bytes], object]]]  # sound bytes, and what reads such

NOW_S = 1_800_000_000.0


def mutant(kind: type[Message], random: Random) -> Any:  # noqa: ANN401 - of that kind
    """A message with odd fields, or one damaged on its way; DecodeError where it is none any more."""
    message = drawn(kind(), random)
    if random.random() < 0.5:
        return message
    return kind.FromString(damaged(message.SerializeToString(), random))


def _of_messages(kind: type[Message], read: Callable[[Any], object]) -> Reader:
    @asynccontextmanager
    async def reader() -> AsyncIterator[Feed]:
        async def feed(random: Random) -> None:
            read(mutant(kind, random))

        yield feed

    return reader


def _of_bytes(make: MakeBytes) -> Reader:
    @asynccontextmanager
    async def reader() -> AsyncIterator[Feed]:
        sound, read = make()

        async def feed(random: Random) -> None:
            read(damaged(sound, random))

        yield feed

    return reader


def _control(message: control_pb2.NodeMessage) -> None:
    kind = message.WhichOneof("kind")
    if kind in ("join", "heartbeat"):
        read_node(getattr(message, kind).record)


def _record() -> tuple[bytes, Callable[[bytes], object]]:
    identity = Identity.generate()
    sealed = seal_record(identity, NODES_KEY, record_pb2.NodeRecord(name="n").SerializeToString(), NOW_S)
    return sealed, lambda data: unseal_record(data, NODES_KEY, identity.node_id, 0.0)


def _guard() -> tuple[bytes, Callable[[bytes], object]]:
    """A record guard says False where others raise."""
    guard = RecordGuard({b"key": NODES_KEY}, lambda data: data)
    return _record()[0], lambda data: guard.validate(
        SimpleNamespace(key=b"key", subkey=data[:32], value=data, expiration_time=NOW_S)
    )


def _admission(what: str) -> MakeBytes:
    def make() -> tuple[bytes, Callable[[bytes], object]]:
        authority = Authority.create(NOW_S, secrets.token_bytes)
        anchor, identity = authority.anchor, Identity.generate()
        book, token = TokenBook().invite(anchor, Role.NODE, now_s=NOW_S, random=secrets.token_bytes)
        leaf = authority.issue(Role.NODE, identity.node_id, authority.key.public_key, now_s=NOW_S,
                               random=secrets.token_bytes)  # fmt: skip
        revoked = RevocationList(swarm_id=anchor.swarm_id).revoking_member(identity.node_id, NOW_S).next(NOW_S)
        return {
            "certificate": (leaf, lambda data: read_peer(data, anchor, NOW_S)),
            "revocations": (seal(revoked, authority), lambda data: unseal(data, anchor)),
            "token": (token.text.encode(), lambda data: JoinToken.parse(data.decode("latin-1"))),
            "token book": (book.to_json(), TokenBook.from_json),
        }[what]

    return make


def _manifest() -> tuple[bytes, Callable[[bytes], object]]:
    return (model_dir() / MANIFEST_FILE).read_bytes(), parse


def _hello() -> tuple[bytes, Callable[[bytes], object]]:
    return client_hello(), read_client_hello


@asynccontextmanager
async def _frame_stream() -> AsyncIterator[Feed]:
    async def feed(random: Random) -> None:
        body = mutant(control_pb2.NodeMessage, random).SerializeToString()
        data = damaged(len(body).to_bytes(4, "little") + body, random)
        receiver, at = FrameReceiver(), 0
        while at < len(data):
            step = random.randint(1, len(data))
            receiver.data_received(data[at : at + step])
            at += step
        receiver.connection_lost(None)
        deadline_s = time.monotonic() + 5.0
        while time.monotonic() < deadline_s:  # it ends with an error: the dialler has gone, at last
            await receiver.next()

    yield feed


MESSAGES: dict[str, tuple[type[Message], Callable[[Any], object]]] = {
    "control": (control_pb2.NodeMessage, _control),
    "assignment": (control_pb2.Assignment, read_assignment),
    "client": (client_pb2.GenerateRequest, lambda message: read_request(message, lambda: 1)),
}
BYTES: dict[str, MakeBytes] = {
    "client hello": _hello,
    "record": _record,
    "record guard": _guard,
    "manifest": _manifest,
    "certificate": _admission("certificate"),
    "revocations": _admission("revocations"),
    "token": _admission("token"),
    "token book": _admission("token book"),
}
READERS: dict[str, Reader] = {
    "edge": attacked_ring,
    **{name: _of_messages(kind, read) for name, (kind, read) in MESSAGES.items()},
    "frame stream": _frame_stream,
    **{name: _of_bytes(make) for name, make in BYTES.items()},
}
