"""`osai up`'s processes: ready together, stopped together, and never one left behind."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from client.running_up import alive, eventually, running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ready_line_then_a_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, spans="0:2,2:4,2:4") as run:
        ready = json.loads(run.ready_line())
        pids = [node.pop("pid") for node in ready["nodes"]]
        assert ready == {
            "grpc": "127.0.0.1:1",
            "http": "http://127.0.0.1:2",
            "nodes": [
                {"id": "id-of-node-1", "spans": [{"model": "m", "start": 0, "end": 2}]},
                {"id": "id-of-node-2", "spans": [{"model": "m", "start": 2, "end": 4}]},
                {"id": "id-of-node-3", "spans": [{"model": "m", "start": 2, "end": 4}]},
            ],
        }
        assert set(pids) < set(run.pids())
        assert len(run.pids()) == 4
        assert all(alive(pid) for pid in run.pids())
        assert run.end(number) == 0
        assert not any(alive(pid) for pid in run.pids())  # not after a while: when it has ended
        assert "lost: False" in run.stderr


def test_nodes_start_at_the_same_time(tmp_path: Path) -> None:
    """None waits for another to be ready."""
    spans = ",".join(f"{i}:{i + 1}" for i in range(6))
    with running(tmp_path, *(f"node-{i}=hang" for i in range(1, 7)), spans=spans) as run:
        assert eventually(lambda: len(run.pids()) == 7)
        assert run.end(signal.SIGTERM) == 143


@pytest.mark.parametrize("name", ["coordinator", "node-2"])
def test_failure_at_the_start_shows_the_log_and_stops_the_rest(tmp_path: Path, name: str) -> None:
    with running(tmp_path, f"{name}=fail", "node-1=slow") as run:
        assert run.ready_line() == ""
        assert run.end() == 1
        assert "Traceback: the disk is full" in run.stderr
        assert f"error: {name} ended with exit status 1 during the start; its log: {tmp_path}/{name}.log" in run.stderr
        assert not any(alive(pid) for pid in run.pids())


def test_node_that_ends_while_another_starts_fails_the_start(tmp_path: Path) -> None:
    with running(tmp_path, "node-1=brief", "node-2=hang") as run:
        assert run.end() == 1
        assert "node-1 ended with exit status 4 during the start" in run.stderr


def test_start_deadline(tmp_path: Path) -> None:
    with running(tmp_path, "--start-s", "1.5", "node-2=hang") as run:
        assert run.end() == 1
        assert "did not start within 1.5 s" in run.stderr
        assert not any(alive(pid) for pid in run.pids())


def test_program_that_can_not_be_started(tmp_path: Path) -> None:
    with running(tmp_path, "--missing") as run:
        assert run.end() == 1
        assert "can't start node-" in run.stderr


def test_garbled_ready_line(tmp_path: Path) -> None:
    with running(tmp_path, "node-1=garbled") as run:
        assert run.end() == 1
        assert "where its ready line was due" in run.stderr


def test_signal_during_the_start(tmp_path: Path) -> None:
    with running(tmp_path, "node-2=hang") as run:
        assert eventually(lambda: len(run.pids()) == 3)
        assert run.end(signal.SIGINT) == 130
        assert not any(alive(pid) for pid in run.pids())


def test_killed_node_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, "node-2=children") as run:
        ready = json.loads(run.ready_line())
        os.kill(ready["nodes"][1]["pid"], signal.SIGKILL)
        assert eventually(lambda: "node-2 was ended by SIGKILL; the rest goes on" in run.stderr)
        time.sleep(0.3)
        assert run.process.poll() is None
        assert alive(ready["nodes"][0]["pid"])
        assert run.end(signal.SIGTERM) == 0
        assert "lost: True" in run.stderr
        assert not any(alive(pid) for pid in run.pids())  # its children neither


def test_when_every_process_has_ended_it_ends_with_an_error(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.ready_line()
        for pid in run.pids():
            os.kill(pid, signal.SIGTERM)
        assert run.end() == 1
        assert "every process of the swarm has ended" in run.stderr


def test_child_that_ignores_sigterm_is_killed_at_the_deadline(tmp_path: Path) -> None:
    with running(tmp_path, "--stop-s", "0.5", "node-1=stubborn", "node-1=children") as run:
        run.ready_line()
        assert run.end(signal.SIGTERM) == 0
        assert not any(alive(pid) for pid in run.pids())


def test_second_signal_kills_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "--stop-s", "600", "node-1=stubborn") as run:
        run.ready_line()
        run.process.send_signal(signal.SIGINT)
        assert eventually(lambda: "stopping" in run.stderr)
        assert run.end(signal.SIGINT) == 0


def test_kill_9_of_up_leaves_no_orphan(tmp_path: Path) -> None:
    """Neither children, nor theirs, in or out of their process group, nor one that ignores SIGTERM."""
    with running(tmp_path, "coordinator=children", "node-1=stubborn", "node-1=children") as run:
        assert run.ready_line()
        pids = run.pids()
        assert len(pids) == 7
        assert all(alive(pid) for pid in pids)
        run.end(signal.SIGKILL)
        assert eventually(lambda: not any(alive(pid) for pid in pids), 10)


def test_kill_9_during_the_start_leaves_no_orphan(tmp_path: Path) -> None:
    with running(tmp_path, "node-2=hang") as run:
        assert eventually(lambda: len(run.pids()) == 3)
        run.end(signal.SIGKILL)
        assert eventually(lambda: not any(alive(pid) for pid in run.pids()), 10)


def test_output_beside_the_ready_line_goes_to_the_log(tmp_path: Path) -> None:
    with running(tmp_path, "node-1=chatty", "node-2=noisy") as run:
        assert json.loads(run.ready_line())
        log = tmp_path / "node-2.log"
        assert eventually(lambda: log.stat().st_size > 200_000)
        assert "Welcome to a library" in (tmp_path / "node-1.log").read_text()
        assert run.end(signal.SIGTERM) == 0


def test_verbose_passes_the_logs_on(tmp_path: Path) -> None:
    with running(tmp_path, "--verbose") as run:
        run.ready_line()
        lines = {f"{name}: says hello to its log" for name in ("coordinator", "node-1", "node-2")}
        assert eventually(lambda: lines <= set(run.stderr.splitlines()))
