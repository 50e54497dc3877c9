"""Names for the KV of a prompt's beginning: equal beginnings have equal hashes.

A block's hash covers its own tokens and, through the hash before it, all tokens before them. What else decides the KV
(weights, dtype, whose sessions may share) is the stage's to add: a hash names tokens alone.
"""

from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice

BLOCK_TOKENS = 16  # tokens in a block: few are computed twice where prompts part, and 16 bytes a block are not many
HASH_BYTES = 16  # nobody gains from a collision but in a scope of its own


def block_hashes(token_ids: Sequence[int]) -> tuple[bytes, ...]:
    """The hashes of the full blocks of `token_ids`, from the first on; what is left behind the last has none."""
    return tuple(islice(_chain(token_ids), len(token_ids) // BLOCK_TOKENS))


def shareable_hashes(prompt: Sequence[int]) -> tuple[bytes, ...]:
    """The hashes of a prompt's full blocks, without one that would leave no row to run: the tail needs its logits."""
    return block_hashes(prompt[:-1])


def _chain(token_ids: Sequence[int]) -> Iterator[bytes]:
    previous = b""
    for start in range(0, len(token_ids), BLOCK_TOKENS):
        tokens = array("I", token_ids[start : start + BLOCK_TOKENS])
        previous = blake2b(previous + tokens.tobytes(), digest_size=HASH_BYTES, person=b"osai.prefix").digest()
        yield previous
