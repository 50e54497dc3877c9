"""The command line: one real bench on a tiny checkpoint, what is missing, what is left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from scripts.benches import peer, step
from scripts.benches.__main__ import BENCHES, main
from scripts.benches.cli import NotHereError, Output, command_line, counts, run_benches
from scripts.benches.report import Result
from scripts.benches.table import Table

ROOT = Path(__file__).parents[2]
RESULT = Result(
    name="one", title="one", command="bench one", table=Table(header=("a",), rows=()), notes=(), figures={"x": 1}
)


async def _here() -> Result:
    return RESULT


async def _missing() -> Result:
    raise NotHereError("bench two needs what is not here")


def test_a_bench_measures_and_writes_its_figures(llama: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    arguments = ["--dtypes", "float32", "--steps", "3", "--repeats", "1", "--context", "8", "--model", str(llama)]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benches", "step", *arguments, "--json", str(file), "--markdown"],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])},
    )
    assert done.returncode == 0, done.stderr
    assert "| float32, step of 16 sessions / of 1 " in done.stdout
    assert ">= 0.6" in done.stdout
    found = json.loads(file.read_text())["benches"]["step"]
    assert {name: len(times) for name, times in found["step_s"]["float32"].items()} == {"1": 1, "4": 1, "16": 1}
    assert [figure["goal"] is not None for figure in found["figures"]] == [True, True, True]
    assert all(speed > 0 for speed in found["read_gb_per_s"]["float32"].values())


def test_the_speed_of_memory_is_that_of_the_fastest_way() -> None:
    turns = step.Turns(read=[{"a": 10.0, "b": 30.0}, {"a": 20.0, "b": 10.0}, {"a": 20.0, "b": 10.0}])
    assert turns.best_way == "a"
    turns.step_s = {1: [2.0, 2.0, 2.0], 4: [3.0] * 3, 16: [4.0] * 3}
    read, four, sixteen = step.dtype_figures("bfloat16", turns, 20)
    assert read.compared.ratio == pytest.approx(10.0 / 20.0)
    assert (four.compared.ratio, sixteen.compared.ratio) == (1.5, 2.0)
    assert four.goal is None  # only float32 has one


def test_what_cannot_run_here_is_left_out_of_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    run_benches([_missing, _here], Output(markdown=False, json_file=None), skips=True)
    captured = capsys.readouterr()
    assert "bench: left out: bench two needs what is not here" in captured.err
    assert captured.out.startswith("one: one")


def test_what_cannot_run_here_fails_by_name() -> None:
    with pytest.raises(NotHereError):
        run_benches([_missing], Output(markdown=False, json_file=None))


def test_without_llama_cpp_the_bench_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "find_spec", lambda _: None)
    found = CliRunner().invoke(main, ["peer"])
    assert found.exit_code == 1
    assert "pip install llama-cpp-python gguf" in found.stderr


def test_every_bench_has_a_command_of_its_name() -> None:
    assert set(BENCHES) | {"all"} == set(main.commands)


def test_tokens_agree_up_to_the_first_that_differs() -> None:
    assert peer.num_agreeing([1, 2, 3], [1, 2, 4]) == 2
    assert peer.num_agreeing([1, 2], [1, 2]) == 2
    assert peer.num_agreeing([5], [6]) == 0


def test_a_command_line_repeats_what_was_asked() -> None:
    assert command_line("memory", kv_mib=32, model=None) == "scripts/bench memory --kv-mib 32"


def test_a_list_of_counts_is_read_or_refused() -> None:
    context, option = click.Context(main), click.Option(["--stages"])
    assert counts(context, option, "2, 4") == (2, 4)
    for text in ("", "2,,4", "0", "x"):
        with pytest.raises(click.BadParameter):
            counts(context, option, text)
