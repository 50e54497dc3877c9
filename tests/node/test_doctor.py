"""`osai-node doctor`: verdicts over facts, and facts of this machine and of a coordinator."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from gateway.fake_generations import FakeGenerations, example_swarm
from osai.coordinator.client_service import ClientService
from osai.core.rpc import bind, make_server
from osai.core.state import IDENTITY_FILE
from osai.node.cli import main
from osai.node.doctor.facts import CoordinatorFacts, DeviceFacts, DiskFacts, Facts, PortFacts, TrustFacts
from osai.node.doctor.looking import ask_coordinator, look_at_disk, look_at_port, look_at_trust, tells_its_time
from osai.node.doctor.verdicts import Verdict, exit_status, lines_of, verdicts
from osai.proto import client_pb2_grpc

GIB = 2**30
GOOD = Facts(
    device=DeviceFacts(torch="2.13", device="a GPU", free_bytes=16 * GIB),
    ports=(PortFacts(option="--listen", listen="0.0.0.0:7071", announced="10.0.0.2:7071"),),
    coordinator=CoordinatorFacts(
        address="c:7070", connect_s=0.01, software="osai/1", protocols=(1, 4), ours=(1, 4), ahead_s=0.2, uncertain_s=0.5
    ),
    disk=DiskFacts(folder="/cache", free_bytes=500 * GIB, write_bytes_s=500 * 2**20),
    trust=TrustFacts(num_files=1, state="/state"),
)


def verdict_of(check: str, facts: Facts) -> Verdict:
    (found,) = [one for one in verdicts(facts) if one.check == check]
    return found


def test_a_good_machine_passes_every_check() -> None:
    found = verdicts(GOOD)
    assert {one.status for one in found} == {"ok"}
    assert [one.check for one in found] == [
        "device", "memory", "port --listen", "coordinator", "protocol", "clock", "disk", "trust", "state",
    ]  # fmt: skip
    assert exit_status(found) == 0
    assert "osai-node health --address 10.0.0.2:7071" in verdict_of("port --listen", GOOD).todo  # nobody dials back


@pytest.mark.parametrize(
    ("part", "fields", "check", "status", "words"),
    [
        ("device", {"torch": "", "error": "no module"}, "device", "fail", "pip install 'osai[node]'"),
        ("device", {"error": "cuda:3: torch sees 1"}, "device", "fail", "torch sees 1"),
        ("device", {"has_bfloat16": False}, "device", "warn", "no fast bfloat16"),
        ("device", {"has_bfloat16": False, "dtype": "bfloat16"}, "device", "fail", "use --dtype float32"),
        ("device", {"free_bytes": 2**20}, "memory", "fail", "end other programs"),
        ("device", {"free_bytes": GIB}, "memory", "warn", "--quantize int8"),
        ("coordinator", {"connect_s": None, "error": "refused"}, "coordinator", "fail", "c:7070: refused"),
        ("coordinator", {"error": "no hello"}, "coordinator", "fail", "a node needs a --token"),
        ("coordinator", {"address": "", "software": ""}, "coordinator", "warn", "none was named"),
        ("coordinator", {"connect_s": 0.4}, "coordinator", "warn", "far away"),
        ("coordinator", {"software": ""}, "protocol", "warn", "no coordinator has answered"),
        ("coordinator", {"protocols": (5, 6)}, "protocol", "fail", "upgrade this node"),
        ("coordinator", {"ours": (5, 6)}, "protocol", "fail", "upgrade the coordinator"),
        ("coordinator", {"protocols": (2, 5)}, "protocol", "warn", "upgrade this node"),
        ("coordinator", {"ahead_s": None}, "clock", "warn", "timedatectl"),
        ("coordinator", {"ahead_s": 3.4}, "clock", "ok", "3.4 s ahead of"),  # it may be 2.9
        ("coordinator", {"ahead_s": -9.0}, "clock", "warn", "9.0 s behind"),
        ("coordinator", {"ahead_s": 3600.0}, "clock", "fail", "don't see each other's records"),
        ("disk", {"folder": ""}, "disk", "warn", "--no-cache"),
        ("disk", {"error": "Permission denied"}, "disk", "fail", "choose another with --cache"),
        ("disk", {"wanted_bytes": 900 * GIB}, "disk", "fail", "--cache-size is 900.0 GiB"),
        ("disk", {"free_bytes": GIB}, "disk", "warn", "make room"),
        ("disk", {"write_bytes_s": 2**20}, "disk", "warn", "slower than most networks"),
        ("trust", {"error": "a.pub is no key"}, "trust", "fail", "a.pub is no key"),
        ("trust", {"num_files": 0}, "trust", "warn", "--trust KEY"),
        ("trust", {"allow_unsigned": True}, "trust", "warn", "not checked"),
        ("trust", {"state_error": "it can't be written"}, "state", "fail", "choose another --state"),
        ("trust", {"certificate_error": "it has ended"}, "state", "fail", "osai swarm invite"),
        ("trust", {"certificate_s": 7200.0}, "state", "ok", "ends in 2.0 h"),
        ("trust", {"has_token": True}, "state", "ok", "a token to join a private swarm with"),
    ],
)
def test_each_fact_has_its_verdict_and_what_to_do(
    part: str, fields: dict[str, Any], check: str, status: str, words: str
) -> None:
    changed: dict[str, Any] = {part: replace(getattr(GOOD, part), **fields)}
    facts = replace(GOOD, **changed)
    found = verdict_of(check, facts)
    assert found.status == status
    assert words in f"{found.saw} {found.todo}"
    assert exit_status(verdicts(facts)) == int(any(one.status == "fail" for one in verdicts(facts)))


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"error": "Address already in use"}, "fail", "choose another with --listen"),
        ({"announced": "127.0.0.1:7071", "is_loopback": True}, "warn", "--announce HOST:PORT"),
        ({"announced": ""}, "ok", "can be listened on"),
    ],
)
def test_ports(fields: dict[str, Any], status: str, words: str) -> None:
    found = verdict_of("port --listen", replace(GOOD, ports=(replace(GOOD.ports[0], **fields),)))
    assert (found.status, words in f"{found.saw} {found.todo}") == (status, True)


@given(ahead_s=st.floats(-1e9, 1e9), uncertain_s=st.floats(0, 1e3))
def test_a_clock_is_never_blamed_for_what_is_uncertain(ahead_s: float, uncertain_s: float) -> None:
    facts = replace(GOOD, coordinator=replace(GOOD.coordinator, ahead_s=ahead_s, uncertain_s=uncertain_s))
    status = verdict_of("clock", facts).status
    assert status == "ok" or abs(ahead_s) > uncertain_s
    assert (status == "ok") == (abs(ahead_s) - uncertain_s <= 3.0)


@given(st.integers(-(2**40), 2**60), st.booleans())
def test_every_failure_says_what_to_do(num_bytes: int, signed: bool) -> None:
    facts = replace(
        GOOD,
        device=replace(GOOD.device, free_bytes=num_bytes),
        disk=replace(GOOD.disk, free_bytes=num_bytes, wanted_bytes=GIB),
        trust=replace(GOOD.trust, allow_unsigned=not signed),
    )
    found = verdicts(facts)
    assert all(one.todo for one in found if one.status == "fail")
    assert len(lines_of(found)) == len(found) + sum(bool(one.todo) for one in found)


def test_a_port_in_use_is_seen_and_a_free_one_told() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert "in use" in look_at_port("--listen", f"127.0.0.1:{port}", "", "127.0.0.1").error
    free = look_at_port("--listen", f"127.0.0.1:{port}", "", "127.0.0.1")
    assert (free.error, free.announced, free.is_loopback) == ("", f"127.0.0.1:{port}", True)
    assert look_at_port("--listen", "0.0.0.0:0", "me.example.org:7071", "127.0.0.1").announced == "me.example.org:7071"
    assert look_at_port("--listen", "nowhere", "", "127.0.0.1").error
    assert look_at_port("--dht", "192.0.2.77:1", None, "127.0.0.1").error
    assert look_at_port("--dht", "127.0.0.1:99999", None, "127.0.0.1").error


def test_the_disk_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = look_at_disk(tmp_path / "not" / "there", 5)
    assert (found.error, found.wanted_bytes) == ("", 5)
    assert found.write_bytes_s > 0
    assert found.free_bytes > 0
    assert list(tmp_path.iterdir()) == []
    assert look_at_disk(None, None).folder == ""


def test_trust_and_state_are_read_and_nothing_is_made(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pub"
    bad.write_text("no key")
    found = look_at_trust([bad], tmp_path / "state", has_token=False, allow_unsigned=False)
    assert "bad.pub" in found.error
    assert (found.state_error, found.certificate_s) == ("", None)
    assert not (tmp_path / "state").exists()
    (tmp_path / IDENTITY_FILE).write_text("no identity")
    assert "move it away" in look_at_trust([], tmp_path, has_token=False, allow_unsigned=False).state_error
    (tmp_path / "file").write_text("")
    assert look_at_trust([], tmp_path / "file", has_token=False, allow_unsigned=False).state_error


@contextmanager
def clock_of(date: str) -> Iterator[str]:
    """An HTTP server that tells a time; its address."""

    class Clock(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", date)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the library has it
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Clock) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def coordinator(http_address: str) -> Iterator[str]:
    """A coordinator's service for clients, on a loop of its own; its address."""
    addresses: list[str] = []
    is_up, is_over = Event(), Event()

    async def serve() -> None:
        server = make_server()
        service = ClientService("c1", FakeGenerations(view=example_swarm(http_address=http_address)), lambda: 7)
        client_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
        addresses.append(f"127.0.0.1:{bind(server, '127.0.0.1:0')}")
        await server.start()
        is_up.set()
        await asyncio.to_thread(is_over.wait, 30)
        await server.stop(None)

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(asyncio.run, serve())
        try:
            assert is_up.wait(10)
            yield addresses[0]
        finally:
            is_over.set()
            serving.result(10)


