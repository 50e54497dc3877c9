"""The API key by which a client is let in, and how it travels: as gRPC metadata."""

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from osai.core.errors import InvalidRequestError, SetupError

if TYPE_CHECKING:
    from osai.proto.client_pb2_grpc import CoordinatorAsyncStub

ENVIRONMENT = "OSAI_API_KEY"
MAX_KEY_CHARS = 1024
_KEYED_CALLS = ("Generate", "Embed", "ListModels", "GetSwarm")  # Greet is open: it is not known yet who answers
_VISIBLE = re.compile(r"[!-~]+")  # what a header may hold; the rest is the coordinator's to judge


def api_key_of(given: str | None) -> str:
    """The key to use: `given`, or else that of the environment; empty for none.

    Raises:
        InvalidRequestError: if it can't be one. The message does not repeat it.
    """
    key = (os.environ.get(ENVIRONMENT, "") if given is None else given).strip()
    if key and (len(key) > MAX_KEY_CHARS or not _VISIBLE.fullmatch(key)):
        where = ENVIRONMENT if given is None else "api_key"
        raise InvalidRequestError(f"{where} is no API key: it has spaces, letters beyond ASCII, or no end")
    return key


def read_api_key(path: Path) -> str:
    """The key in a file.

    Raises:
        SetupError: if it can't be read, or holds none.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_KEY_CHARS + 2).strip()  # 2: room for an end of line
    except (OSError, UnicodeDecodeError) as e:
        raise SetupError(f"the API key in {path} can't be read: {getattr(e, 'strerror', None) or 'no text'}") from e
    if not text:
        raise SetupError(f"{path} holds no API key: write the key into it, alone on a line")
    return text


def showing(stub: "CoordinatorAsyncStub", api_key: str) -> "CoordinatorAsyncStub":
    """The same calls, each of which shows the key; `stub` itself, changed."""
    metadata = (("authorization", f"Bearer {api_key}"),)
    for name in _KEYED_CALLS:
        setattr(stub, name, partial(getattr(stub, name), metadata=metadata))
    return stub
