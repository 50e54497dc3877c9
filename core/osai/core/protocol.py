"""The wire protocol's version, and the greeting that opens every connection."""

from osai.core.errors import PeerError, ProtocolMismatchError
from osai.proto import common_pb2

# 2: sessions go on in later epochs (ResumeSession), standbys, probes
# 3: generations by nodes of named operators alone (GenerateRequest.trusted_operators)
# 4: grammars, logit_bias, tools, embeddings
PROTOCOL_VERSION = 4
OLDEST_PROTOCOL_VERSION = 1  # the oldest that this release still speaks
MAX_PEER_ID_CHARS = 128  # an id has 32
MAX_SOFTWARE_CHARS = 100  # of what is told of a peer's


def software() -> str:
    """Name and version of this program, for people."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - a tenth of a client's import

    try:
        return f"osai/{version('osai')}"
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "osai/unknown"


def hello(peer_id: str = "") -> common_pb2.Hello:
    """This side's greeting; `peer_id` is empty for a client."""
    return common_pb2.Hello(
        protocol_version=OLDEST_PROTOCOL_VERSION,
        newest_version=PROTOCOL_VERSION,
        software=software(),
        peer_id=peer_id,
    )


def check_hello(theirs: common_pb2.Hello) -> int:
    """Accept a peer's greeting; the newest version that both sides speak.

    Raises:
        ProtocolMismatchError: if there is none.
        PeerError: if the peer's id is none.
    """
    if len(theirs.peer_id) > MAX_PEER_ID_CHARS:
        raise PeerError(f"the peer greets with an id of {len(theirs.peer_id)} characters: is it an osai member?")
    oldest, newest = theirs.protocol_version, max(theirs.protocol_version, theirs.newest_version)
    if max(oldest, OLDEST_PROTOCOL_VERSION) > min(newest, PROTOCOL_VERSION):
        spoken = f"{OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"
        their_software = theirs.software[:MAX_SOFTWARE_CHARS] or "of unknown software"
        raise ProtocolMismatchError(
            f"peer {their_software} speaks protocol {_versions(oldest, newest)}, "
            f"{software()} speaks {spoken}: upgrade the older side"
        )
    return min(newest, PROTOCOL_VERSION)


def _versions(oldest: int, newest: int) -> str:
    return str(newest) if oldest == newest else f"{oldest} to {newest}"
