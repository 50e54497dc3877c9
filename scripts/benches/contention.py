"""How much of the machine others used while a bench ran: what decides whether its figures mean anything."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from osai.core.errors import InvalidRequestError

PROC_STAT = Path("/proc/stat")
IDLE_FIELDS = (3, 4)  # idle and iowait; see proc_stat(5)
GUEST_FIELD = 8  # guest time from here on, which user time has in it already


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUse:
    """Processor time up to a moment.

    Attributes:
        at_s: the moment.
        busy_s: of all cores, whoever used them, the hypervisor included.
        own_s: of this process, and of those below it that have ended.
    """

    at_s: float
    busy_s: float
    own_s: float

    @classmethod
    def look(cls) -> Self:
        """Up to now."""
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return cls(
            at_s=time.monotonic(),
            busy_s=busy_ticks(PROC_STAT.read_text()) / os.sysconf("SC_CLK_TCK"),
            own_s=sum(use.ru_utime + use.ru_stime for use in own),
        )


def busy_ticks(proc_stat: str) -> int:
    """Clock ticks in which a core was not idle, from the text of /proc/stat.

    Raises:
        InvalidRequestError: if its first line is not the sum of all cores.
    """
    words = proc_stat.partition("\n")[0].split()
    fields = words[1:]
    if words[:1] != ["cpu"] or len(fields) < GUEST_FIELD or not all(field.isdecimal() for field in fields):
        raise InvalidRequestError("/proc/stat does not begin with the line of all cores")
    ticks = [int(field) for field in fields[:GUEST_FIELD]]
    return sum(ticks) - sum(ticks[i] for i in IDLE_FIELDS)


def cores_of_others(before: CpuUse, after: CpuUse) -> float:
    """Cores that others used between two moments, on average."""
    busy_s, own_s = after.busy_s - before.busy_s, after.own_s - before.own_s
    return max(0.0, busy_s - own_s) / (after.at_s - before.at_s)
