"""The folder of a private swarm's authority: its certificate and key, the tokens that are out, the revocation list.

`osai swarm` and the coordinator that holds the folder both write there: a lock orders them, and each file is replaced
whole. Rules are osai.core.admission's; here are the files.
"""

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from osai.core.admission import issuer
from osai.core.admission.authority import Anchor, Authority
from osai.core.admission.credentials import LeafRequest
from osai.core.admission.issuer import Enrolled
from osai.core.admission.peer import Peer
from osai.core.admission.revocation import LIST_LIFE_S, MAX_LIST_BYTES, RevocationList, seal, unseal
from osai.core.admission.roles import Role, is_member_id
from osai.core.admission.tls_key import TlsKey
from osai.core.admission.token_book import MAX_BOOK_BYTES, TokenBook
from osai.core.admission.tokens import JoinToken
from osai.core.errors import InvalidRequestError, SetupError
from osai.core.member_files import AUTHORITY_FILE, MAX_FILE_BYTES, REVOCATIONS_FILE
from osai.core.secret_files import read_bounded, write_secret

KEY_FILE = "authority.key"
TOKENS_FILE = "tokens.json"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class SwarmFolder:
    """The files of one swarm's authority. Every method raises SetupError where they can't be read or written.

    Attributes:
        leaf_life_s: of the certificates that it issues; None for what their role has.
    """

    folder: Path
    leaf_life_s: int | None = None

    @classmethod
    def create(cls, folder: Path, now_s: float) -> Self:
        """Make a new swarm.

        Raises:
            SetupError: if the folder holds one, or can't be written.
        """
        if (folder / AUTHORITY_FILE).exists():
            raise SetupError(f"{folder} holds a swarm already: choose another folder")
        authority = Authority.create(now_s, secrets.token_bytes)
        it = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as e:
            raise SetupError(f"can't make {folder} ({e.strerror}): choose another folder") from e
        it._write(KEY_FILE, authority.key.pem)
        it._write(TOKENS_FILE, TokenBook().to_json())
        first = RevocationList(swarm_id=authority.anchor.swarm_id).next(now_s)
        it._write(REVOCATIONS_FILE, seal(first, authority))
        it._write(AUTHORITY_FILE, authority.anchor.pem)  # last: with it the folder holds a swarm
        return it

    def authority(self) -> Authority:
        """The authority, with its key.

        Raises:
            TrustError: if the files are damaged, or do not belong together.
        """
        anchor = Anchor.read(self._read(AUTHORITY_FILE, MAX_FILE_BYTES))
        return Authority(anchor=anchor, key=TlsKey.from_pem(self._read(KEY_FILE, MAX_FILE_BYTES)))

    def invite(self, role: Role, *, now_s: float, life_s: int) -> JoinToken:
        """A token for one member.

        Raises:
            InvalidRequestError: if it would live too long, or not at all.
            ResourceExhaustedError: if too many are out.
        """
        with self._locked():
            book, token = self._book().invite(
                self.authority().anchor, role, now_s=now_s, random=secrets.token_bytes, life_s=life_s
            )
            self._write(TOKENS_FILE, book.to_json())
        return token

    def enrol(self, token: str, request: LeafRequest, now_s: float) -> Enrolled:
        """Give a certificate to whoever has a token, which is used up before that (S12).

        Raises:
            TrustError: if the token or the request is not good.
        """
        with self._locked():
            enrolled = issuer.enrol(
                self.authority(), self._book(), self.revocations(), token, request,
                now_s=now_s, random=secrets.token_bytes, life_s=self.leaf_life_s,
            )  # fmt: skip
            self._write(TOKENS_FILE, enrolled.book.to_json())
        return enrolled

    def renew(self, peer: Peer, request: LeafRequest, now_s: float) -> bytes:
        """A member's next certificate, PEM.

        Raises:
            TrustError: if the request is not good, or the member revoked.
        """
        return issuer.renew(
            self.authority(), self.revocations(), peer, request,
            now_s=now_s, random=secrets.token_bytes, life_s=self.leaf_life_s,
        )  # fmt: skip

    def revoke(self, member_id: str, now_s: float) -> RevocationList:
        """Let a member in no more.

        Raises:
            InvalidRequestError: if it is no member's id.
            ResourceExhaustedError: if too many are revoked.
        """
        if not is_member_id(member_id):
            raise InvalidRequestError(f"{member_id[:80]!r} is no member's id: `osai status` lists them, 32 hex digits")
        with self._locked():
            return self._seal(self.revocations().revoking_member(member_id, now_s), now_s)

    def restore(self, member_id: str, now_s: float) -> RevocationList:
        """Let a member in again, with a certificate that it still has, or a new token."""
        with self._locked():
            return self._seal(self.revocations().restoring_member(member_id), now_s)

    def revocations(self) -> RevocationList:
        """The list as it was signed last."""
        return unseal(self.sealed_revocations(), self.authority().anchor)

    def sealed_revocations(self) -> bytes:
        """The list as it travels."""
        return self._read(REVOCATIONS_FILE, MAX_LIST_BYTES)

    def refresh(self, now_s: float) -> bytes:
        """The list as it travels; signed anew if half of its life is over (S15)."""
        with self._locked():
            present = self.revocations()
            if now_s >= present.not_after_s - LIST_LIFE_S / 2:
                self._seal(present, now_s)
        return self.sealed_revocations()

    def _seal(self, revocations: RevocationList, now_s: float) -> RevocationList:
        following = revocations.next(now_s)
        self._write(REVOCATIONS_FILE, seal(following, self.authority()))
        return following

    def _book(self) -> TokenBook:
        return TokenBook.from_json(self._read(TOKENS_FILE, MAX_BOOK_BYTES))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with (self.folder / LOCK_FILE).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as e:
            raise SetupError(f"{self.folder} can't be written ({e.strerror}): is it yours?") from e

    def _read(self, name: str, max_bytes: int) -> bytes:
        return read_bounded(self.folder / name, max_bytes, "make a swarm with `osai swarm create`")

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_secret(self.folder / name, data)
        except OSError as e:
            raise SetupError(f"can't write {self.folder / name}: {e.strerror}") from e
