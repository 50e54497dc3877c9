"""`osai generate | chat | models | status` in this process: what they print and how they exit."""

import json
from collections.abc import Iterable

import pytest
from click.testing import CliRunner, Result

from client.fake_coordinator import Event, FakeCoordinator, Step, chunk, finished, serving, started, whole
from client.long_generation import LONG, LOST, rerouted, rest, waiting
from osai.client import Retries
from osai.client.cli import main
from osai.core import errors
from osai.core.protocol import PROTOCOL_VERSION
from osai.proto import client_pb2, common_pb2


def osai(*arguments: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, env={"OSAI_COORDINATOR": None, **(env or {})})


def generate(fake: FakeCoordinator, *arguments: str, stdin: str | None = None) -> Result:
    with serving(fake) as address:
        return osai("generate", "--coordinator", address, *arguments, stdin=stdin)


def test_text_goes_to_stdout_and_figures_to_stderr() -> None:
    result = generate(FakeCoordinator(), "once")
    assert result.exit_code == 0
    assert result.stdout == "All the world's a stage\n"
    assert "5 tokens (length), first after 0.25 s, then 40.0 tokens/s, seed 7; node-0" in result.stderr
    assert "node-0 [0:2] > node-1 [2:4] > node-2 [4:6]" in result.stderr


