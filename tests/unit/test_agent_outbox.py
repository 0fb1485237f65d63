"""The outbox: the journal forgets a result only when the broker has confirmed it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cep.agent import outbox as outbox_module
from cep.agent.outbox import Outbox
from tests.unit.agent_fakes import FUNCTION, FakePublisher, open_journal, task_id


class Scene:
    def __init__(self, directory: Path) -> None:
        self.journal = open_journal(directory)
        self.publisher = FakePublisher()
        self.outbox = Outbox(self.journal, self.publisher)

    def result(self, body: bytes = b"result") -> tuple[int, str]:
        id_ = task_id()
        seq = self.journal.accept(id_, FUNCTION, b"task", None, ())
        self.journal.finish(seq, body)
        self.outbox.add([(seq, len(body))])
        return seq, id_


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.journal.close()


def test_a_result_stays_in_the_journal_until_it_is_confirmed(scene: Scene) -> None:
    seq, _ = scene.result()
    scene.journal.commit()
    scene.outbox.send()
    assert scene.publisher.items == [(seq, b"result")]
    assert scene.journal.counts().unsent == 1
    scene.outbox.confirmed([seq])
    scene.journal.commit()
    assert scene.journal.counts().unsent == 0
    assert scene.outbox.unconfirmed == 0


def test_a_refused_result_is_kept_and_published_again(scene: Scene) -> None:
    seq, _ = scene.result()
    scene.journal.commit()
    scene.outbox.send()
    scene.outbox.refused([seq])
    scene.outbox.send()
    assert len(scene.publisher.items) == 1
    assert scene.outbox.unconfirmed == 1
    scene.outbox.retry_refused()
    scene.outbox.send()
    assert scene.publisher.items == [(seq, b"result")] * 2


def test_the_flight_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_IN_FLIGHT", 2)
    seqs = [scene.result()[0] for _ in range(3)]
    scene.journal.commit()
    scene.outbox.send()
    assert [seq for seq, _ in scene.publisher.items] == seqs[:2]
    scene.outbox.confirmed(seqs[:1])
    scene.outbox.send()
    assert [seq for seq, _ in scene.publisher.items] == seqs


def test_a_confirm_for_something_else_changes_nothing(scene: Scene) -> None:
    scene.outbox.confirmed([12345])
    assert scene.outbox.counters["confirmed"] == 0


def test_what_was_never_committed_is_not_sent(scene: Scene) -> None:
    seq, _ = scene.result()
    scene.outbox.withdraw([seq])
    scene.outbox.send()
    assert scene.publisher.items == []


def test_what_is_unconfirmed_is_counted_in_bytes_whatever_becomes_of_it(scene: Scene) -> None:
    one, two, three = (scene.result(b"r" * size)[0] for size in (10, 200, 3000))
    assert scene.outbox.unconfirmed_bytes == 3210
    scene.outbox.withdraw([three])
    scene.journal.discard([three])
    assert scene.outbox.unconfirmed_bytes == 210
    scene.journal.commit()
    scene.outbox.send()
    scene.outbox.refused([two])
    assert scene.outbox.unconfirmed_bytes == 210
    scene.outbox.confirmed([one, one])
    assert scene.outbox.unconfirmed_bytes == 200
    scene.outbox.retry_refused()
    scene.outbox.send()
    scene.outbox.confirmed([two])
    assert scene.outbox.unconfirmed_bytes == 0
