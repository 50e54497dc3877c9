"""`osai chat` on a real pseudo-terminal, against a scripted coordinator."""

import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client.fake_coordinator import FakeCoordinator, Step, chunk, example_swarm, finished, serving, started, whole
from client.long_generation import rerouted
from client.pseudo_terminal import ALT_ENTER, CTRL_C, CTRL_D, DEADLINE_S, ENTER, TAB, UP, Terminal, on_terminal
from osai.core import errors
from osai.proto import client_pb2

ANSWER = "All the world's a stage"


@contextmanager
def chatting(fake: FakeCoordinator, folder: Path, *arguments: str) -> Iterator[Terminal]:
    """A chat that waits for its first question."""
    environment = {"XDG_STATE_HOME": str(folder), "OSAI_API_KEY": ""}
    with serving(fake) as address:
        command = ("chat", "--coordinator", address, *arguments)
        with on_terminal("osai.client", *command, environment=environment) as terminal:
            terminal.prompt()
            yield terminal


def say(terminal: Terminal, line: str) -> None:
    """Type a line, and wait for the next one to be asked for."""
    terminal.type(line + ENTER)
    terminal.prompt()


def questions(fake: FakeCoordinator) -> list[str]:
    return [request.chat.messages[-1].content for request in fake.requests]


def test_an_answer_streams_and_a_line_tells_what_it_took(tmp_path: Path) -> None:
    with chatting(FakeCoordinator(swarm=example_swarm()), tmp_path) as terminal:
        terminal.wait("2 models are served: choose one with /model ID")
        say(terminal, "hello")
        terminal.wait(ANSWER)
        terminal.wait("5 tokens \N{MIDDLE DOT} 40.0 tokens/s \N{MIDDLE DOT} first after 0.25 s")
        say(terminal, "/stats")
        terminal.wait("served by    node-0 [0:2] > node-1 [2:4] > node-2 [4:6]")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        if request.chat.messages[-1].content != "long":
            return whole(request)
        return [started(), chunk(0, [1], "once upon"), 60.0]

    fake = FakeCoordinator(script)
    with chatting(fake, tmp_path) as terminal:
        terminal.type("long" + ENTER)
        terminal.wait("once upon")
        terminal.type("unseen")  # what is typed meanwhile does not get among the words
        terminal.type(CTRL_C)
        assert "unseen" not in terminal.wait("stopped")
        assert fake.gone.wait(DEADLINE_S)  # the coordinator was told
        terminal.prompt()
        terminal.type(CTRL_C)  # on the line: it is emptied
        terminal.wait("Ctrl-C stops an answer, Ctrl-D leaves")
        terminal.prompt()
        say(terminal, "short")
        terminal.wait(ANSWER)
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
    assert [turn.content for turn in fake.requests[1].chat.messages] == ["long", "once upon", "short"]


def test_several_lines_are_one_question(tmp_path: Path) -> None:
    fake = FakeCoordinator()
    with chatting(fake, tmp_path) as terminal:
        say(terminal, f"one{ALT_ENTER}two\\{ENTER}three")
        say(terminal, "\x1b[200~pasted\rin two lines\x1b[201~")
    assert questions(fake) == ["one\ntwo\nthree", "pasted\nin two lines"]


def test_what_was_asked_is_there_in_the_next_chat_for_its_owner_alone(tmp_path: Path) -> None:
    fake = FakeCoordinator()
    with chatting(fake, tmp_path) as terminal:
        say(terminal, f"first{ALT_ENTER}of two")
        say(terminal, "/quit now" + ENTER)  # it takes no argument
        terminal.wait("error: write it as /quit")
        terminal.type(f"{ENTER}/quit{ENTER}")
        assert terminal.ended() == 0
    file = tmp_path / "osai" / "client" / "chat-history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with chatting(fake, tmp_path) as terminal:
        say(terminal, UP * 3)  # over /quit and what was wrong
    assert questions(fake) == ["first\nof two"] * 2


def test_another_model_answers_after_model(tmp_path: Path) -> None:
    fake = FakeCoordinator(swarm=example_swarm())
    with chatting(fake, tmp_path, "--model", "acme/gap") as terminal:
        say(terminal, "to the first")
        say(terminal, "/model")
        terminal.wait("acme/whole: 4 layers, context of 512 tokens")
        terminal.wait("* acme/gap: 2 layers")
        say(terminal, "/model acme/none")
        terminal.wait("error: no model acme/none is served; there are: acme/whole, acme/gap")
        for keys, offered in (("/mo", "/model"), (" acme/w", "acme/whole")):
            terminal.type(keys)
            terminal.wait(offered)
            terminal.type(TAB)
        say(terminal, "")
        terminal.wait("acme/whole answers from here on")
        say(terminal, "/seed 7")
        say(terminal, "/temperature 0.5")
        say(terminal, "/system be brief")
        say(terminal, "to the second")
    first, second = fake.requests
    assert (first.model_id, second.model_id) == ("acme/gap", "acme/whole")
    assert (second.sampling.seed, second.sampling.temperature) == (7, 0.5)
    roles = [(turn.role, turn.content) for turn in second.chat.messages]
    assert roles[:2] == [("system", "be brief"), ("user", "to the first")]


def test_a_pause_by_a_lost_node_is_shown_while_it_lasts_alone(tmp_path: Path) -> None:
    rebuilt = threading.Event()

    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        yield started()
        yield chunk(0, [1], "to be")
        yield rerouted("a", "b")
        rebuilt.wait(DEADLINE_S)
        yield chunk(1, [2], " or not")
        yield finished(2)

    note = "\x1b7 \x1b[2ma node was lost, the answer goes on\x1b[0m\x1b8"
    with chatting(FakeCoordinator(script), tmp_path) as terminal:
        terminal.type("which" + ENTER)
        terminal.wait("the answer goes on")
        assert terminal.raw.endswith(f"to be{note}")
        rebuilt.set()
        terminal.prompt()
        assert f"to be{note}\x1b[K or not\n" in terminal.raw.replace("\r", "")


def test_an_error_is_one_line_and_the_chat_goes_on(tmp_path: Path) -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        if request.chat.messages[-1].content == "bad":
            yield errors.ContextExceededError("the prompt is too long:\n\x1b[31mshorten it")
        yield from whole(request)

    fake = FakeCoordinator(script)
    with chatting(fake, tmp_path) as terminal:
        say(terminal, "bad")
        terminal.wait("error: the prompt is too long: \N{REPLACEMENT CHARACTER}[31mshorten it")
        say(terminal, "good")
        terminal.wait(ANSWER)
        saved = tmp_path / "chat.md"
        say(terminal, f"/save {saved}")
        terminal.wait("saved to")
        say(terminal, f"/save {saved}")
        terminal.wait("is there already; choose another name")
    assert saved.read_text() == f"## user\n\ngood\n\n## assistant\n\n{ANSWER}\n"


def test_a_chat_without_a_place_for_its_history_goes_on_without(tmp_path: Path) -> None:
    (tmp_path / "osai").write_text("a file where the folder should be")
    fake = FakeCoordinator()
    with chatting(fake, tmp_path) as terminal:
        terminal.wait("what is asked now is not kept")
        say(terminal, "hello")
        terminal.wait(ANSWER)
