"""How much of the machine others used: from /proc/stat's text, and on this machine."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.benches.contention import CpuUse, busy_ticks, cores_of_others

from osai.core.errors import InvalidRequestError

STAT = "cpu  10 2 30 400 50 6 7 80 9 1\ncpu0 1 1 1 1 1 1 1 1 1 1\n"


def test_busy_is_all_but_idle_and_waiting_and_counts_guests_once() -> None:
    assert busy_ticks(STAT) == 10 + 2 + 30 + 6 + 7 + 80


@pytest.mark.parametrize("text", ["", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x"])
def test_another_text_is_an_error(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="line of all cores"):
        busy_ticks(text)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.1, 100))
def test_what_is_not_ours_is_others_and_never_less_than_nothing(own_s: float, others_s: float, wall_s: float) -> None:
    before = CpuUse(at_s=5, busy_s=1000, own_s=20)
    after = CpuUse(at_s=5 + wall_s, busy_s=1000 + own_s + others_s, own_s=20 + own_s)
    assert cores_of_others(before, after) == pytest.approx(others_s / wall_s, abs=1e-6)
    late = CpuUse(at_s=5 + wall_s, busy_s=1000, own_s=20 + own_s)  # the kernel counts whole ticks
    assert cores_of_others(before, late) == 0


def test_our_own_work_and_that_of_children_is_counted_as_ours() -> None:
    before = CpuUse.look()
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True, timeout=60)
    after = CpuUse.look()
    assert after.own_s - before.own_s >= 0.3
    assert after.busy_s - before.busy_s >= 0.2  # in ticks
    assert after.at_s > before.at_s
