"""A member's state folder: its identity, and libp2p's key."""

import os
from pathlib import Path

from osai.core.errors import SetupError, TrustError
from osai.core.identity import Identity

IDENTITY_FILE = "identity.pem"
LIBP2P_KEY_FILE = "libp2p.key"


def load_identity(folder: Path) -> Identity:
    """The identity kept in `folder`, made there on the first run (mode 0600).

    Raises:
        SetupError: if the folder can't be used, or what lies there is no identity.
    """
    path = folder / IDENTITY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return Identity.from_pem(path.read_bytes())
        identity = Identity.generate()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(identity.to_pem())
    except OSError as e:
        raise SetupError(f"the state folder {folder} can't be used ({e.strerror}); choose another --state") from e
    except TrustError as e:
        raise SetupError(f"{path}: {e}; move it away to get a new identity") from e
    return identity