def doctor(*arguments: str, state: Path) -> Result:
    return CliRunner().invoke(
        main, ["doctor", *arguments, "--state", str(state), "--device", "cpu", "--cache", str(state / "cache")]
    )


def test_a_coordinator_is_asked_for_its_protocol_and_its_time(tmp_path: Path) -> None:
    now_s = time.time()
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now_s - 3600))
    with clock_of(date) as http, coordinator(http) as address:
        result = doctor(address, "--json", state=tmp_path)
    told = json.loads(result.stdout)
    checks = {one["check"]: one for one in told["checks"]}
    assert (result.exit_code, told["ok"]) == (1, False)
    assert {name: checks[name]["status"] for name in ("coordinator", "protocol", "clock")} == {
        "coordinator": "ok", "protocol": "ok", "clock": "fail",
    }  # fmt: skip
    assert checks["device"]["status"] in ("ok", "warn")  # a processor with AVX2 alone has no fast float16
    assert checks["clock"]["saw"].startswith(("3600.", "3599.", "3601."))


def test_a_coordinator_that_is_not_there_fails_the_check(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        result = doctor(address, state=tmp_path)
    assert result.exit_code == 1
    assert f"fail coordinator: {address}" in result.stdout
    assert "does a firewall let it through?" in result.stdout


@pytest.mark.parametrize(
    ("http_address", "address", "told"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:7070", True),
        ("http://127.0.0.1:8080", "localhost:7070", True),
        ("http://127.0.0.1:8080", "10.0.0.5:7070", False),  # that would be this machine's own clock
        ("http://[::1]:8080", "10.0.0.5:7070", False),
        ("https://10.0.0.5:8080", "10.0.0.5:7070", True),
        ("", "10.0.0.5:7070", False),
        ("file:///etc/passwd", "10.0.0.5:7070", False),
        ("http://[::", "10.0.0.5:7070", False),
    ],
)
def test_only_the_coordinators_own_clock_counts(http_address: str, address: str, told: bool) -> None:
    assert tells_its_time(http_address, address) == told


async def test_what_is_asked_of_nobody_is_said(tmp_path: Path) -> None:
    assert await ask_coordinator("", tmp_path) == CoordinatorFacts()
    assert "libp2p" in (await ask_coordinator("/ip4/10.0.0.7/tcp/3/p2p/Qm", tmp_path)).error
    assert "is no address" in (await ask_coordinator("nonsense", tmp_path)).error
    with clock_of("never") as http:  # it answers, and speaks no gRPC
        found = await ask_coordinator(http.removeprefix("http://"), tmp_path)
    assert found.connect_s is not None
    assert found.error


def test_it_takes_what_join_takes(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("mmory = '1GiB'\n")
    result = doctor("--config", str(file), state=tmp_path)
    assert result.exit_code == 1
    assert "'mmory' is no key: did you mean 'memory'?" in result.output
    assert doctor("--no-such-option", state=tmp_path).exit_code == 2


def test_a_node_asks_where_the_swarm_is(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(main, ["join"])
    assert (result.exit_code, result.output.startswith("error: say where the swarm is")) == (1, True)
