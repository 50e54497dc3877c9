"""The machine that a bench runs on."""

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Self

CPUINFO = Path("/proc/cpuinfo")
PACKAGES = ("torch", "transformers", "grpcio", "protobuf", "uvloop")  # whose release changes figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What figures depend on.

    Attributes:
        date: day of the run, UTC.
        cpu: the processor's own name.
        num_cores: those that this process may use.
        memory_gib: of the machine.
        versions: of Python and of the packages that matter.
    """

    date: str
    cpu: str
    num_cores: int
    memory_gib: float
    versions: dict[str, str]

    @classmethod
    def look(cls) -> Self:
        """This machine, now."""
        return cls(
            date=datetime.now(UTC).date().isoformat(),
            cpu=cpu_name(CPUINFO.read_text()) if CPUINFO.exists() else platform.machine(),
            num_cores=num_cores(),
            memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
            versions={"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        )

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{self.cpu}, {self.num_cores} cores, {self.memory_gib:.0f} GiB; {versions}; {self.date}"

    def as_json(self) -> dict[str, object]:
        """The same for programs."""
        return asdict(self)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_name(cpuinfo: str) -> str:
    """The processor's name from the text of /proc/cpuinfo; the kind of machine where it has none."""
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
