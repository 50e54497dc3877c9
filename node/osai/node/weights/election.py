"""Who of several nodes that need a chunk fetches it from outside of the swarm. Pure.

Rendezvous hashing: the node whose id gives the highest hash together with the chunk's digest. All come to the same
answer without a word, each node gets an even share, and when one goes its share alone moves.
"""

import hashlib
from collections.abc import Sequence

from osai.node.weights import bits


def weights_of(node_id: str, digests: Sequence[str]) -> list[bytes]:
    """A node's weight for each chunk; the highest is elected."""
    salt = hashlib.sha256(node_id.encode())
    weights = []
    for digest in digests:
        one = salt.copy()
        one.update(digest.encode())
        weights.append(one.digest())
    return weights


def wins_over(theirs: Sequence[bytes], mine: Sequence[bytes]) -> int:
    """The set of chunks for which one node goes before another one."""
    return bits.of(i for i, (a, b) in enumerate(zip(theirs, mine, strict=True)) if a > b)
