"""The books of a fault run: who submitted what, which answers came, when, and what truly ran.

Filled by the client's threads, read by the test's thread, all under one condition. The verdict is
made here, from what the client and the test functions saw.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from cep.wire.result import ResultMessage

# What a task that a fault hit may be answered with.
NAMED = frozenset({"ENDPOINT_RESTARTED", "WORKER_LOST", "BLOCK_LOST"})


@dataclass(frozen=True, slots=True)
class Answer:
    """The first answer to a task.

    Attributes:
        at: When it came, by the monotonic clock.
        body: Its bytes, to know a repeat from a second, different answer.
        result: What it says.
    """

    at: float
    body: bytes
    result: ResultMessage


class Books:
    """See the module.

    Args:
        executed: The file to which each run of a function adds its label, one a line.
    """

    def __init__(self, executed: Path) -> None:
        self._executed = executed
        self._changed = threading.Condition()
        self.ids: dict[str, str] = {}  # of each submitted task, by its label
        self.answers: dict[str, Answer] = {}
        self.repeats: Counter[str] = Counter()  # the same answer again, by task id
        self.contradictions: Counter[str] = Counter()  # a different answer, by task id

    def submitted(self, task_id: str, label: str) -> None:
        """A task has this id; its answer may have come already."""
        with self._changed:
            self.ids[label] = task_id
            self._changed.notify_all()

    def answered(self, body: bytes, result: ResultMessage, *, delivered_before: bool) -> None:
        """An answer came.

        Args:
            body: The message.
            result: The same, read.
            delivered_before: The broker says that it gave us this very message already; then it
                is our own lost ack that brings it again, and no second answer.
        """
        now = time.monotonic()
        with self._changed:
            first = self.answers.get(result.task_id)
            if first is None:
                self.answers[result.task_id] = Answer(now, body, result)
                self._changed.notify_all()
            elif first.body != body:
                self.contradictions[result.task_id] += 1
            elif not delivered_before:
                self.repeats[result.task_id] += 1

    def wait(self, labels: Collection[str], number: int, within_s: float) -> bool:
        """Wait until so many of these tasks are answered."""
        with self._changed:
            return self._changed.wait_for(
                lambda: sum(self._answer(label) is not None for label in labels) >= number,
                within_s,
            )

    def wait_submitted(self, labels: Collection[str], within_s: float) -> bool:
        """Wait until all of these tasks have an id."""
        with self._changed:
            return self._changed.wait_for(lambda: set(labels) <= self.ids.keys(), within_s)

    def answered_after(self, label: str, moment: float) -> float | None:
        """Seconds from a moment to the answer to a task; None without one."""
        with self._changed:
            answer = self._answer(label)
        return None if answer is None else answer.at - moment

    def _answer(self, label: str) -> Answer | None:
        return self.answers.get(self.ids.get(label, ""))

    def verdict(self, labels: Collection[str], *, retries: int, spare: int) -> Verdict:
        """Judge these tasks, all that will ever be answered being so by now.

        Args:
            labels: The tasks of one step.
            retries: How often the endpoint may try a task again.
            spare: Error answers allowed for tasks that left no trace: a worker can be killed
                after it noted the begin and before the function's first line.
        """
        runs = Counter(self._executed.read_text().split())
        found = Verdict()
        with self._changed:
            for label in labels:
                answer = self._answer(label)
                task_id = self.ids.get(label, "")
                found.run_twice += [label] if runs[label] > 1 + retries else []
                found.repeats += self.repeats[task_id]
                found.contradicted += [label] if self.contradictions[task_id] else []
                if answer is None:
                    found.unanswered.append(label)
                    continue
                found.answered += 1
                code = answer.result.error_code
                if code is None:
                    found.invented += [] if runs[label] else [label]
                elif code not in NAMED:
                    found.unnamed.append(f"{label}: {code}: {answer.result.data}")
                else:
                    found.errors += 1
                    found.begun += 1 if runs[label] else 0
        # An endpoint that may try a task again has no reason to answer with an error at all.
        found.bound = 0 if retries else found.begun + spare
        return found


@dataclass(slots=True)
class Verdict:
    """What is to be said of a step.

    Attributes:
        answered: Tasks with an answer.
        unanswered: Labels of those without: lost.
        errors: Answers that say what happened to a task that had begun.
        begun: Those of them whose function left a trace: they truly had begun.
        bound: The most errors allowed.
        unnamed: Error answers with another code: lost.
        invented: Good answers of functions that never ran.
        run_twice: Labels of tasks that ran more often than allowed.
        repeats: Answers that came again unchanged.
        contradicted: Labels of tasks with two different answers.
    """

    answered: int = 0
    unanswered: list[str] = field(default_factory=list)
    errors: int = 0
    begun: int = 0
    bound: int = 0
    unnamed: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    run_twice: list[str] = field(default_factory=list)
    repeats: int = 0
    contradicted: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Tasks without an answer or with one that says nothing, and errors above the bound."""
        return len(self.unanswered) + len(self.unnamed) + max(0, self.errors - self.bound)
