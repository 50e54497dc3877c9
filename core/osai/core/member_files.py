"""What a member of a private swarm keeps on disk: the swarm's certificate, its own with the key, revocations."""

from dataclasses import dataclass
from pathlib import Path

from osai.core.admission.authority import Anchor
from osai.core.admission.credentials import Credentials
from osai.core.admission.gate import Gate
from osai.core.admission.revocation import MAX_LIST_BYTES
from osai.core.admission.roles import Role
from osai.core.admission.tls_key import TlsKey
from osai.core.errors import SetupError
from osai.core.secret_files import read_bounded, write_secret

AUTHORITY_FILE = "authority.pem"
MEMBER_FILE = "member.pem"  # the certificate and its key: one file, so that they can't be of two renewals
REVOCATIONS_FILE = "revocations.json"
MAX_FILE_BYTES = 16384
_KEY_BEGIN = b"-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """A folder of them, `swarm` in the state folder."""

    folder: Path

    @classmethod
    def of(cls, state_dir: Path) -> "MemberFiles":
        """Where a member with that state folder keeps them."""
        return cls(state_dir / "swarm")

    def exist(self) -> bool:
        """Whether the member has joined a private swarm."""
        return (self.folder / MEMBER_FILE).exists()

    def load(self, role: Role, member_id: str, now_s: float) -> tuple[Credentials, Gate]:
        """Read them.

        Raises:
            SetupError: if a file can't be read.
            TrustError: if the certificate has ended, or is not this member's; joining anew with a token mends it.
        """
        anchor = Anchor.read(self._read(AUTHORITY_FILE, MAX_FILE_BYTES))
        member = self._read(MEMBER_FILE, MAX_FILE_BYTES)
        at = max(member.find(_KEY_BEGIN), 0)
        key = TlsKey.from_pem(member[at:])
        credentials = Credentials.read(member[:at], key, anchor, role=role, member_id=member_id, now_s=now_s)
        return credentials, Gate.opened(anchor, self.sealed_revocations(), now_s)

    def sealed_revocations(self) -> bytes:
        """The list as it travels.

        Raises:
            SetupError: if it can't be read.
        """
        return self._read(REVOCATIONS_FILE, MAX_LIST_BYTES)

    def save(self, credentials: Credentials, sealed_revocations: bytes) -> None:
        """Keep them, each file whole.

        Raises:
            SetupError: if they can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_secret(self.folder / AUTHORITY_FILE, credentials.anchor.pem)
            write_secret(self.folder / MEMBER_FILE, credentials.leaf_pem + credentials.key.pem)
        except OSError as e:
            raise SetupError(f"can't write into {self.folder} ({e.strerror}): choose another --state folder") from e
        self.save_revocations(sealed_revocations)

    def save_revocations(self, sealed: bytes) -> None:
        """Keep a newer list.

        Raises:
            SetupError: if it can't be written.
        """
        try:
            write_secret(self.folder / REVOCATIONS_FILE, sealed)
        except OSError as e:
            raise SetupError(f"can't write into {self.folder} ({e.strerror}): choose another --state folder") from e

    def _read(self, name: str, max_bytes: int) -> bytes:
        return read_bounded(self.folder / name, max_bytes, "join the swarm anew, with --token")
