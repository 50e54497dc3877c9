"""Figures as they are printed: tables, the machine's line, JSON."""

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.benches.machine import Machine, cpu_name
from scripts.benches.report import Result, Run, write_json
from scripts.benches.table import Table

from osai.core.errors import InvalidRequestError, SetupError

TABLE = Table(header=("path", "us", "ratio"), rows=(("bare TCP", "22", "1.0"), ("osai edge", "1512", "23.5")))
MACHINE = Machine(date="2026-01-02", cpu="Abacus", num_cores=2, memory_gib=4.0, versions={"torch": "2.0"})
RESULT = Result(
    name="hop", title="round trip", command="bench hop", table=TABLE, notes=("a note",), figures={"median_s": 0.1}
)
QUIET = Run(result=RESULT, machine=MACHINE, cores_of_others=0.04)
CELLS = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=12)


def test_a_plain_table_has_names_to_the_left_and_figures_to_the_right() -> None:
    assert TABLE.plain().splitlines() == [
        "path         us  ratio",
        "---------  ----  -----",
        "bare TCP     22    1.0",
        "osai edge  1512   23.5",
    ]


def test_a_markdown_table_aligns_figures_to_the_right() -> None:
    assert TABLE.markdown().splitlines() == [
        "| path      |   us | ratio |",
        "| --------- | ---: | ----: |",
        "| bare TCP  |   22 |   1.0 |",
        "| osai edge | 1512 |  23.5 |",
    ]


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5))
def test_every_row_of_a_markdown_table_has_its_cells_whatever_is_in_them(rows: list[tuple[str, str, str]]) -> None:
    lines = Table(header=("a", "b", "c"), rows=tuple(rows)).markdown().splitlines()
    assert len(lines) == len(rows) + 2
    assert {len(line) for line in lines} == {len(lines[0])}
    for line, row in zip(lines[2:], rows, strict=True):
        cells = line.replace(r"\|", "\0").split("|")[1:-1]
        assert [cell.strip() for cell in cells] == [cell.replace("|", "\0").strip() for cell in row]


def test_a_row_of_another_width_is_an_error() -> None:
    with pytest.raises(InvalidRequestError, match="2 cells under 3 columns"):
        Table(header=("a", "b", "c"), rows=(("x", "y"),))


def test_what_is_printed_names_bench_machine_and_command() -> None:
    for text in (QUIET.plain(), QUIET.markdown()):
        assert "hop" in text
        assert "bench hop" in text
        assert "Abacus, 2 cores, 4 GiB; torch 2.0; 2026-01-02" in text
        assert "- a note" in text
        assert "relied on" not in text
    assert TABLE.plain() in QUIET.plain()
    assert TABLE.markdown() in QUIET.markdown()


def test_figures_of_a_machine_that_others_used_are_marked() -> None:
    busy = replace(QUIET, cores_of_others=1.3)
    for text in (busy.plain(), busy.markdown()):
        assert "Other work took 1.3 of the 2 cores meanwhile: not a quiet machine" in text


def test_json_holds_figures_and_machine(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", MACHINE, [QUIET])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["benches"] == {"hop": {"command": "bench hop", "cores_of_others": 0.04, "median_s": 0.1}}
    assert found["machine"]["num_cores"] == 2


def test_a_json_file_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="choose another file"):
        write_json(tmp_path / "missing" / "out.json", MACHINE, [QUIET])


def test_this_machine_is_looked_at() -> None:
    machine = Machine.look()
    assert machine.num_cores == len(os.sched_getaffinity(0))
    assert machine.versions["Python"] == platform.python_version()
    assert machine.cpu
    assert machine.memory_gib > 0.1


@pytest.mark.parametrize("cpuinfo", ["", "model name\t: Abacus 9\nmodel name\t: Abacus 9\n"])
def test_the_processor_has_a_name(cpuinfo: str) -> None:
    assert cpu_name(cpuinfo) == ("Abacus 9" if cpuinfo else platform.machine())
