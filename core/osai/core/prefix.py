"""Names for the KV of a prompt's beginning: equal beginnings have equal hashes, on every machine.

A block's hash covers its own tokens and, through the hash before it, all tokens before them. What else decides the KV
(weights, dtype, whose sessions may share) is the stage's to add: a hash names tokens alone.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import pack

BLOCK_TOKENS = 16  # tokens in a block: few are computed twice where prompts part, and 16 bytes a block are not many
HASH_BYTES = 16  # nobody gains from a collision but in a scope of its own

_PERSON = b"osai.prefix"


def block_hashes(token_ids: Sequence[int], known: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """The hashes of the full blocks of `token_ids`, from the first on; what is left behind the last has none.

    Args:
        token_ids: each at least 0 and below 2**32.
        known: the first of the hashes, where they were computed before; they are not computed again.
    """
    num_blocks = len(token_ids) // BLOCK_TOKENS
    fresh = token_ids[len(known) * BLOCK_TOKENS : num_blocks * BLOCK_TOKENS]
    return (*known, *_chain(fresh, known[-1] if known else b""))


def shareable_hashes(prompt: Sequence[int]) -> tuple[bytes, ...]:
    """The hashes of a prompt's full blocks, without one that would leave no row to run: the tail needs its logits."""
    return block_hashes(prompt[:-1])


def num_shareable_blocks(num_prompt_tokens: int) -> int:
    """How many hashes `shareable_hashes` gives for a prompt of so many tokens."""
    return max(0, num_prompt_tokens - 1) // BLOCK_TOKENS


def _chain(token_ids: Sequence[int], previous: bytes) -> Iterator[bytes]:
    data = pack(f"<{len(token_ids)}I", *token_ids)  # little-endian everywhere: one machine's hashes are another's
    num_bytes = 4 * BLOCK_TOKENS
    for start in range(0, len(data), num_bytes):
        block = data[start : start + num_bytes]
        previous = blake2b(previous + block, digest_size=HASH_BYTES, person=_PERSON).digest()
        yield previous
