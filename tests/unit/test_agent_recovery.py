"""Recovery: what certainly was not started runs, what possibly was is answered or retried."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import pytest

from cep.agent.dispatcher import Dispatcher
from cep.agent.outbox import Outbox
from cep.agent.recovery import recover
from cep.config.settings import OnRestart
from cep.journal.journal import Journal
from cep.wire.result import unpack_result
from tests.unit.agent_fakes import (
    ENDPOINT,
    FUNCTION,
    FakeEngine,
    FakePublisher,
    open_journal,
    task_id,
)


@dataclass
class Life:
    journal: Journal
    engine: FakeEngine
    dispatcher: Dispatcher
    outbox: Outbox
    publisher: FakePublisher

    def turn(self) -> None:
        self.dispatcher.choose()
        self.journal.commit()
        self.outbox.send()
        self.dispatcher.hand_over()


class History:
    """An earlier life with three tasks: two given to the engine, one not; then a new life."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        journal = open_journal(directory)
        self.seqs = [journal.accept(task_id(), FUNCTION, b"t", None, ()) for _ in range(3)]
        journal.give(self.seqs[:2])
        journal.commit()
        journal.close()
        self.lives: list[Life] = []

    def goes_on(
        self, begun: Set[int] | None, on_restart: OnRestart = "fail", max_retries: int = 0
    ) -> Life:
        journal = open_journal(self.directory)
        engine, publisher = FakeEngine(), FakePublisher()
        life = Life(
            journal,
            engine,
            Dispatcher(journal, engine, endpoint_id=ENDPOINT, max_retries=max_retries),
            Outbox(journal, publisher),
            publisher,
        )
        recover(
            journal,
            life.dispatcher,
            life.outbox,
            endpoint_id=ENDPOINT,
            begun=begun,
            on_restart=on_restart,
            max_retries=max_retries,
        )
        life.dispatcher.slots_changed(10)
        life.turn()
        self.lives.append(life)
        return life


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path)
    yield history
    for life in history.lives:
        life.journal.close()


def codes(life: Life) -> list[str | None]:
    return [unpack_result(body).error_code for _, body in life.publisher.items]


def test_without_start_slots_every_given_task_is_possibly_started(history: History) -> None:
    life = history.goes_on(None)
    assert codes(life) == ["ENDPOINT_RESTARTED"] * 2
    assert life.engine.given == history.seqs[2:]


def test_with_start_slots_only_truly_begun_tasks_are_answered(history: History) -> None:
    life = history.goes_on({history.seqs[0]})
    assert [seq for seq, _ in life.publisher.items] == history.seqs[:1]
    assert life.engine.given == history.seqs[1:]


def test_possibly_started_tasks_are_retried_only_as_often_as_allowed(history: History) -> None:
    life = history.goes_on(None, "retry", max_retries=1)
    assert life.publisher.items == []
    assert life.engine.given == history.seqs
    life.journal.close()
    history.lives.clear()
    again = history.goes_on(None, "retry", max_retries=1)
    # Two were given in both lives and may not run a third time; the last was given only once.
    assert [seq for seq, _ in again.publisher.items] == history.seqs[:2]
    assert again.engine.given == history.seqs[2:]


def test_retry_without_allowed_retries_is_an_answer(history: History) -> None:
    life = history.goes_on(None, "retry", max_retries=0)
    assert codes(life) == ["ENDPOINT_RESTARTED"] * 2


def test_unconfirmed_results_are_published_again(history: History) -> None:
    first = history.goes_on(set())
    first.journal.finish(history.seqs[0], b"the answer")
    first.journal.commit()
    first.journal.close()
    history.lives.clear()
    second = history.goes_on(set())
    assert (history.seqs[0], b"the answer") in second.publisher.items
    assert history.seqs[0] not in second.engine.given
