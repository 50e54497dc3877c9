"""Which of this machine's addresses others can reach."""

import contextlib
import socket

WILDCARDS = ("", "0.0.0.0", "::", "[::]")
ELSEWHERE = "192.0.2.1"  # an address of nobody's (RFC 5737): the route to it shows the interface that leads outside


def reachable_host(listen_host: str, towards: str = ELSEWHERE) -> str:
    """The host to announce for a server that listens on `listen_host`.

    A wildcard says nothing to others: then it is the address of the interface that leads `towards` them. Asking for the
    route sends nothing.
    """
    if listen_host not in WILDCARDS:
        return listen_host
    with contextlib.suppress(OSError):
        family, _, _, _, address = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    return "127.0.0.1"  # no route outside: then nobody outside can come in either
