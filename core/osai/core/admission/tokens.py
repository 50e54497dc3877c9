"""Join tokens: what an operator hands to whoever is to join, and how the joiner tells the swarm by it. Pure.

The S numbers are clauses of docs/security.md. A token is `osai1.<authority>.<id>.<secret>`: the SHA-256 of the
authority's certificate, the token's id, and 256 random bits.
"""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

from osai.core.admission.authority import Anchor, RandomBytes
from osai.core.errors import TrustError

SECRET_BYTES = 32
ID_BYTES = 8
_FORM = "osai1"
_DIGEST_BYTES = 32
_TEXT = re.compile(rf"{_FORM}\.([\w-]{{43}})\.([0-9a-f]{{{2 * ID_BYTES}}})\.([\w-]{{43}})", re.ASCII)
_MALFORMED = "not a join token: copy all of it, from `osai1.` on"
MAX_TOKEN_CHARS = 200  # a token has 110, and people paste blanks with it


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A token (S10). Whoever has its text can join with it: it is printed nowhere but where it is made.

    Attributes:
        authority: SHA-256 of the authority's certificate.
        token_id: 16 hex digits; no secret.
        secret: 32 bytes.
    """

    authority: bytes
    token_id: str
    secret: bytes = field(repr=False)

    @classmethod
    def create(cls, anchor: Anchor, random: RandomBytes) -> Self:
        """A new token for a swarm."""
        return cls(authority=anchor.digest, token_id=random(ID_BYTES).hex(), secret=random(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a token as people paste it.

        Raises:
            TrustError: if it is none; its text is not repeated.
        """
        match = _TEXT.fullmatch(text.strip()) if len(text) <= MAX_TOKEN_CHARS else None
        if match is None:
            raise TrustError(_MALFORMED)
        return cls(authority=_decoded(match[1]), token_id=match[2], secret=_decoded(match[3]))

    @property
    def text(self) -> str:
        """The token as it is handed over. Secret."""
        return ".".join((_FORM, _encoded(self.authority), self.token_id, _encoded(self.secret)))

    @property
    def secret_sha256(self) -> str:
        """What the issuer keeps of it, in hex: enough for 256 random bits, which nobody can try out (S11)."""
        return sha256(self.secret).hexdigest()

    def check_authority(self, certificate: bytes) -> Anchor:
        """The anchor in a certificate that somebody presents as the swarm's; before the secret is sent to him (S10).

        Args:
            certificate: PEM or DER, from a connection that is not believed.

        Raises:
            TrustError: if it is not the one that the token names.
        """
        anchor = Anchor.read(certificate)
        if not hmac.compare_digest(anchor.digest, self.authority):
            raise TrustError(
                "the coordinator is not of the swarm that the join token is for, and was told nothing: check the "
                "address; if it is right, somebody may be in between",
                subject=anchor.swarm_id,
            )
        return anchor


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    data = urlsafe_b64decode(text + "=")
    if len(data) != _DIGEST_BYTES or _encoded(data) != text:  # two spare bits: one token has one text
        raise TrustError(_MALFORMED)
    return data
