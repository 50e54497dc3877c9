"""The keys file: whole, private, changed in turn, and read again when it changes."""

import asyncio
import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coordinator.keys_world import NOW_S, bearer, created
from osai.coordinator.keys import store
from osai.coordinator.keys.book import KeyBook
from osai.coordinator.keys.key_text import KeyText
from osai.coordinator.keys.keyring import Keyring
from osai.coordinator.keys.store import KeysFile, KeyWatch
from osai.core.errors import InvalidRequestError, SetupError, UnauthenticatedError

SOON_S = 3.0
LOOK_S = 0.02


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "deep" / "keys.json")


def add(file: KeysFile) -> KeyText:
    return file.change(created)


def revoke(file: KeysFile, text: KeyText) -> None:
    file.change(lambda book: (book.revoked(text.key_id, NOW_S), None))


def test_what_was_written_is_read_and_only_its_owner_may(file: KeysFile) -> None:
    assert file.read() == KeyBook()
    assert file.stamp() is None
    text = add(file)
    assert file.read().authenticate(text, NOW_S).key_id == text.key_id
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert text.secret.hex() not in file.path.read_text()
    assert {path.name for path in file.path.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_each_change_gives_the_file_another_stamp(file: KeysFile) -> None:
    stamps = {file.stamp()}
    for _ in range(5):
        add(file)
        stamps.add(file.stamp())
    assert len(stamps) == 6


def test_a_change_that_fails_changes_nothing(file: KeysFile) -> None:
    add(file)
    before = file.path.read_bytes()
    with pytest.raises(InvalidRequestError):
        file.change(lambda book: (book.revoked("0" * 16 + "x", NOW_S), None))
    assert file.path.read_bytes() == before


def test_changes_at_once_are_all_kept(file: KeysFile) -> None:
    threads = [threading.Thread(target=add, args=(file,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.read().keys) == 8


def test_a_lock_that_is_held_is_not_waited_for_without_end(file: KeysFile, monkeypatch: pytest.MonkeyPatch) -> None:
    add(file)
    monkeypatch.setattr(store, "LOCK_DEADLINE_S", 0.05)
    with file.path.with_name("keys.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SetupError, match="another command is changing"):
            add(file)
    add(file)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_believed(file: KeysFile, mode: int) -> None:
    add(file)
    file.path.chmod(mode)
    with pytest.raises(SetupError, match="chmod 600"):
        file.read()
    file.path.chmod(0o640)
    assert file.read().keys


def test_what_can_not_be_read_or_written_is_told_by_name(file: KeysFile, tmp_path: Path) -> None:
    file.path.mkdir(parents=True)
    with pytest.raises(SetupError, match=r"keys\.json can't be read"):
        file.read()
    (tmp_path / "blocked").write_text("")
    with pytest.raises(SetupError, match=r"can't be written.*--keys"):
        add(KeysFile(tmp_path / "blocked" / "keys.json"))
    (tmp_path / "damaged").write_text("{")
    (tmp_path / "damaged").chmod(0o600)
    with pytest.raises(SetupError, match="damaged"):
        KeysFile(tmp_path / "damaged").read()


def test_a_coordinator_without_a_keys_file_does_not_start(file: KeysFile) -> None:
    with pytest.raises(SetupError, match="osai-coordinator key create"):
        KeyWatch(file)


def lets_in(keyring: Keyring, text: KeyText) -> bool:
    try:
        keyring.key_of(bearer(text))
    except UnauthenticatedError:
        return False
    return True


def put(file: KeysFile, data: bytes) -> None:
    """As an editor does that replaces files whole."""
    beside = file.path.with_name("edited")
    beside.write_bytes(data)
    beside.chmod(0o600)
    beside.replace(file.path)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not holds():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(LOOK_S)


async def test_changes_are_taken_while_it_runs(file: KeysFile, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = add(file)
    watch = KeyWatch(file, LOOK_S)
    watching = asyncio.create_task(watch.run())
    try:
        assert lets_in(watch.keyring, first)
        second = add(file)
        await until(lambda: lets_in(watch.keyring, second))
        revoke(file, first)
        await until(lambda: not lets_in(watch.keyring, first))
        assert lets_in(watch.keyring, second)
        assert not watching.done()
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    for text in (first, second):
        assert text.secret.hex() not in caplog.text


async def test_a_damaged_file_changes_nothing_and_a_lost_one_lets_nobody_in(
    file: KeysFile, caplog: pytest.LogCaptureFixture
) -> None:
    text = add(file)
    watch = KeyWatch(file, LOOK_S)
    watching = asyncio.create_task(watch.run())
    good = file.path.read_bytes()
    try:
        put(file, good[:-1])
        await until(lambda: "stay as they were" in caplog.text)
        await asyncio.sleep(5 * LOOK_S)
        assert lets_in(watch.keyring, text)
        assert caplog.text.count("stay as they were") == 1
        file.path.unlink()
        await until(lambda: not lets_in(watch.keyring, text))
        put(file, good)
        await until(lambda: lets_in(watch.keyring, text))
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def test_what_an_expiring_key_runs_ends_with_it_though_the_file_does_not_change(file: KeysFile) -> None:
    text = file.change(lambda book: created(book, now_s=time.time(), life_s=2))
    watch = KeyWatch(file, LOOK_S)
    watching = asyncio.create_task(watch.run())
    try:
        key = watch.keyring.key_of(bearer(text))
        with watch.keyring.running(key, 1) as run, pytest.raises(UnauthenticatedError, match="has expired"):
            await asyncio.wait_for(run.within(asyncio.Event().wait), SOON_S)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
