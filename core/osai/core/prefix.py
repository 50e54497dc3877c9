"""Names for the KV of a prompt's beginning: equal beginnings have equal hashes, on every machine.

A block's hash covers its own tokens and, through the hash before it, all tokens before them. What else decides the KV
(weights, dtype, whose sessions may share) is the stage's to add: a hash names tokens alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from struct import pack

BLOCK_TOKENS = 16  # tokens in a block: few are computed twice where prompts part, and 16 bytes a block are not many
HASH_BYTES = 16  # nobody gains from a collision but in a scope of its own

_PERSON = b"osai.prefix"
_SALT_PERSON = b"osai.prefix-salt"


def block_hashes(token_ids: Sequence[int], known: Sequence[bytes] = (), salt: bytes = b"") -> tuple[bytes, ...]:
    """The hashes of the full blocks of `token_ids`, from the first on; what is left behind the last has none.

    Args:
        token_ids: each at least 0 and below 2**32.
        known: the first of the hashes, where they were computed before; they are not computed again.
        salt: other hashes for who knows it; empty, or HASH_BYTES of them.
    """
    num_blocks = len(token_ids) // BLOCK_TOKENS
    fresh = token_ids[len(known) * BLOCK_TOKENS : num_blocks * BLOCK_TOKENS]
    return (*known, *_chain(fresh, known[-1] if known else salt))


def shareable_hashes(prompt: Sequence[int], salt: bytes = b"") -> tuple[bytes, ...]:
    """The hashes of a prompt's full blocks, without one that would leave no row to run: the tail needs its logits."""
    return block_hashes(prompt[:-1], salt=salt)


def secret_salt(secret: bytes, operators: Iterable[bytes]) -> bytes:
    """The salt of sessions that run on nodes of these operators alone; nobody knows it who lacks the secret.

    KV that anybody else's node had a part in has other names therefore, and so has what a stranger may claim.

    Args:
        secret: of whoever runs the sessions, at most 64 bytes.
        operators: public keys of 32 bytes; none: no salt, as of sessions that run anywhere.
    """
    named = b"".join(sorted(operators))
    return blake2b(named, key=secret, digest_size=HASH_BYTES, person=_SALT_PERSON).digest() if named else b""


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
