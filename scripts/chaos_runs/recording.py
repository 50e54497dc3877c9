"""What the members of a swarm said to each other, as lines of JSON: written by a tap, read by who replays it. Pure.

A line is one message as it was on the wire, its protobuf bytes deflated and in base64, with who said it on which way.
"""

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from osai.core.errors import SetupError


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message.

    Attributes:
        call: number of the call, in the order in which they began; a link's bare stream has its call's.
        server: name of the member that was dialled.
        method: gRPC's, as in /osai.v1.Edge/Link.
        by_dialler: whether the dialling side said it, or the server.
        bare: whether it went over the link's bare stream.
        data: the message's protobuf bytes.
    """

    call: int
    server: str
    method: str
    by_dialler: bool
    bare: bool
    data: bytes

    def line(self, kind: str) -> str:
        """As JSON; `kind` is for who reads the file."""
        told: dict[str, object] = {
            "call": self.call,
            "server": self.server,
            "method": self.method,
            "by": "dialler" if self.by_dialler else "server",
            "bare": self.bare,
            "kind": kind,
            "data": base64.b64encode(zlib.compress(self.data, 9)).decode(),
        }
        return json.dumps(told)

    @classmethod
    def read(cls, told: dict[str, Any]) -> Self:
        """From what a line holds."""
        return cls(
            call=told["call"],
            server=told["server"],
            method=told["method"],
            by_dialler=told["by"] == "dialler",
            bare=told["bare"],
            data=zlib.decompress(base64.b64decode(told["data"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """All that was said, in order, and what the recorded generation was.

    Attributes:
        about: release, model, prompt, tokens and the like; JSON values.
        ids: node ids by name.
    """

    about: dict[str, Any]
    ids: dict[str, str]
    said: tuple[Said, ...] = field(repr=False)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a file.

        Raises:
            SetupError: if it is no recording.
        """
        try:
            first, *lines = (json.loads(line) for line in file.read_text().splitlines())
            return cls(about=first["about"], ids=first["ids"], said=tuple(Said.read(line) for line in lines))
        except (OSError, ValueError, KeyError) as e:
            raise SetupError(
                f"{file} is no recording ({e!r}): make it anew with python -m scripts.chaos_runs.record"
            ) from e

    def of(self, method: str, server: str = "") -> Iterator[Said]:
        """What was said by one method, to and by one server or all of them."""
        return (said for said in self.said if said.method == method and server in {"", said.server})
