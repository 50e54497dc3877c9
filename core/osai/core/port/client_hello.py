"""The first message of a TLS handshake, as far as it tells where a connection belongs. Pure.

Nothing here is trusted: the TLS server behind the port decides. It is read so that one port can serve two TLS servers,
and so that no connection below TLS 1.3 reaches either (S21 of docs/security.md): gRPC for Python has no option for it.
The layout is RFC 8446's, section 4.1.2, and RFC 6066's for the server name.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from osai.core.errors import PeerError, ProtocolMismatchError

HANDSHAKE = 0x16  # the record's type, its first byte
MAX_HELLO_BYTES = 16384  # one record; with post-quantum key shares a hello has 2 KB
_RECORD_HEADER_BYTES = 5
_CLIENT_HELLO = 1
_SERVER_NAME, _SUPPORTED_VERSIONS = 0, 43
_TLS_1_3 = 0x0304


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """What a dialler asks for; `server_name` is empty where it names none."""

    server_name: str
    speaks_tls_1_3: bool


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        if count > len(self._data):
            raise PeerError("the TLS handshake is malformed: its first message is cut short")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def part(self, width: int) -> "_Reader":
        """What follows a length of so many bytes."""
        return _Reader(self.take(self.number(width)))

    def __bool__(self) -> bool:
        return bool(self._data)

    def rest(self) -> bytes:
        return self.take(len(self._data))


def read_client_hello(seen: bytes) -> ClientHello | None:
    """The hello that a connection's first bytes are; None where more must come.

    Raises:
        PeerError: if it is none, or too large.
    """
    if len(seen) < _RECORD_HEADER_BYTES:
        return None
    length = int.from_bytes(seen[3:_RECORD_HEADER_BYTES], "big")
    if seen[0] != HANDSHAKE or length > MAX_HELLO_BYTES:
        raise PeerError("the connection does not begin with a TLS handshake of usual size")
    if len(seen) < _RECORD_HEADER_BYTES + length:
        return None
    record = _Reader(seen[_RECORD_HEADER_BYTES : _RECORD_HEADER_BYTES + length])
    if record.number(1) != _CLIENT_HELLO:
        raise PeerError("the TLS handshake does not begin with a client's hello")
    extensions = dict(_extensions(record.part(3)))
    versions = extensions.get(_SUPPORTED_VERSIONS, b"\0")
    offered = {int.from_bytes(versions[i : i + 2], "big") for i in range(1, len(versions) - 1, 2)}
    return ClientHello(
        server_name=_server_name(_Reader(extensions.get(_SERVER_NAME, b""))), speaks_tls_1_3=_TLS_1_3 in offered
    )


def _extensions(hello: _Reader) -> Iterator[tuple[int, bytes]]:
    hello.take(2 + 32)  # legacy version, random
    hello.part(1)  # session id
    hello.part(2)  # cipher suites
    hello.part(1)  # compression
    extensions = hello.part(2) if hello else hello
    while extensions:
        yield extensions.number(2), extensions.part(2).rest()


def _server_name(extension: _Reader) -> str:
    if not extension:
        return ""
    names = extension.part(2)
    names.take(1)  # a host name, the only kind there is
    return names.part(2).rest().decode("ascii", errors="replace")


def private_hello(seen: bytes) -> ClientHello | None:
    """The hello of a connection to a private swarm's member; None where more must come (S21).

    Args:
        seen: its first bytes, at least one.

    Raises:
        ProtocolMismatchError: if it is not encrypted, or by an older TLS.
        PeerError: if it is no hello, or too large a one.
    """
    if seen[0] != HANDSHAKE:
        raise ProtocolMismatchError("this swarm is private: connections are encrypted; join with a token")
    hello = read_client_hello(seen)
    if hello is not None and not hello.speaks_tls_1_3:
        raise ProtocolMismatchError("the peer does not speak TLS 1.3; is its software up to date?")
    return hello
