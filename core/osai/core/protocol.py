"""The wire protocol's version, and the greeting that opens every connection."""

from importlib.metadata import PackageNotFoundError, version

from osai.core.errors import ProtocolMismatchError
from osai.proto import common_pb2

PROTOCOL_VERSION = 1
OLDEST_PROTOCOL_VERSION = 1  # the oldest that this release still speaks


def software() -> str:
    """Name and version of this program, for people."""
    try:
        return f"osai/{version('osai')}"
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "osai/unknown"


def hello(peer_id: str = "") -> common_pb2.Hello:
    """This side's greeting; `peer_id` is empty for a client."""
    return common_pb2.Hello(protocol_version=PROTOCOL_VERSION, software=software(), peer_id=peer_id)


def check_hello(theirs: common_pb2.Hello) -> None:
    """Accept a peer's greeting.

    Raises:
        ProtocolMismatchError: if its version is one that this release does not speak.
    """
    if not OLDEST_PROTOCOL_VERSION <= theirs.protocol_version <= PROTOCOL_VERSION:
        spoken = f"{OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
        raise ProtocolMismatchError(
            f"peer {theirs.software or 'of unknown software'} speaks protocol {theirs.protocol_version}, "
            f"{software()} speaks {spoken}: upgrade the older side"
        )
