"""`scripts/api_docs`."""

import sys
from pathlib import Path

from scripts.api_reference.http_routes import describe_routes, openapi
from scripts.api_reference.python_client import describe_client
from scripts.made_document import write_or_check

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "api.md"

_HEAD = """# API reference

Made of the code by `scripts/api_docs`: change the docstrings, not this file. How to begin is in
[quickstart.md](quickstart.md).

## Python: `osai.client`

Every call raises errors of `osai.core.errors`: what each means is in [troubleshooting.md](troubleshooting.md).
"""
_HTTP = """## HTTP

A coordinator serves these on `--http` (port 8080), with its OpenAPI document at `/openapi.json`. With
`--require-keys` they ask for `Authorization: Bearer osai_sk_...`. Every answer has an `x-request-id`.
"""


def reference() -> str:
    """The whole document."""
    return f"{_HEAD}\n{describe_client(ROOT)}\n\n{_HTTP}\n{describe_routes(openapi())}\n"


def main(arguments: list[str]) -> int:
    """Write the document, or say whether it is current; the exit status."""
    return write_or_check(FILE, reference(), "scripts/api_docs", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
