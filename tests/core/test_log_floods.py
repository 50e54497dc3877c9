"""Warnings of one line of the code are written so often a minute, and the rest of them counted."""

import logging

from hypothesis import given
from hypothesis import strategies as st

from osai.core.log_floods import MAX_WARNINGS, WINDOW_S, FloodFilter
from osai.core.logs import configure_logs


def record(at_s: float, line: int = 1, level: int = logging.WARNING) -> logging.LogRecord:
    made = logging.LogRecord("osai.tested", level, "tested.py", line, "refused %s", ("a peer",), None)
    made.created = at_s
    return made


def test_a_flood_is_cut_off_and_the_first_line_after_it_tells_how_many_were_not_written() -> None:
    floods = FloodFilter()
    records = [record(i / 100) for i in range(1000)]
    written = [one.getMessage() for one in records if floods.filter(one)]
    assert written[:-1] == ["refused a peer"] * (MAX_WARNINGS - 1)
    assert written[-1] == "refused a peer (more of this kind are not written for up to 60 s)"
    late = record(WINDOW_S)
    assert floods.filter(late)
    assert late.getMessage() == f"refused a peer ({1000 - MAX_WARNINGS} more warnings of this kind were not written)"


def test_other_lines_of_the_code_and_errors_are_written_meanwhile() -> None:
    floods = FloodFilter()
    assert not all(floods.filter(record(0.0)) for _ in range(MAX_WARNINGS + 1))
    assert floods.filter(record(0.0, line=2))
    assert all(floods.filter(record(0.0, level=logging.ERROR)) for _ in range(MAX_WARNINGS + 1))
    assert all(floods.filter(record(0.0, level=logging.INFO)) for _ in range(MAX_WARNINGS + 1))


@given(times=st.lists(st.floats(-100, 1000), max_size=200))
def test_every_warning_is_written_or_counted_whatever_the_clock_does(times: list[float]) -> None:
    floods, num_written, num_told = FloodFilter(), 0, 0
    for at_s in [*times, 1e6]:  # the last one ends every window
        one = record(at_s)
        if floods.filter(one):
            num_written += 1
            words = one.getMessage().partition("(")[2].split()
            num_told += int(words[0]) if "were" in words else 0
    assert num_written + num_told == len(times) + 1


def test_programs_logs_have_the_bound() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logs("warning")
        assert any(isinstance(one, FloodFilter) for handler in root.handlers for one in handler.filters)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
