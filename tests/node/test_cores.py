import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.errors import SetupError
from osai.node import cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Two NUMA nodes of two cores with two threads each, as on an x86 server; one node of memory alone."""
    write(tmp_path / "node/node0/cpulist", "0-1,4-5\n")
    write(tmp_path / "node/node1/cpulist", "2-3,6-7\n")
    write(tmp_path / "node/node2/cpulist", "\n")
    for cpu in range(8):
        siblings = f"{cpu % 4},{cpu % 4 + 4}\n"
        write(tmp_path / f"cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    return tmp_path


@given(st.frozensets(st.integers(0, 300)))
def test_lists_of_cpus(cpus: frozenset[int]) -> None:
    assert cores.parse_cpu_list(",".join(map(str, cpus))) == cpus


def test_ranges_of_cpus() -> None:
    assert cores.parse_cpu_list("0-3,8,10-11\n") == {0, 1, 2, 3, 8, 10, 11}
    assert cores.parse_cpu_list("\n") == frozenset()
    for wrong in ("a", "1-", "3 4", "-1"):
        with pytest.raises(SetupError, match="is no list of CPUs"):
            cores.parse_cpu_list(wrong)


def test_numa_nodes_and_physical_cores(sysfs: Path, tmp_path: Path) -> None:
    assert cores.numa_nodes(sysfs) == {0: {0, 1, 4, 5}, 1: {2, 3, 6, 7}}
    assert cores.numa_nodes(tmp_path / "nothing") == {}
    assert cores.num_physical_cores(range(8), sysfs) == 4
    assert cores.num_physical_cores([0, 4, 1], sysfs) == 2
    assert cores.num_physical_cores([20, 21], sysfs) == 2, "unknown ones count"


def test_threads_are_one_a_core_within_the_limit(sysfs: Path) -> None:
    assert cores.default_num_threads(range(8), sysfs) == 4
    assert cores.default_num_threads(range(8), sysfs, 2.5) == 2
    assert cores.default_num_threads(range(8), sysfs, 0.5) == 1
    assert 1 <= cores.default_num_threads() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("text", "limit"), [("max 100000", None), ("250000 100000", 2.5), ("50000 100000", 0.5)])
def test_limit_of_control_groups_2(tmp_path: Path, text: str, limit: float | None) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/outer/inner\n")
    write(tmp_path / "groups/outer/inner/cpu.max", text + "\n")
    write(tmp_path / "groups/outer/cpu.max", "400000 100000\n")
    assert cores.cpu_limit(tmp_path / "groups", tmp_path / "proc") == (limit or 4.0)


def test_limit_of_control_groups_1(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "3:cpuset:/\n2:cpu,cpuacct:/box\n0::/\n")
    write(tmp_path / "groups/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "groups/cpu/cpu.cfs_period_us", "100000\n")
    assert cores.cpu_limit(tmp_path / "groups", tmp_path / "proc") is None
    write(tmp_path / "groups/cpu/box/cpu.cfs_quota_us", "150000\n")
    write(tmp_path / "groups/cpu/box/cpu.cfs_period_us", "100000\n")
    assert cores.cpu_limit(tmp_path / "groups", tmp_path / "proc") == 1.5
    assert cores.cpu_limit(tmp_path / "groups", tmp_path / "none") is None


def test_binding_to_a_node(sysfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = {0, 1, 2, 3}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    bound: list[frozenset[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: bound.append(cpus))
    assert cores.bind_to_numa_node(1, sysfs) == {2, 3}
    assert bound == [{2, 3}]
    with pytest.raises(SetupError, match="no NUMA node 2 on this machine; it has: 0, 1"):
        cores.bind_to_numa_node(2, sysfs)
    with pytest.raises(SetupError, match="it has: none"):
        cores.bind_to_numa_node(0, sysfs / "nothing")
    allowed -= {0, 1}
    with pytest.raises(SetupError, match="may use none of the CPUs of NUMA node 0"):
        cores.bind_to_numa_node(0, sysfs)
    assert len(bound) == 1


def test_the_user_has_the_last_word_on_the_environment() -> None:
    assert cores.thread_environment({}) == {"THP_MEM_ALLOC_ENABLE": "1", "GOMP_SPINCOUNT": "10000"}
    assert cores.thread_environment({"GOMP_SPINCOUNT": "0"}) == {"THP_MEM_ALLOC_ENABLE": "1"}
    assert cores.thread_environment({"OMP_WAIT_POLICY": "active", "THP_MEM_ALLOC_ENABLE": "0"}) == {}
