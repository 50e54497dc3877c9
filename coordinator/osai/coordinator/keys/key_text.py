"""The key as its holder has it. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

from osai.core.errors import UnauthenticatedError

ID_BYTES = 8
SECRET_BYTES = 32
NOT_VALID = "the API key is not valid here: ask the coordinator's operator for one"
NONE_SENT = "this coordinator asks for an API key: send it as `Authorization: Bearer osai_sk_...`"

RandomBytes = Callable[[int], bytes]
_TEXT = re.compile(f"osai_sk_([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")  # A1


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyText:
    """A key's id and secret.

    Attributes:
        key_id: 16 hex digits, by which logs and commands call the key.
        secret: 32 bytes.
    """

    key_id: str
    secret: bytes = field(repr=False)  # A7

    @classmethod
    def create(cls, random: RandomBytes) -> Self:
        """A new key of random bytes."""
        return cls(key_id=random(ID_BYTES).hex(), secret=random(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key.

        Raises:
            UnauthenticatedError: if it is none; the message does not repeat it (A7).
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise UnauthenticatedError(NOT_VALID)
        return cls(key_id=match[1], secret=bytes.fromhex(match[2]))

    @classmethod
    def of_header(cls, authorization: str | None) -> Self:
        """Read the key of an `Authorization` header, or of gRPC's metadata of that name.

        Raises:
            UnauthenticatedError: if there is none, or what there is is no key.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise UnauthenticatedError(NONE_SENT)
        return cls.parse(text.strip())

    @property
    def text(self) -> str:
        """The key as its holder sends it."""
        return f"osai_sk_{self.key_id}_{self.secret.hex()}"

    @property
    def secret_sha256(self) -> str:
        """What is kept of the secret (A2), in hex.

        Slow hashes with a salt (scrypt, Argon2) protect secrets that people choose: they make each guess dear. Nobody
        guesses 256 random bits, however cheap a guess is, and no two keys share a secret. A slow hash would add nothing
        but 100 ms to each request, and a way to keep the coordinator busy with wrong keys.
        """
        return sha256(self.secret).hexdigest()
