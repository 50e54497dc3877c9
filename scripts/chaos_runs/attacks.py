"""Attacks by mutation: many odd messages for one reader, and what came of them."""

import asyncio
from dataclasses import dataclass, field
from random import Random

import psutil
from google.protobuf.message import DecodeError
from scripts.chaos_runs.attack_readers import READERS

from osai.core.errors import OsaiError

ONE_DEADLINE_S = 10.0
MAX_GROWN_BYTES = 64 * 2**20
MAX_STRANGE = 20  # kept; more say no more


@dataclass(slots=True, kw_only=True)
class Attacked:
    """What a reader made of an attack.

    Attributes:
        num_sent, num_refused: messages; refused by a typed error, or no message at all.
        strange: other exceptions, with the number of the message.
        grown_bytes: of the process's own memory, from after the first tenth on.
    """

    reader: str
    num_sent: int = 0
    num_refused: int = 0
    strange: list[str] = field(default_factory=list)
    grown_bytes: int = 0

    @property
    def passed(self) -> bool:
        """Whether it did what a reader must."""
        return not self.strange and self.grown_bytes < MAX_GROWN_BYTES


async def attack(reader: str, *, seed: int, count: int) -> Attacked:
    """Send `count` messages to a reader; each is drawn by the seed and its number."""
    told, process, before = Attacked(reader=reader), psutil.Process(), 0
    async with READERS[reader]() as feed:
        for number in range(count):
            if number == count // 10:
                before = process.memory_info().rss
            told.num_sent += 1
            try:
                async with asyncio.timeout(ONE_DEADLINE_S):
                    await feed(Random(f"{reader} {seed} {number}"))  # noqa: S311 - not for secrets
            except (OsaiError, DecodeError):
                told.num_refused += 1
            except Exception as e:  # noqa: BLE001 - that there is none is what is to be shown
                if len(told.strange) < MAX_STRANGE:
                    told.strange.append(f"{reader} --seed {seed}, message {number}: {type(e).__name__}: {e}")
    told.grown_bytes = max(0, process.memory_info().rss - before)
    return told
