"""The issuer's book of join tokens: what was handed out, to be what, until when, and who has used it. Pure.

The S numbers are clauses of docs/security.md. A book is a value: what changes it gives another one, which the caller
must have kept safe before it tells anybody.
"""

import hmac
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Self

from osai.core.admission.authority import Anchor, RandomBytes
from osai.core.admission.roles import Role, is_member_id
from osai.core.admission.tokens import ID_BYTES, JoinToken
from osai.core.errors import InvalidRequestError, ResourceExhaustedError, TrustError, UnauthenticatedError
from osai.core.manifest.encode import canonical
from osai.core.strict_json import Fields, fields_of, read_json

TOKEN_LIFE_S = 86400
MAX_TOKEN_LIFE_S = 30 * 86400
MAX_TOKENS = 4096
MAX_BOOK_BYTES = 2**20  # 4096 entries take less
FORMAT = 1
_UNKNOWN = "the join token is unknown here: ask the swarm's operator for a new one"
_NO_DIGEST = "0" * 64
_TOKEN_ID = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}")
_DIGEST = re.compile("[0-9a-f]{64}")
_INVITATION: Fields = {"token_id": str, "secret_sha256": str, "role": str, "expires_s": int, "used_by": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A token that was handed out (S11).

    Attributes:
        token_id: 16 hex digits.
        secret_sha256: in hex; the secret itself is kept nowhere.
        role: what it lets its user be.
        expires_s: seconds since 1970.
        used_by: id of the member that has joined with it; empty while nobody has.
    """

    token_id: str
    secret_sha256: str
    role: Role
    expires_s: int
    used_by: str = ""


@dataclass(frozen=True, slots=True)
class TokenBook:
    """All tokens that are not forgotten yet."""

    invitations: tuple[Invitation, ...] = ()

    def invite(
        self, anchor: Anchor, role: Role, *, now_s: float, random: RandomBytes, life_s: int = TOKEN_LIFE_S
    ) -> tuple[Self, JoinToken]:
        """Make a token that lets one member join as `role`.

        Raises:
            InvalidRequestError: if it would live too long, or not at all.
            ResourceExhaustedError: if too many are out.
        """
        if not 0 < life_s <= MAX_TOKEN_LIFE_S:  # S11
            raise InvalidRequestError(f"a join token can't live for {life_s} s: give 1 to {MAX_TOKEN_LIFE_S}")
        kept = self.pruned(now_s).invitations
        if len(kept) >= MAX_TOKENS:
            raise ResourceExhaustedError(f"{MAX_TOKENS} join tokens are out: withdraw some, or wait until they expire")
        token, expires_s = JoinToken.create(anchor, random), int(now_s) + life_s
        made = Invitation(token_id=token.token_id, secret_sha256=token.secret_sha256, role=role, expires_s=expires_s)
        if any(each.token_id == made.token_id for each in kept):
            raise ResourceExhaustedError("two join tokens would have one id: try again")
        return type(self)((*kept, made)), token

    def redeem(self, text: str, member_id: str, now_s: float) -> tuple[Self, Role]:
        """Let a member join with a token; it is used up then.

        The member that has used it may do so again while it lasts: the answer may have been lost on its way (S12).

        Args:
            text: the token.
            member_id: of the applicant, who must also prove that it has the key of that id.
            now_s: seconds since 1970.

        Raises:
            TrustError: if the token is malformed, unknown, expired or used; for an unknown one and a wrong secret in
                the same words (S11).
        """
        token = JoinToken.parse(text)
        found = next((each for each in self.invitations if each.token_id == token.token_id), None)
        digest = found.secret_sha256 if found else _NO_DIGEST
        if not hmac.compare_digest(digest, token.secret_sha256) or found is None:  # S11: compared either way
            raise UnauthenticatedError(_UNKNOWN)
        if now_s >= found.expires_s:  # S11
            raise UnauthenticatedError("the join token has expired: ask the swarm's operator for a new one")
        if found.used_by not in ("", member_id):  # S12
            raise UnauthenticatedError("the join token has been used: each lets one member join; ask for one more")
        used = replace(found, used_by=member_id)
        return type(self)(tuple(used if each is found else each for each in self.invitations)), found.role

    def withdrawn(self, token_id: str) -> Self:
        """The book without a token: nobody joins with it any more. An unknown id is no error."""
        return self._where(lambda each: each.token_id != token_id)

    def pruned(self, now_s: float) -> Self:
        """The book without expired tokens, used or not."""
        return self._where(lambda each: now_s < each.expires_s)

    def to_json(self) -> bytes:
        """The book as a file. It holds no secret, and must not be altered by others."""
        return canonical({"format": FORMAT, "invitations": [asdict(each) for each in self.invitations]})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read a book's file.

        Raises:
            TrustError: if it is damaged.
        """
        book = fields_of("token book", read_json("token book", data, MAX_BOOK_BYTES), _BOOK)
        if book["format"] != FORMAT:
            raise TrustError(f"token book format {book['format']} is unknown (this release reads {FORMAT})")
        if len(book["invitations"]) > MAX_TOKENS:
            raise TrustError(f"a token book of {len(book['invitations'])} entries is over the limit of {MAX_TOKENS}")
        read = tuple(_invitation(entry) for entry in book["invitations"])
        if len({each.token_id for each in read}) != len(read):
            raise TrustError("the token book lists a token twice")
        return cls(read)

    def _where(self, keep: Callable[[Invitation], bool]) -> Self:
        return type(self)(tuple(each for each in self.invitations if keep(each)))


_BOOK: Fields = {"format": int, "invitations": list}


def _invitation(entry: object) -> Invitation:
    fields = fields_of("token book entry", entry, _INVITATION)
    if not _TOKEN_ID.fullmatch(fields["token_id"]) or not _DIGEST.fullmatch(fields["secret_sha256"]):
        raise TrustError("a token book entry's id or digest is no hex number of its length")
    if fields["role"] not in tuple(Role):
        raise TrustError(f"the token book names an unknown role {fields['role'][:80]!r}: upgrade osai")
    if fields["used_by"] and not is_member_id(fields["used_by"]):
        raise TrustError("a token book entry was used by something that is no member id")
    return Invitation(**{**fields, "role": Role(fields["role"])})
