"""In-memory stand-ins for what the agent's parts talk to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from cep.engines.base import EngineEvent, EngineRun, Submission
from cep.journal.journal import Journal
from cep.model import Delivery, EngineStatus
from cep.wire.headers import TaskHeaders

ENDPOINT = "11111111-2222-4333-8444-555555555555"
FUNCTION = "99999999-2222-4333-8444-555555555555"


def task_id() -> str:
    """A new task id."""
    return str(uuid4())


def delivery(tag: int, id_: str | None = None, *, epoch: int = 1, body: bytes = b"x") -> Delivery:
    """A well-formed delivery."""
    headers = {"task_uuid": id_ or task_id(), "function_uuid": FUNCTION}
    return Delivery(epoch=epoch, tag=tag, headers=headers, body=body)


def open_journal(directory: Path) -> Journal:
    """A journal in this directory."""
    return Journal.open(directory / "journal.db", directory / "bodies")


class FakeConsumer:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def consume(self, most: int) -> None:
        self.told.append(("consume", most))

    def pause(self) -> None:
        self.told.append(("pause",))

    def ack(self, epoch: int, tags: Sequence[int]) -> None:
        self.told.append(("ack", epoch, tuple(tags)))

    def reject(self, epoch: int, tags: Sequence[int]) -> None:
        self.told.append(("reject", epoch, tuple(tags)))

    def give_back(self, epoch: int, tags: Sequence[int]) -> None:
        self.told.append(("give_back", epoch, tuple(tags)))

    def probe(self, epoch: int, mark: int) -> None:
        self.told.append(("probe", epoch, mark))


class FakePublisher:
    """Keeps what it was given to publish."""

    def __init__(self) -> None:
        self.items: list[tuple[int, bytes]] = []

    def publish(self, items: Sequence[tuple[int, bytes]]) -> None:
        self.items.extend(items)


class FakeDesk:
    """Keeps what intake took."""

    def __init__(self) -> None:
        self.tasks: list[int] = []
        self.answers: list[int] = []

    def accepted(self, seq: int, headers: TaskHeaders, size: int) -> None:
        assert headers.task_id
        assert size > 0
        self.tasks.append(seq)

    def answered(self, seq: int, size: int) -> None:
        assert size > 0
        self.answers.append(seq)


class FakeEngine:
    """Holds what it is given; the test decides what becomes of it."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self.waiting: list[int] = []
        self.cancelled: list[int] = []

    def start(self, run: EngineRun, deliver: Callable[[EngineEvent], None]) -> None:
        assert run
        assert deliver

    def submit(self, submission: Submission) -> None:
        self.given.extend(task.seq for task in submission.tasks)
        self.waiting.append(submission.waiting)

    def cancel(self, seqs: Sequence[int]) -> None:
        self.cancelled.extend(seqs)

    def status(self) -> EngineStatus:
        return EngineStatus(slots=0, workers=0, idle_workers=0)

    def stop(self, deadline_s: float) -> None:
        assert deadline_s >= 0
