"""Options from the command line, the environment and a file are one configuration."""

import json
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from osai.core.config_commands import config_group
from osai.core.config_file import MAX_FILE_BYTES, config_option
from osai.core.program_options import log_options, traces_option
from osai.core.reporting import ReportingGroup


@click.group(cls=ReportingGroup, context_settings={"auto_envvar_prefix": "PROGRAM"})
def main() -> None:
    """A program."""


@main.command()
@click.argument("address", default="", envvar="PROGRAM_RUN_ADDRESS")
@config_option
@click.option("--model", "models", multiple=True)
@click.option("--key", "key_file", type=click.Path(path_type=Path, exists=True))
@click.option("--most", type=click.IntRange(min=1), default=4)
@click.option("--wait", type=float, default=1.5)
@click.option("--token", default="", hide_input=True)
@click.option("--open", "is_open", is_flag=True)
@traces_option("PROGRAM_RUN")
@log_options
def run(**values: object) -> None:
    """Print what it runs with."""
    click.echo(json.dumps({name: value for name, value in values.items() if value not in ((), None)}, default=str))


main.add_command(config_group(run, "run"))


def call(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env={"OTEL_EXPORTER_OTLP_ENDPOINT": None, **(environment or {})})


def values_of(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    values: dict[str, object] = json.loads(result.stdout)
    return values


def file_with(folder: Path, text: str) -> str:
    path = folder / "program.toml"
    path.write_text(text)
    return str(path)


def test_a_flag_goes_before_the_environment_and_that_before_the_file_and_that_before_the_default(
    tmp_path: Path,
) -> None:
    file = file_with(tmp_path, 'address = "file:1"\nmost = 7\nwait = 2\nmodel = ["a", "b"]\nlog-level = "debug"\n')
    environment = {"PROGRAM_RUN_MOST": "8", "PROGRAM_RUN_WAIT": "3"}
    assert values_of(call("run", "--config", file)) == {
        "address": "file:1", "models": ["a", "b"], "most": 7, "wait": 2.0, "token": "", "is_open": False,
        "traces": "", "log_level": "debug", "log_format": "text",
    }  # fmt: skip
    told = values_of(call("run", "--wait", "4", "--config", file, environment=environment))
    assert (told["most"], told["wait"], told["address"]) == (8, 4.0, "file:1")
    assert values_of(call("run", "--model", "c", "--config", file))["models"] == ["c"]
    named = values_of(call("run", environment={**environment, "PROGRAM_RUN_CONFIG": file}))
    assert (named["most"], named["models"]) == (8, ["a", "b"])
    assert values_of(call("run"))["most"] == 4


def test_one_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    assert values_of(call("run", "--config", file_with(tmp_path, 'model = "a"\nopen = true\n')))["models"] == ["a"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("log_level = 'info'", "'log_level' is no key: did you mean 'log-level'?"),
        ("Most = 3", "'Most' is no key: did you mean 'most'?"),
        ("colour = 'red'", "'colour' is no key; there are address, key, log-format"),
        ("config = 'other.toml'", "'config' is no key"),
        ("[node]\nmost = 3", "'node' is no key: it is a table"),
        ("most = '3'", "most must be a whole number, and is a string"),
        ("most = 3.5", "most must be a whole number, and is a number"),
        ("most = true", "most must be a whole number, and is true"),
        ("wait = false", "wait must be a number, and is false"),
        ("open = 1", "open must be true or false, and is a number"),
        ("model = [1]", "model must be a string, or a list of such, and is a number"),
        ("address = ['a']", "address must be a string, and is a list"),
        ("wait = 1979-05-27", "wait must be a number, and is a date or a time"),
        ("most = 0", "most: 0 is not in the range"),
        ("log-level = 'loud'", "log-level: 'loud' is not one of"),
        ("key = '/nowhere/key.pem'", "key: Path '/nowhere/key.pem' does not exist"),
        ("most = ", "is no TOML"),
        ("most = 1\nmost = 2", "is no TOML"),
        ("x" * (MAX_FILE_BYTES + 1), "it is no configuration"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(text: str, reason: str, tmp_path: Path) -> None:
    file = file_with(tmp_path, text)
    result = call("run", "--config", file)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {file}")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    assert "can't be read (No such file" in call("run", "--config", str(tmp_path / "none.toml")).stderr
    assert "can't be read (Is a directory" in call("run", "--config", str(tmp_path)).stderr
    (tmp_path / "latin.toml").write_bytes(b"address = '\xe9'\n")
    assert "is not UTF-8 at byte 11" in call("run", "--config", str(tmp_path / "latin.toml")).stderr


def test_show_tells_where_each_value_comes_from(tmp_path: Path) -> None:
    file = file_with(tmp_path, "wait = 2\nopen = true\n")
    environment = {"PROGRAM_RUN_MOST": "8", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}
    result = call("config", "show", "here:1", "--config", file, "--log-level", "error", environment=environment)
    lines = [line.partition("  # ") for line in result.stdout.splitlines()]
    assert {text.strip(): origin for text, _, origin in lines} == {
        'address = "here:1"': "command line",
        "# model": "default",
        "# key": "default",
        "most = 8": "environment: PROGRAM_RUN_MOST",
        "wait = 2.0": f"file: {file}",
        "# token": "default",
        "open = true": f"file: {file}",
        'traces = "http://127.0.0.1:4317"': "environment: OTEL_EXPORTER_OTLP_ENDPOINT",
        'log-level = "error"': "command line",
        'log-format = "text"': "default",
    }


def test_config_alone_shows_too() -> None:
    assert call("config").stdout == call("config", "show").stdout != ""


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_show_never_prints_a_secret(how: str, tmp_path: Path) -> None:
    secret = "osai1-very-secret"
    url = f"https://me:{secret}@collector:4317/x?key={secret}"
    given = {
        "flag": (("--token", secret, "--traces", url), {}, ""),
        "environment": ((), {"PROGRAM_RUN_TOKEN": secret, "PROGRAM_RUN_TRACES": url}, ""),
        "file": ((), {}, f"token = '{secret}'\ntraces = '{url}'\n"),
    }
    arguments, environment, text = given[how]
    result = call("config", "show", "--config", file_with(tmp_path, text), *arguments, environment=environment)
    assert 'token = "(set; not shown)"' in result.output
    assert 'traces = "https://...@collector:4317/x?..."' in result.output
    assert secret not in result.output


@given(
    most=st.integers(1, 10**9),
    wait=st.floats(0, 1e9, allow_nan=False),
    models=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1), max_size=3),
    is_open=st.booleans(),
)
def test_what_show_prints_is_a_file_that_means_the_same(
    most: int, wait: float, models: list[str], is_open: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arguments = [f"--most={most}", f"--wait={wait!r}", *(f"--model={model}" for model in models)]
    arguments += ["--open"] if is_open else []
    shown = call("config", "show", *arguments).stdout
    kept = [model for model in models if "://" not in model]
    if kept == models:
        file = file_with(tmp_path_factory.mktemp("shown"), shown)
        assert values_of(call("run", "--config", file)) == values_of(call("run", *arguments))
    assert tomllib.loads(shown)["most"] == most
