"""Binds the listening socket of a server."""

import asyncio
import socket

from osai.core.errors import SetupError

# A client that vanished without a word is noticed within about 25 s; accepted connections inherit these.
_TCP_OPTIONS = (
    ("TCP_KEEPIDLE", 10),  # seconds
    ("TCP_KEEPINTVL", 5),  # seconds
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 25_000),  # milliseconds that sent bytes may stay unacknowledged
)
_LAST_PORT = 65535


async def bind_listener(host: str, port: int, *, flag: str) -> socket.socket:
    """A socket that listens on the first address that `host` resolves to; `port` 0 takes a free one.

    Raises:
        SetupError: if that can't be done; the message names the address and `flag`, which sets it.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not 0 <= port <= _LAST_PORT:
        raise SetupError(f"can't listen on {where}: ports go up to {_LAST_PORT}; choose another with {flag}")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, proto, _, address = found[0]
        listener = socket.socket(family, kind, proto)
    except (OSError, UnicodeError) as e:
        raise SetupError(f"can't listen on {where}: {_reason(e)}; give another address with {flag}") from e
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _TCP_OPTIONS:
            if hasattr(socket, name):  # Linux
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        listener.bind(address)
        listener.listen()  # at once: until then another program could take the port
    except OSError as e:
        listener.close()
        raise SetupError(f"can't listen on {where}: {_reason(e)}; give another address with {flag}") from e
    return listener


def _reason(error: OSError | UnicodeError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
