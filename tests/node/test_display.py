"""A node as a person sees it, on a terminal and without one."""

import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.pseudo_terminal import on_terminal
from osai.core.layers import LayerRange
from osai.node.config import Wish
from osai.node.figures import RATE_S, Figures, Rates, line_of
from osai.node.found import Found, NetworkLink, found_lines, network_links, reason_of
from osai.node.membership_actions import Assigned

PROGRAM = "node.display_program"


def test_on_a_terminal_there_are_bars_and_one_live_line() -> None:
    with on_terminal(PROGRAM, environment={}) as terminal:
        terminal.wait("device: of a test")
        terminal.wait("loading and verifying, nodes blamed 2 times")
        terminal.wait("8.4/8.4 MB")
        terminal.wait("serving layers 0:6")
        terminal.wait("1 session, 0.0 tokens/s, 1,000 tokens served, 1 peer")
        terminal.wait("osai.tested: said in between")
        terminal.wait("1 session, 0.0 tokens/s")  # is drawn again below the line
        terminal.wait("left")
        assert terminal.ended() == 0
        assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h") > 0  # the cursor is given back
        assert "INFO" not in terminal.shown


def without_terminal(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip


def test_without_a_terminal_there_are_plain_lines() -> None:
    run = without_terminal()
    assert run.stdout == "serving layers 0:6\nleft\n"
    assert "\x1b" not in run.stderr
    said = [re.sub(r"^.{23} ", "", line) for line in run.stderr.splitlines()]
    assert said == [
        "INFO    osai.node.display: device: of a test",
        "INFO    osai.node.display: read and verified 8.0 of 8.0 MiB, nodes blamed 2 times",
        "INFO    osai.node.display: 1 session, 0.0 tokens/s, 1,000 tokens served, 1 peer",
        "WARNING osai.tested: said in between",
        "INFO    osai.node.display: read and verified 2.0 of 2.0 MiB, nodes blamed 2 times",
    ]


def test_json_lines_have_the_figures_as_fields() -> None:
    lines = [json.loads(line) for line in without_terminal("json").stderr.splitlines()]
    (told,) = [line for line in lines if "num_sessions" in line]
    assert (told["num_sessions"], told["num_tokens"], told["num_peers"], told["tokens_a_second"]) == (1, 1000, 1, 0.0)


def figures(num_tokens: int) -> Figures:
    return Figures(num_sessions=0, num_tokens=num_tokens, num_peers=2)


def test_the_rate_is_of_the_last_seconds() -> None:
    rates = Rates()
    assert rates.tokens_a_second(figures(0), 0.0) == 0
    assert rates.tokens_a_second(figures(50), 5.0) == 10
    for second in range(6, 60):
        rates.tokens_a_second(figures(50), float(second))
    assert rates.tokens_a_second(figures(50), 60.0) == 0
    assert line_of(figures(1234567), 3.14159) == "0 sessions, 3.1 tokens/s, 1,234,567 tokens served, 2 peers"


@given(st.lists(st.tuples(st.floats(0.01, 5), st.integers(0, 100)), min_size=1, max_size=60))
def test_the_rate_is_never_above_the_fastest_second(gaps: list[tuple[float, int]]) -> None:
    rates, now_s, total = Rates(), 0.0, 0
    rates.tokens_a_second(figures(0), now_s)
    fastest = 0.0
    for gap_s, tokens in gaps:
        now_s, total = now_s + gap_s, total + tokens
        fastest = max(fastest, tokens / gap_s)
        assert 0 <= rates.tokens_a_second(figures(total), now_s) <= fastest * (1 + 1e-9)
    assert len(rates._seen) <= RATE_S / 0.01 + 2


def test_what_was_found_is_said() -> None:
    link = NetworkLink(name="eth0", addresses=("10.0.0.2", "fd00::2"), mbit_s=10_000)
    found = Found(device="CPU x86_64, 4 cores", memory_bytes=3 * 2**29, free_bytes=2**33, num_threads=4, links=(link,))
    assert found_lines(found) == [
        "device: CPU x86_64, 4 cores, 4 threads",
        "memory: 1.5 GiB for weights and KV; 8.0 GiB could be had",
        "links: eth0 10.0.0.2 fd00::2 (10 Gbit/s)",
    ]
    assert not any(address.startswith("127.") for link in network_links() for address in link.addresses)


ASKED, CHOSEN = Wish(model_id="org/a", layers=LayerRange(0, 4)), Wish(model_id="org/a")


@pytest.mark.parametrize(
    ("wish", "fields", "reason"),
    [
        (ASKED, {}, "you asked for these layers"),
        (Wish(layers=LayerRange(0, 4)), {}, "you asked for these layers"),
        (ASKED, {"urgent": True}, "the model has no whole pipeline until"),
        (CHOSEN, {}, "you asked for this model, and the coordinator chose the layers"),
        (CHOSEN, {"replace": True}, "the swarm needs these layers more"),
        (Wish(), {}, "the coordinator chose what the swarm serves least"),
        (Wish(model_id="org/b"), {}, "the coordinator chose what the swarm serves least"),
    ],
)
def test_why_a_span_was_given_is_said(wish: Wish, fields: dict[str, bool], reason: str) -> None:
    assigned = Assigned(assignment_id=1, model_id="org/a", layers=LayerRange(0, 4), manifest=b"", source="", **fields)
    assert reason_of(assigned, [wish]).startswith(reason)
