"""A TLS client's first message, as the module ssl sends it."""

import ssl
from contextlib import suppress


def client_hello(server_name: str = "join.osai.internal") -> bytes:
    """The bytes of one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()
