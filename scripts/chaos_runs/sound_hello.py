"""A TLS client's first message, as the module ssl sends it."""

import ssl
from contextlib import suppress


def client_hello(server_name: str | None = "join.osai.internal", newest: ssl.TLSVersion | None = None) -> bytes:
    """The bytes of one, that speaks TLS up to `newest`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is connected to
    if newest is not None:
        context.maximum_version = newest
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()
