"""Keeps minutes in an SQLite file. It blocks: one thread of its own uses it."""

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from osai.coordinator.history import schema
from osai.coordinator.history.latencies import Latencies
from osai.coordinator.history.minute import Flow, Minute
from osai.coordinator.history.past import CELL_MINUTES, DAY_CELLS, DAY_MINUTES, Contributor, Day, ModelPast, Past
from osai.core.errors import SetupError

MAX_BYTES = 256 * 2**20  # of the file; a thousand busy nodes fill about 60 MB in a month
MONTH_MINUTES = 30 * DAY_MINUTES
MAX_CONTRIBUTORS = 200  # that are told of
_LEAST_KEPT = 60  # minutes: what is newer is not given up for room
_BUSY_S = 2.0  # to wait for somebody who reads the file


class HistoryStore:
    """Minutes in, the past out. Use it as a context manager; every method raises sqlite3.Error where it fails."""

    def __init__(self, path: Path | None, *, max_bytes: int = MAX_BYTES) -> None:
        """Open the file; None keeps everything in memory.

        Raises:
            sqlite3.Error: if it can't be used.
            SetupError: if a newer program has written it.
        """
        self._base = sqlite3.connect(path or ":memory:", timeout=_BUSY_S, isolation_level=None)
        try:
            self._prepare(max_bytes)
        except BaseException:
            self._base.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def add(self, minute: Minute) -> None:
        """Keep a minute, and forget what is too old. One transaction; where the room is used up, the oldest goes."""
        try:
            self._in_transaction(minute, kept_minutes=MONTH_MINUTES)
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            self._in_transaction(minute, kept_minutes=self._two_thirds(minute.at))

    def past(self, now: int) -> Past:
        """What is known at that minute."""
        presence = self._presence(now)
        return Past(
            since=self._since(),
            recorded=presence.pop("", (0,) * DAY_CELLS),
            nodes=presence,
            models=self._models(now),
            contributors=tuple(
                Contributor(name=name, num_nodes=num_nodes, tokens_day=day, tokens_month=month)
                for name, num_nodes, day, month in self._base.execute(
                    schema.CONTRIBUTED, (now - DAY_MINUTES, now - MONTH_MINUTES, MAX_CONTRIBUTORS)
                )
            ),
        )

    def _prepare(self, max_bytes: int) -> None:
        found = self._base.execute("PRAGMA user_version").fetchone()[0]
        if found > schema.VERSION:
            raise SetupError(f"it is of version {found}, and this program knows version {schema.VERSION}")
        page_bytes = self._base.execute("PRAGMA page_size").fetchone()[0]
        for pragma in (f"max_page_count = {max_bytes // page_bytes}", f"user_version = {schema.VERSION}"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.executescript(schema.TABLES)

    def _in_transaction(self, minute: Minute, *, kept_minutes: int) -> None:
        with self._base:  # commits, or takes all back
            self._base.execute("BEGIN IMMEDIATE")
            self._forget(minute.at, kept_minutes)
            self._add(minute)

    def _forget(self, now: int, kept_minutes: int) -> None:
        for statement, unit in schema.FORGET:
            self._base.execute(statement, ((now - kept_minutes) // unit,))
        for statement in schema.FORGET_MINUTES:
            self._base.execute(statement, (now - min(kept_minutes, DAY_MINUTES),))
        if now % 60 == 0 or kept_minutes < MONTH_MINUTES:
            self._base.execute(schema.FORGET_NAMES)

    def _two_thirds(self, now: int) -> int:
        """Of the minutes that are kept now."""
        since = self._since()
        return max(_LEAST_KEPT, (now - since) * 2 // 3 if since is not None else 0)

    def _add(self, minute: Minute) -> None:
        base, hour, bit = self._base, minute.at // 60, 1 << minute.at % 60
        base.executemany(schema.KNOW_NODE, minute.names.items())
        base.executemany(schema.ADD_NODE, minute.nodes.items())
        base.executemany(schema.ADD_MODEL, ((model_id,) for model_id in {*minute.coverage, *minute.flows}))
        base.execute(schema.ADD_OWN_PRESENCE, (hour, bit))
        base.executemany(schema.ADD_PRESENCE, ((hour, bit, node_id) for node_id in minute.nodes))
        for span, at in ((1, minute.at), (60, hour * 60)):
            base.executemany(schema.ADD_SERVED, ((span, at, tokens, *which) for which, tokens in minute.served.items()))
            base.executemany(
                schema.ADD_COVERAGE,
                ((span, at, seen.servable, seen.thinnest, model_id) for model_id, seen in minute.coverage.items()),
            )
            for model_id, flow in minute.flows.items():
                rows = base.execute(schema.FLOW_OF, (span, at, model_id))
                whole = _sum(map(_flow, rows)).plus(flow)
                base.execute(schema.PUT_FLOW, (span, at, *_columns(whole), model_id))

    def _since(self) -> int | None:
        row = self._base.execute(schema.FIRST_HOUR).fetchone()
        return None if row is None else row[0] * 60 + (row[1] & -row[1]).bit_length() - 1

    def _presence(self, now: int) -> dict[str, Day]:
        """By node; under the empty id, this coordinator's own."""
        first = now // CELL_MINUTES - DAY_CELLS + 1
        found: dict[str, list[int]] = {}
        for hour, node_id, minutes in self._base.execute(schema.PRESENT, (first * CELL_MINUTES // 60,)):
            day = found.setdefault(node_id, [0] * DAY_CELLS)
            for half in (0, 1):
                cell = 2 * hour + half - first
                if 0 <= cell < DAY_CELLS:
                    day[cell] += (minutes >> half * CELL_MINUTES & (1 << CELL_MINUTES) - 1).bit_count()
        return {node_id: tuple(day) for node_id, day in found.items()}

    def _models(self, now: int) -> dict[str, ModelPast]:
        first = now // CELL_MINUTES - DAY_CELLS + 1
        servable: dict[str, list[int]] = {}
        for model_id, cell, minutes in self._base.execute(schema.COVERED, (first * CELL_MINUTES,)):
            if 0 <= cell - first < DAY_CELLS:
                servable.setdefault(model_id, [0] * DAY_CELLS)[cell - first] = minutes
        hour = self._flows(span=1, after=now - 60)
        day = self._flows(span=60, after=now - DAY_MINUTES)
        return {
            model_id: ModelPast(
                servable=tuple(servable.get(model_id, (0,) * DAY_CELLS)),
                hour=hour.get(model_id, Flow()),
                day=day.get(model_id, Flow()),
            )
            for model_id in {*servable, *hour, *day}
        }

    def _flows(self, *, span: int, after: int) -> dict[str, Flow]:
        flows: dict[str, list[Flow]] = {}
        for model_id, *row in self._base.execute(schema.FLOWS, (span, after)):
            flows.setdefault(model_id, []).append(_flow(row))
        return {model_id: _sum(parts) for model_id, parts in flows.items()}


def _flow(row: Iterable[object]) -> Flow:
    tokens, recoveries, ttft, gaps = row
    try:
        return Flow(
            num_tokens=int(str(tokens)),
            num_recoveries=int(str(recoveries)),
            ttft=Latencies.from_pairs(json.loads(str(ttft))),
            gaps=Latencies.from_pairs(json.loads(str(gaps))),
        )
    except ValueError as e:
        raise sqlite3.DatabaseError(f"a row of latencies can't be read: {e}") from e


def _columns(flow: Flow) -> tuple[int, int, str, str]:
    return flow.num_tokens, flow.num_recoveries, json.dumps(flow.ttft.pairs()), json.dumps(flow.gaps.pairs())


def _sum(flows: Iterable[Flow]) -> Flow:
    whole = Flow()
    for flow in flows:
        whole = whole.plus(flow)
    return whole
