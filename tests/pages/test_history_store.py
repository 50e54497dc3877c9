"""The history's file: what comes back of what was kept, for how long, within which bounds, and when it fails."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fake_generations import MODEL, FakeGenerations, example_model, example_node, example_swarm
from osai.coordinator.history.keeper import IN_MEMORY, History
from osai.coordinator.history.latencies import Latencies
from osai.coordinator.history.minute import Coverage, Flow, Minute
from osai.coordinator.history.past import CELL_MINUTES, DAY_CELLS, DAY_MINUTES
from osai.coordinator.history.recorder import Recorder
from osai.coordinator.history.store import MONTH_MINUTES, HistoryStore
from osai.core.errors import SetupError

HOUR = 60
NOW = 30_000_000 // HOUR * HOUR  # the first minute of an hour


def minute(at: int, **fields: Any) -> Minute:  # noqa: ANN401 - of any field
    empty: dict[str, Any] = {"nodes": {}, "coverage": {}, "flows": {}, "served": {}, "names": {}}
    return Minute(at=at, **{**empty, **fields})


def busy_minute(at: int, *, num_tokens: int = 5, servable: bool = True) -> Minute:
    flow = Flow(num_tokens=num_tokens, num_recoveries=1, ttft=Latencies({80: 1}), gaps=Latencies({40: num_tokens}))
    return minute(
        at,
        nodes={"a": "ann", "b": ""},
        coverage={MODEL: Coverage(servable=servable, thinnest=int(servable))},
        flows={MODEL: flow},
        served={("a", MODEL): num_tokens, ("b", MODEL): 1},
        names={"a": "ann", "b": ""},
    )


def test_what_was_kept_comes_back_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    with HistoryStore(path) as store:
        for at in range(NOW - 29, NOW + 1):
            store.add(busy_minute(at, servable=at < NOW - 10))
    with HistoryStore(path) as store:
        past = store.past(NOW)
    assert past.since == NOW - 29
    assert (sum(past.recorded), past.recorded[-1], past.recorded[-2]) == (30, 1, 29)
    assert past.nodes["a"] == past.recorded
    model = past.models[MODEL]
    assert sum(model.servable) == 19
    assert (model.hour.num_tokens, model.hour.num_recoveries, model.hour.gaps.num_samples) == (150, 30, 150)
    assert model.day.ttft.num_samples == 30
    assert [(one.name, one.num_nodes, one.tokens_day, one.tokens_month) for one in past.contributors] == [
        ("ann", 1, 150, 150), ("", 1, 30, 30),
    ]  # fmt: skip


def test_minutes_are_kept_a_day_and_hours_a_month(tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "history.sqlite3") as store:
        store.add(busy_minute(NOW))
        store.add(minute(NOW + DAY_MINUTES + HOUR))
        later = store.past(NOW + DAY_MINUTES + HOUR)
        first = later.contributors[0]
        assert (first.name, first.tokens_day, first.tokens_month) == ("ann", 0, 5)
        assert (sum(later.nodes.get("a", ())), later.models) == (0, {})
        for after in range(2):  # names are forgotten once an hour
            store.add(minute(NOW + MONTH_MINUTES + (2 + after) * HOUR))
        gone = store.past(NOW + MONTH_MINUTES + 3 * HOUR)
        assert (gone.contributors, gone.since) == ((), NOW + DAY_MINUTES + HOUR)
        assert store._base.execute("SELECT count(*) FROM node").fetchone() == (0,)


@settings(max_examples=25)
@given(st.sets(st.integers(0, 2 * DAY_MINUTES), max_size=40))
def test_the_strip_has_every_minute_of_the_last_day_in_its_half_hour(minutes: set[int]) -> None:
    start = NOW - 2 * DAY_MINUTES
    with HistoryStore(None) as store:
        for at in sorted(minutes):
            store.add(minute(start + at, nodes={"a": ""}))
        past = store.past(NOW)
    first = NOW // CELL_MINUTES - DAY_CELLS + 1
    expected = [0] * DAY_CELLS
    for at in minutes:
        cell = (start + at) // CELL_MINUTES - first
        if 0 <= cell < DAY_CELLS:
            expected[cell] += 1
    assert list(past.recorded) == expected
    assert list(past.nodes.get("a", (0,) * DAY_CELLS)) == expected


def test_the_file_stays_within_its_bound_and_the_oldest_goes_first(tmp_path: Path) -> None:
    path, max_bytes = tmp_path / "history.sqlite3", 200_000
    with HistoryStore(path, max_bytes=max_bytes) as store:
        for hour in range(80):
            nodes = {f"{hour % 4}-{i:040}": "" for i in range(250)}
            store.add(minute(NOW + hour * HOUR, nodes=nodes))
        past = store.past(NOW + 79 * HOUR)
    assert path.stat().st_size <= max_bytes
    assert past.since is not None
    assert NOW < past.since < NOW + 70 * HOUR
    assert past.recorded[-2] + past.recorded[-1] == 1  # the newest is there


def test_a_file_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    base = sqlite3.connect(path)
    base.execute("PRAGMA user_version = 99")
    base.close()
    before = path.read_bytes()
    with pytest.raises(SetupError, match="version 99"):
        HistoryStore(path)
    assert path.read_bytes() == before


class Wall:
    """Seconds since 1970, as a test sets them."""

    def __init__(self) -> None:
        self.now_s = NOW * 60.0

    def __call__(self) -> float:
        return self.now_s


def history_of(path: Path | None, wall: Wall, **more: int) -> History:
    view = example_swarm(models=(example_model(),), nodes=(example_node(1, name="ann"),))
    return History(Recorder(), FakeGenerations(view=view).swarm, path, wall, **more)


async def open_and_pass_minutes(history: History, wall: Wall, num_minutes: int = 2) -> None:
    await history._in_thread(lambda: history._open(history._now()))
    for _ in range(num_minutes):
        await history.sample()
        wall.now_s += 60
    await history.sample()


async def close(history: History) -> None:
    history._thread.submit(history._close).result()
    history._thread.shutdown()


async def test_minutes_are_written_while_time_passes_and_the_open_one_is_shown(tmp_path: Path) -> None:
    wall = Wall()
    history = history_of(tmp_path / "deep" / "history.sqlite3", wall)
    await open_and_pass_minutes(history, wall)
    assert history.past().trouble == ""
    assert sum(history.past().nodes[f"{1:032x}"]) == 2
    history.recorder.tokens(MODEL, (f"{1:032x}",), 3, 0.0)
    past = history.past()  # of the minute that is not over
    assert (past.models[MODEL].hour.num_tokens, past.contributors[0].name) == (3, "ann")
    await close(history)


async def test_what_there_is_of_the_last_minute_is_written_at_the_end(tmp_path: Path) -> None:
    wall, path = Wall(), tmp_path / "history.sqlite3"
    history = history_of(path, wall)
    running = asyncio.create_task(history.run())
    async with asyncio.timeout(5):
        while not history.recorder.open_minute(0).nodes:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.01)
    assert history.past().trouble == ""
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    with HistoryStore(path) as store:
        assert sum(store.past(NOW).nodes[f"{1:032x}"]) == 1


async def test_no_folder_keeps_it_in_memory_and_says_so() -> None:
    wall = Wall()
    history = history_of(None, wall)
    await open_and_pass_minutes(history, wall)
    assert (history.past().trouble, sum(history.past().recorded)) == (IN_MEMORY, 2)
    await close(history)


def corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database" * 500)


def a_folder(path: Path) -> None:
    path.mkdir()


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("no folder")


@pytest.mark.parametrize("spoil", [corrupt, a_folder, below_a_file])
async def test_a_file_that_cannot_be_used_is_logged_and_the_figures_go_on(
    spoil: Callable[[Path], object],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "state" / "history.sqlite3"
    path.parent.mkdir()
    spoil(path)
    wall = Wall()
    history = history_of(path, wall)
    with caplog.at_level(logging.ERROR):
        await open_and_pass_minutes(history, wall)
    assert f"the history in {path} can't be kept" in caplog.text
    assert history.past().trouble
    assert str(tmp_path) not in history.past().trouble  # it is shown to everybody
    assert sum(history.past().recorded) == 2
    await close(history)


async def test_a_disk_that_fills_up_is_logged_and_the_figures_begin_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wall = Wall()
    history = history_of(tmp_path / "history.sqlite3", wall)
    await open_and_pass_minutes(history, wall)
    history._thread.submit(_no_more_pages, history).result()
    view = example_swarm(nodes=tuple(example_node(i, name="n" * 200) for i in range(2000)))
    history._swarm = lambda: view
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await history.sample()
            wall.now_s += 60
    assert "can't be kept: database or disk is full" in caplog.text
    assert history.past().trouble == "database or disk is full"
    await close(history)


def _no_more_pages(history: History) -> None:
    assert history._store is not None
    base = history._store._base
    pages = base.execute("PRAGMA page_count").fetchone()[0]
    base.execute(f"PRAGMA max_page_count = {pages}")


async def test_a_reader_who_holds_the_file_costs_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wall, path = Wall(), tmp_path / "history.sqlite3"
    history = history_of(path, wall)
    await open_and_pass_minutes(history, wall)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    wall.now_s += 60
    await history.sample()
    holder.close()
    assert "another program holds the file" in caplog.text
    wall.now_s += 60
    await history.sample()
    assert (history.past().trouble, sum(history.past().recorded)) == ("", 3)
    await close(history)
