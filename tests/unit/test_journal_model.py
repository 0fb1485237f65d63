"""The journal against a model of it: any order of calls, crashes and restarts in between."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cep.journal.bodies import FILE_THRESHOLD
from cep.journal.journal import Journal

FUNCTION = "99999999-2222-4333-8444-555555555555"
SIZES = st.sampled_from([0, 1, 700, 5000, FILE_THRESHOLD, FILE_THRESHOLD + 1])


class Model(RuleBasedStateMachine):
    """What must be in the journal: as buffered (`now`), and as on disk (`kept`)."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.ids: dict[int, str] = {}
        # seq -> ("unfinished", body, attempts, given) | ("unsent", result) | ("tombstone",)
        self.now: dict[int, tuple[object, ...]] = {}
        self.kept: dict[int, tuple[object, ...]] = {}
        self.ever_kept: set[int] = set()
        self.open()

    def open(self) -> None:
        self.journal = Journal.open(
            self.home / "journal.db", self.home / "bodies", cache_bytes=20_000
        )

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.home)

    def of(self, state: str) -> list[int]:
        return sorted(seq for seq, (was, *_) in self.now.items() if was == state)

    def some(self, data: st.DataObject, state: str) -> list[int]:
        choice = self.of(state)
        return data.draw(st.lists(st.sampled_from(choice), unique=True)) if choice else []

    @rule(size=SIZES)
    def accept(self, size: int) -> None:
        body = bytes([65 + len(self.ids) % 26]) * size
        task_id = str(uuid4())
        seq = self.journal.accept(task_id, FUNCTION, body)
        assert seq not in self.ids
        self.ids[seq] = task_id
        self.now[seq] = ("unfinished", body, 0, False)

    @rule(size=SIZES)
    def refuse(self, size: int) -> None:
        task_id = str(uuid4())
        seq = self.journal.accept_finished(task_id, b"e" * size)
        self.ids[seq] = task_id
        self.now[seq] = ("unsent", b"e" * size)

    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        seqs = self.some(data, "unfinished")
        self.journal.give(seqs)
        for seq in seqs:
            _, body, attempts, _ = self.now[seq]
            self.now[seq] = ("unfinished", body, int(str(attempts)) + 1, True)

    @rule(data=st.data())
    def ungive(self, data: st.DataObject) -> None:
        seqs = [seq for seq in self.some(data, "unfinished") if self.now[seq][3]]
        self.journal.ungive(seqs)
        for seq in seqs:
            _, body, attempts, _ = self.now[seq]
            self.now[seq] = ("unfinished", body, int(str(attempts)) - 1, False)

    @rule(data=st.data(), size=SIZES)
    def finish(self, data: st.DataObject, size: int) -> None:
        for seq in self.some(data, "unfinished"):
            self.journal.finish(seq, b"r" * size)
            self.now[seq] = ("unsent", b"r" * size)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        seqs = self.some(data, "unsent")
        self.journal.settle(seqs)
        for seq in seqs:
            self.now[seq] = ("tombstone",)

    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        seqs = self.some(data, "tombstone")
        self.journal.ack_sent(seqs, 1, 1)
        self.journal.acks_processed(1, 1)
        for seq in seqs:
            del self.now[seq]

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        seqs = self.some(data, "unfinished")
        self.journal.discard(seqs)
        for seq in seqs:
            if seq not in self.kept:
                del self.now[seq]

    @rule()
    def commit(self) -> None:
        self.journal.commit()
        self.kept = dict(self.now)
        self.ever_kept |= self.kept.keys()

    @rule()
    def compact(self) -> None:
        self.journal.compact()

    @precondition(lambda self: self.ids)
    @rule()
    def crash_and_restart(self) -> None:
        self.journal._writer.abandon()
        self.now = dict(self.kept)
        # Nobody outside has ever heard of the others: their numbers may come again.
        self.ids = {seq: task_id for seq, task_id in self.ids.items() if seq in self.ever_kept}
        self.open()
        recovered = self.journal.recover()
        assert [(t.seq, t.size, t.attempts, t.given) for t in recovered.unfinished] == [
            (seq, len(self.now[seq][1]), *self.now[seq][2:])  # type: ignore[arg-type]
            for seq in self.of("unfinished")
        ]
        assert [seq for seq, _ in recovered.unsent] == self.of("unsent")
        assert recovered.damaged == []
        on_disk = {int(file.name.split(".")[0]) for file in (self.home / "bodies").iterdir()}
        assert on_disk == {
            seq
            for seq, (_, *content) in self.now.items()
            if content and len(content[0]) > FILE_THRESHOLD  # type: ignore[arg-type]
        }

    @invariant()
    def the_bodies_are_right(self) -> None:
        unfinished = self.of("unfinished")
        loaded = [self.journal.load(seq) for seq in unfinished]
        assert [(t.seq, t.body, t.task_id) for t in loaded] == [
            (seq, self.now[seq][1], self.ids[seq]) for seq in unfinished
        ]
        for seq in self.of("unsent"):
            assert self.journal.result(seq) == self.now[seq][1]

    @invariant()
    def the_counts_are_right(self) -> None:
        counts = self.journal.counts()
        unfinished = self.of("unfinished")
        assert counts.unfinished == len(unfinished)
        assert counts.unfinished_bytes == sum(len(self.now[s][1]) for s in unfinished)  # type: ignore[arg-type]
        assert counts.unsent == len(self.of("unsent"))
        assert counts.tombstones == len(self.of("tombstone"))

    @invariant()
    def exactly_the_known_is_known(self) -> None:
        known = {seq for seq, task_id in self.ids.items() if self.journal.knows(task_id)}
        assert known == self.now.keys()


TestJournalAgainstItsModel = Model.TestCase
TestJournalAgainstItsModel.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
