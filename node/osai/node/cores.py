"""Which of this machine's cores a node computes on.

No module here imports torch: what is set must be set before its threads start.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from osai.core.errors import SetupError

_SYSFS = Path("/sys/devices/system")
_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def parse_cpu_list(text: str) -> frozenset[int]:
    """The CPUs of a list as the kernel writes it: "0-3,8,10-11"; an empty one has none.

    Raises:
        SetupError: if it is no such list.
    """
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if match is None:
            raise SetupError(f"{text.strip()!r} is no list of CPUs such as 0-3,8; see {_SYSFS}/node/node*/cpulist")
        cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cpus)


def numa_nodes(sysfs: Path = _SYSFS) -> dict[int, frozenset[int]]:
    """The CPUs of each NUMA node that has any; none where the kernel knows no nodes.

    Raises:
        SetupError: if the kernel's files make no sense.
    """
    nodes = {}
    for path in sysfs.glob("node/node*/cpulist"):
        number = path.parent.name.removeprefix("node")
        if number.isdecimal() and (cpus := parse_cpu_list(path.read_text())):
            nodes[int(number)] = cpus
    return dict(sorted(nodes.items()))


def num_physical_cores(cpus: Iterable[int], sysfs: Path = _SYSFS) -> int:
    """Physical cores of these CPUs: two hardware threads of one core share the units that a step keeps busy.

    A CPU of which the kernel does not tell its siblings counts as a core.

    Raises:
        SetupError: if the kernel's files make no sense.
    """
    siblings = set()
    for cpu in cpus:
        path = sysfs / f"cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.add(parse_cpu_list(path.read_text()) if path.is_file() else frozenset([cpu]))
    return len(siblings)


def cpu_limit(cgroups: Path = _CGROUPS, proc: Path = _PROC) -> float | None:
    """CPUs' worth of time that the process's control groups grant it, as for a container; None without a limit."""
    limits = [quota for folder in _cgroup_folders(cgroups, proc) if (quota := _quota(folder)) is not None]
    return min(limits, default=None)


def _cgroup_folders(cgroups: Path, proc: Path) -> Iterable[Path]:
    """The process's own groups for CPU time and all above them, in version 2 and 1."""
    own = proc / "self/cgroup"
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (cgroups / "cpu", cgroups / "cpu,cpuacct") if controllers else (cgroups, cgroups / "unified"):
            inner = root / path.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    names = ("cpu.max",) if (folder / "cpu.max").is_file() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    if not all((folder / name).is_file() for name in names):
        return None
    text = " ".join((folder / name).read_text().strip() for name in names)
    match = re.fullmatch(r"(\d+) ([1-9]\d*)", text)
    return int(match[1]) / int(match[2]) if match else None  # "max", or -1: no limit


def default_num_threads(cpus: Iterable[int] | None = None, sysfs: Path = _SYSFS, limit: float | None = None) -> int:
    """Torch threads to use: one a physical core that the process may run on, within what its control group grants.

    Args:
        cpus: None for those that the process may run on.
        sysfs: the kernel's folder.
        limit: see `cpu_limit`, which is asked unless `cpus` are given.

    Raises:
        SetupError: if the kernel's files make no sense.
    """
    if cpus is None:
        cpus, limit = os.sched_getaffinity(0), cpu_limit()
    num_cores = num_physical_cores(cpus, sysfs)
    return max(1, num_cores if limit is None else min(num_cores, math.floor(limit)))


def bind_to_numa_node(number: int, sysfs: Path = _SYSFS) -> frozenset[int]:
    """Let the process run on one NUMA node's CPUs alone, and so take its memory from there.

    It holds for threads that start later: call it before torch or the DHT have any.

    Returns:
        The CPUs: those of the node that the process might use before.

    Raises:
        SetupError: if there is no such node, or the process may use none of its CPUs.
    """
    nodes = numa_nodes(sysfs)
    if number not in nodes:
        has = ", ".join(map(str, nodes)) or "none"
        raise SetupError(f"there is no NUMA node {number} on this machine; it has: {has}")
    cpus = nodes[number] & os.sched_getaffinity(0)
    if not cpus:
        raise SetupError(f"this process may use none of the CPUs of NUMA node {number}; lift its affinity (taskset)")
    os.sched_setaffinity(0, cpus)
    return cpus


def thread_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables to set before torch is imported; what the user has set of them is left out.

    THP_MEM_ALLOC_ENABLE: torch asks for huge pages for its tensors; weights were read at 33 instead of 20 GB/s.

    GOMP_SPINCOUNT: torch's threads wait this long awake for the next operation, some 0.1 ms, which is longer than any
    pause within a step. libgomp's own choice is milliseconds, in which idle threads hold cores that another node's step
    needs: two processes of two threads on two cores, taking turns with steps of 6 ms, took 24 to 230 ms a round, and
    12 ms with this. Not waiting awake at all (0) took 17 ms: better only where more threads want to run than cores are
    there (load 10 on two cores: 34 ms, 59 ms with this, 703 ms by default).
    """
    wanted = {"THP_MEM_ALLOC_ENABLE": "1"}
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environ.keys():
        wanted["GOMP_SPINCOUNT"] = "10000"
    return {name: value for name, value in wanted.items() if name not in environ}
