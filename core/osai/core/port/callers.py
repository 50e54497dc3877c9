"""From which machine a gRPC call comes, also where a port has spliced its connection to a server's socket. Pure.

A spliced connection reaches the server over a socket of the file system, and would be nobody's. So its own end is bound
to a name that says whose it is; gRPC tells that name as the call's peer.
"""

from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network
from urllib.parse import unquote

_PREFIX = "osai-"
_NUM_SUBNET_BITS = 64  # whoever has one IPv6 address has all of these


def spliced_name(token: str, host: str) -> bytes:
    """The name of a spliced connection's own end, in Linux' abstract namespace.

    Args:
        token: letters and digits; makes the name unique.
        host: the IP address that it comes from.
    """
    return f"\0{_PREFIX}{token}-{host}".encode()


def caller_host(peer: str) -> str:
    """The address that a call comes from, by what gRPC says of its peer; empty where that is unknown.

    All of an IPv6 subnet counts as one address.
    """
    kind, _, rest = unquote(peer).partition(":")
    if kind == "unix-abstract":
        prefix, _, host = rest.partition("-")[2].partition("-")
        return _address(host) if rest.startswith(_PREFIX) and prefix else ""
    return _address(rest.rpartition(":")[0].strip("[]")) if kind in ("ipv4", "ipv6") else ""


def _address(host: str) -> str:
    try:
        if ":" not in host:
            return str(IPv4Address(host))
        address = IPv6Address(host)
    except AddressValueError:
        return ""
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address.packed, _NUM_SUBNET_BITS), strict=False).network_address)
