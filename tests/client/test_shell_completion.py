"""Shell completion: the scripts, and bash with them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from osai.client.cli import COMMANDS, main

PROGRAMS = {"osai": "osai.client", "osai-node": "osai.node", "osai-coordinator": "osai.coordinator"}


def script(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["completion", *arguments])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script_of_its_own_for_every_program(shell: str, program: str) -> None:
    written = script(shell, program)
    assert f"_{program.upper().replace('-', '_')}_COMPLETE={shell}_complete" in written
    if path := shutil.which(shell):
        run = subprocess.run([path, "-n"], input=written, capture_output=True, text=True, check=False)
        assert (run.returncode, run.stderr) == (0, "")


def test_osai_is_completed_where_no_program_is_named() -> None:
    assert script("bash") == script("bash", "osai")


@pytest.mark.parametrize(
    ("program", "line", "word", "found"),
    [
        ("osai", "osai sta", "sta", ["status"]),
        ("osai", "osai generate --top", "--top", ["--top-k", "--top-p"]),
        ("osai-node", "osai-node jo", "jo", ["join"]),
        ("osai-coordinator", "osai-coordinator ser", "ser", ["serve"]),
    ],
)
def test_bash_completes(tmp_path: Path, program: str, line: str, word: str, found: list[str]) -> None:
    """What bash itself does at Tab: it calls the function that the script has registered."""
    file = tmp_path / program
    path = f"import sys; sys.path[:0] = {sys.path!r}"
    run_it = f"from {PROGRAMS[program]}.cli import main; main(prog_name={program!r})"
    file.write_text(f"#!{sys.executable}\n{path}\n{run_it}\n")
    file.chmod(0o755)
    words = line.split()
    function = f"_{program.replace('-', '_')}_completion"
    tab = (
        f"{script('bash', program)}\nCOMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        f"COMPREPLY=(); {function} {program} {word}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run(["bash", "-c", tab], env=environment, capture_output=True, text=True, check=False)
    assert "compopt" not in run.stderr
    assert run.stdout.split() == found


def test_the_commands_are_offered_in_their_order() -> None:
    result = CliRunner().invoke(main, ["--help"])
    listed = [line.split()[0] for line in result.stdout.partition("Commands:\n")[2].splitlines() if line[2:3] != " "]
    assert listed == list(COMMANDS)


def test_the_exit_statuses_are_told() -> None:
    told = CliRunner().invoke(main, ["--help"]).stdout
    assert all(f"\n    {status} " in told for status in (0, 1, 2, 130))


def test_a_command_that_is_not_there_is_a_wrong_command_line() -> None:
    result = CliRunner().invoke(main, ["genrate"])
    assert result.exit_code == 2
    assert "No such command 'genrate'" in result.stderr
