"""The broker's store: group commit, what is never written, crashes, strange databases."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from cep.errors import CantCreate, DataError, Unavailable
from cep.hub.broker.store import Recovered, Row, Store, StoredQueue


def row(seq: int, body: bytes = b"body") -> Row:
    return Row(seq, 1, False, b"\x00\x01q", b"\x10\x00\x02", body)


class Answers:
    """Collects what `done` was told, and waits for a number of them."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self._come = asyncio.Event()

    def done(self, safe: bool) -> None:
        self.told.append(safe)
        self._come.set()

    async def count(self, number: int) -> list[bool]:
        while len(self.told) < number:
            self._come.clear()
            await asyncio.wait_for(self._come.wait(), 60)
        return self.told


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def opened(path: Path) -> tuple[Store, Recovered]:
    store = Store(path)
    return store, await store.open()


def test_what_was_stored_is_recovered_in_order(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    queue = StoredQueue(1, "q", False)

    async def scenario() -> None:
        store, found = await opened(path)
        assert found == Recovered()
        answers = Answers()
        store.save_exchange("x", answers.done)
        store.save_queue(queue, answers.done)
        store.save_binding("x", "key", 1, answers.done)
        for seq in (1, 2, 3):
            store.put(row(seq, b"b%d" % seq), answers.done)
        assert await answers.count(6) == [True] * 6
        store.forget([2])
        await store.close(delivered=[1])
        store, found = await opened(path)
        assert (found.exchanges, found.queues) == (["x"], [queue])
        assert found.bindings == [("x", "key", 1)]
        assert [(m.seq, m.redelivered, m.size) for m in found.messages] == [
            (1, True, 2),
            (3, False, 2),
        ]
        loaded: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        store.load([1, 3, 4], loaded.set_result)
        assert await loaded == {1: b"b1", 3: b"b3"}
        await store.close([])

    run(scenario())


def test_many_puts_of_one_moment_are_one_transaction(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, _found = await opened(tmp_path / "broker.db")
        answers = Answers()
        told_by_turn: list[int] = []
        for seq in range(1, 101):
            store.put(row(seq), answers.done)
        while len(answers.told) < 100:
            told_by_turn.append(len(answers.told))
            await answers.count(len(answers.told) + 1)
        assert set(told_by_turn) == {0}
        await store.close([])

    run(scenario())


def test_a_message_forgotten_before_its_commit_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def scenario() -> None:
        store, _found = await opened(path)
        answers = Answers()
        store.save_queue(StoredQueue(1, "q", False), answers.done)
        store.put(row(1), answers.done)
        store.forget([1])
        assert answers.told == [True]
        await store.close([])
        store, found = await opened(path)
        assert found.messages == []
        await store.close([])

    run(scenario())


def test_after_a_crash_every_message_counts_as_redelivered(tmp_path: Path) -> None:
    path, copy = tmp_path / "broker.db", tmp_path / "crashed.db"

    async def scenario() -> None:
        store, _found = await opened(path)
        answers = Answers()
        store.save_queue(StoredQueue(1, "q", False), answers.done)
        store.put(row(1), answers.done)
        await answers.count(2)
        for suffix in ("", "-wal"):  # what a kill -9 would leave
            Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
        await store.close([])
        crashed, found = await opened(copy)
        assert [message.redelivered for message in found.messages] == [True]
        await crashed.close([])

    run(scenario())


def test_a_failed_commit_is_told_to_its_publishers_only(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"

    async def scenario() -> None:
        store, _found = await opened(path)
        await store.close([])
        with sqlite3.connect(path) as db:
            db.execute(
                "CREATE TRIGGER full BEFORE INSERT ON messages WHEN NEW.body = x'62'"
                " BEGIN SELECT RAISE(FAIL, 'disk full'); END"
            )
        db.close()
        store, _found = await opened(path)
        answers = Answers()
        store.put(row(1, b"b"), answers.done)
        store.save_queue(StoredQueue(1, "q", False), lambda _safe: None)
        assert await answers.count(1) == [False]
        store.put(row(2), answers.done)
        assert await answers.count(2) == [False, True]
        await store.close([])
        store, found = await opened(path)
        assert [queue.name for queue in found.queues] == ["q"]
        assert [message.seq for message in found.messages] == [2]
        await store.close([])

    run(scenario())


def test_a_second_broker_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        store, _found = await opened(tmp_path / "broker.db")
        with pytest.raises(Unavailable, match="another hub"):
            await Store(tmp_path / "broker.db").open()
        await store.close([])

    run(scenario())


def test_a_newer_or_damaged_database_is_left_as_it_is(tmp_path: Path) -> None:
    newer, damaged = tmp_path / "newer.db", tmp_path / "damaged.db"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    damaged.write_bytes(b"this is no database, whatever its name says" * 50)
    for path in (newer, damaged):
        before = path.read_bytes()
        with pytest.raises(DataError, match=r"newer|damaged"):
            asyncio.run(Store(path).open())  # type: ignore[arg-type]
        assert path.read_bytes() == before


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CantCreate, match=r"file/broker\.db"):
        asyncio.run(Store(tmp_path / "file" / "broker.db").open())  # type: ignore[arg-type]