def test_json_is_one_line_of_exactly_these_keys() -> None:
    result = generate(FakeCoordinator(), "once", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {
        "token_ids": [10, 11, 12, 13, 14],
        "text": "All the world's a stage",
        "finish_reason": "length",
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": 5,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "timings": {"ttft_s": 0.25, "decode_tokens_per_s": 40.0},
        "pipeline": [
            {"node": "node-0", "start": 0, "end": 2},
            {"node": "node-1", "start": 2, "end": 4},
            {"node": "node-2", "start": 4, "end": 6},
        ],
        "num_recoveries": 0,
    }


def test_cached_prompt_tokens_are_told() -> None:
    fake = FakeCoordinator(lambda _: [started(num_cached_tokens=3), chunk(0, [1], "a"), finished(1)])
    assert "seed 7, 3 of 4 prompt tokens cached; node-0" in generate(fake, "x").stderr
    usage = json.loads(generate(fake, "x", "--json").stdout)["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3}


def test_logprobs_come_with_json_alone() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Event]:
        top = [common_pb2.TokenLogprob(token_id=1, logprob=-0.25), common_pb2.TokenLogprob(token_id=2, logprob=-2.0)]
        yield started()
        yield chunk(0, [2], "b", logprob=-2.0, top=top)
        yield finished(1)

    found = json.loads(generate(FakeCoordinator(script), "x", "--json", "--logprobs", "2").stdout)
    top = [{"token_id": 1, "logprob": -0.25}, {"token_id": 2, "logprob": -2.0}]
    assert found["logprobs"] == [{"token_id": 2, "logprob": -2.0, "top": top}]
    assert generate(FakeCoordinator(script), "x", "--logprobs", "2").exit_code == 2


def test_every_option_reaches_the_coordinator() -> None:
    fake = FakeCoordinator()
    options = (
        "--model m --token-ids 1,2,3 --max-tokens 9 --temperature 0.5 --top-k 4 --top-p 0.25 --min-p 0.125 "
        "--repetition-penalty 1.5 --presence-penalty -1 --frequency-penalty 1 --seed 18446744073709551615 "
        "--stop a --stop b --ignore-eos --logprobs 2 --timeout 20 --json"
    )
    assert generate(fake, *options.split()).exit_code == 0
    sampling = client_pb2.SamplingRequest(
        temperature=0.5, top_k=4, top_p=0.25, min_p=0.125, repetition_penalty=1.5, presence_penalty=-1,
        frequency_penalty=1, seed=2**64 - 1, num_logprobs=2,
    )  # fmt: skip
    assert fake.requests[0] == client_pb2.GenerateRequest(
        model_id="m", token_ids=client_pb2.TokenIds(ids=[1, 2, 3]), sampling=sampling, max_tokens=9, stop=["a", "b"],
        ignore_eos=True, protocol_version=PROTOCOL_VERSION,
    )  # fmt: skip


def test_defaults_are_greedy_and_a_paragraph() -> None:
    fake = FakeCoordinator()
    assert generate(fake, "once").exit_code == 0
    assert fake.requests[0] == client_pb2.GenerateRequest(
        prompt="once",
        sampling=client_pb2.SamplingRequest(temperature=0),
        max_tokens=128,
        protocol_version=PROTOCOL_VERSION,
    )


def test_prompt_from_stdin_is_kept_exactly() -> None:
    fake = FakeCoordinator()
    assert generate(fake, "-", stdin="one\ntwo \u00e9\n").exit_code == 0
    assert fake.requests[0].prompt == "one\ntwo \u00e9\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["x", "--token-ids", "1"],
        ["--token-ids", "1,x"],
        ["--token-ids", ""],
        ["x", "--timeout", "0"],
        ["x", "--coordinator", "a:1,"],
        ["x", "--coordinator", ""],
    ],
)
def test_wrong_command_line_exits_2(arguments: list[str]) -> None:
    result = osai("generate", *arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert result.stdout == ""


def test_coordinator_comes_from_the_environment() -> None:
    with serving(FakeCoordinator()) as address:
        assert osai("generate", "x", env={"OSAI_COORDINATOR": address}).exit_code == 0


@pytest.mark.parametrize("as_json", [True, False])
def test_error_is_one_line_and_exit_status_1(as_json: bool) -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Event | errors.OsaiError]:
        yield from list(whole(request))[:3]
        yield errors.UnavailableError("node-1 was lost:\nstart again")

    result = generate(FakeCoordinator(script), "x", *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert result.stderr.strip().splitlines()[-1] == "error: node-1 was lost: start again"
    if not as_json:
        assert result.stdout == "All the\n"
        assert "2 tokens (error)" in result.stderr
        return
    told = json.loads(result.stdout)
    assert (told["text"], told["token_ids"], told["finish_reason"]) == ("All the", [10, 11], "error")
    assert told["error"] == "node-1 was lost:\nstart again"


def test_error_before_the_first_token_prints_no_text() -> None:
    result = generate(FakeCoordinator(lambda _: [started(), errors.UnavailableError("lost")]), "x", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    *again, last = result.stderr.splitlines()
    assert last == "error: lost"
    assert len(again) == Retries().max_attempts - 1
    assert all("it was asked for once more: lost" in line for line in again)


def test_stream_without_its_end_is_no_success() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        if request.HasField("resume"):
            yield errors.InvalidRequestError("nothing is resumed here")
        yield from list(whole(request))[:-1]

    result = generate(FakeCoordinator(script), "x")
    assert (result.exit_code, result.stdout) == (1, "All the world's a stage\n")
    assert "error: nothing is resumed here" in result.stderr


def test_one_of_several_coordinators_goes_on_and_the_text_is_whole() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        opening, *chunks, _ = rest(request)
        return [opening, chunks[0], waiting(30), rerouted("a", "\x1b[31mb"), chunks[1], LOST]

    with serving(FakeCoordinator(script)) as here, serving(FakeCoordinator(rest)) as there:
        result = osai("generate", "--coordinator", f"{here}, {there}", "x")
        as_json = osai("generate", "--json", "x", env={"OSAI_COORDINATOR": f"{here},{there}"})
    assert (result.exit_code, result.stdout) == (0, "".join(LONG) + "\n")
    waits, moved, again, figures = result.stderr.splitlines()
    assert waits == "waiting: layers 1:2 have no node; given up in 30 s"
    assert moved == "rerouted after 0.5 s: b was lost; now a [0:1] > \ufffd[31mb [1:2]"
    assert again.startswith("rerouted after 0.")
    assert again.endswith("now node-0 [0:2] > node-1 [2:4] > node-2 [4:6]")
    assert "recovered 2 times" in figures
    assert json.loads(as_json.stdout)["text"] == "".join(LONG)
    assert json.loads(as_json.stdout)["num_recoveries"] == 2


def test_timeout_option_bounds_the_wait() -> None:
    result = generate(FakeCoordinator(lambda _: [started(), 30.0]), "x", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "did not send the first token within 0.2 s" in result.stderr


def test_chat_keeps_history_until_reset() -> None:
    fake = FakeCoordinator()
    with serving(fake) as address:
        lines = "hello\n\nagain\n/reset\n/nonsense\nanew\n/exit\nunheard\n"
        result = osai("chat", "--coordinator", address, "--system", "be kind", "--top-k", "3", stdin=lines)
    assert result.exit_code == 0
    answer = ("assistant", "All the world's a stage")
    turns = [[(m.role, m.content) for m in request.chat.messages] for request in fake.requests]
    assert turns == [
        [("system", "be kind"), ("user", "hello")],
        [("system", "be kind"), ("user", "hello"), answer, ("user", "again")],
        [("system", "be kind"), ("user", "anew")],
    ]
    assert fake.requests[0].sampling.top_k == 3
    assert result.stdout.count("All the world's a stage\n") == 3
    assert "no command /nonsense" in result.stderr


def test_chat_goes_on_after_an_error_and_forgets_the_question() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Event | errors.OsaiError]:
        if request.chat.messages[-1].content == "bad":
            yield errors.ContextExceededError("too long")
        yield from whole(request)

    fake = FakeCoordinator(script)
    with serving(fake) as address:
        result = osai("chat", "--coordinator", address, stdin="bad\ngood\n")
    assert result.exit_code == 0
    assert "error: too long" in result.stderr
    assert [m.content for m in fake.requests[1].chat.messages] == ["good"]


@pytest.mark.parametrize("command", ["generate", "chat", "models", "status", "up", "key", "manifest"])
def test_help_has_examples(command: str) -> None:
    result = osai(command, "--help")
    assert result.exit_code == 0
    assert command in {"key", "manifest"} or f"osai {command}" in result.stdout.replace("Usage: osai", "")


def test_version() -> None:
    assert osai("--version").stdout.startswith("osai/")
