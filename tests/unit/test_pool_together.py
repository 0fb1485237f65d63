"""Tiny tasks that travel to a worker of the process pool in one packet, and their claims."""

from __future__ import annotations

import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cep.config.settings import ProcessPoolSettings
from cep.engines.pace import Pace
from cep.engines.pool_link import Worker
from cep.engines.pool_sharing import hand_out, take_for_idle
from cep.engines.processes import ProcessPoolEngine
from cep.model import OutcomeKind, Task
from cep.worker import packets
from cep.worker.inbox import Inbox
from tests.unit import engine_tasks as tasks
from tests.unit.engine_rig import Rig

TINY, SLOW = "tiny", "slow"


def task(seq: int, function_id: str = TINY, body: bytes = b"body", **more: Any) -> Task:
    return Task(seq, f"11111111-2222-3333-4444-{seq:012d}", function_id, body, **more)


def some(*seqs: int) -> list[Task]:
    return [task(seq) for seq in seqs]


def seqs(found: list[Task]) -> list[int]:
    return [one.seq for one in found]


@pytest.fixture(name="new_worker")
def _new_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def build(room: int | None = None) -> Worker:
        made.append(Worker(len(made), room, tmp_path))
        return made[-1]

    before = set(Path("/proc/self/fd").iterdir())
    yield build
    for worker in made:
        worker.close()
    assert set(Path("/proc/self/fd").iterdir()) <= before  # the claims are closed, too


@pytest.fixture(name="worker")
def _worker(new_worker: Callable[..., Worker]) -> Worker:
    return new_worker()


@pytest.fixture(name="pace")
def _pace() -> Pace:
    pace = Pace(enabled=True)
    for _ in range(20):
        pace.ran(TINY, 0.00001)
        pace.ran(SLOW, 1.0)
    return pace


def take_all(inbox: Inbox) -> list[int]:
    """What a worker begins until nothing is there."""
    begun: list[int] = []
    try:
        while (one := inbox.take(socket.MSG_DONTWAIT)) is not None:
            begun.append(one.seq)
    except BlockingIOError:
        pass
    return begun


def taken(inbox: Inbox) -> int:
    one = inbox.take(socket.MSG_DONTWAIT)
    assert one is not None
    return one.seq


class TestTheWay:
    def test_tasks_come_out_as_they_went_in(self, worker: Worker) -> None:
        names = ("a.B", "c.Ü")
        sent = [task(1, body=b""), task(2, body=b"x" * 5000, result_serializers=names), task(3)]
        assert worker.send(sent, True)
        assert worker.send([task(4, body=b"y" * 100_000, result_serializers=names)], False)
        assert worker.send([task(5)], False)
        inbox = Inbox(worker.far)
        got = [inbox.take(socket.MSG_DONTWAIT) for _ in range(5)]
        assert [
            (one.seq, one.task_id, one.body, one.result_serializers, one.tiny) for one in got if one
        ] == [
            (one.seq, one.task_id, one.body, one.result_serializers, one.seq < 4)
            for one in (*sent, task(4, body=b"y" * 100_000, result_serializers=names), task(5))
        ]
        with pytest.raises(BlockingIOError):
            inbox.take(socket.MSG_DONTWAIT)

    def test_the_end_comes_after_what_was_sent_before(self, worker: Worker) -> None:
        worker.send(some(1, 2), True)
        worker.leave()
        inbox = Inbox(worker.far)
        assert [taken(inbox), taken(inbox)] == [1, 2]
        assert inbox.take() is None

    def test_a_packet_without_room_is_not_sent(self, worker: Worker) -> None:
        seq = 0
        while worker.send([task(seq, body=b"x" * 9000), task(seq + 1, body=b"x" * 9000)], True):
            seq += 2
            assert seq < 10_000
        assert worker.full
        assert list(worker.given) == list(range(seq))
        assert take_all(Inbox(worker.far)) == list(range(seq))

    def test_the_size_is_what_a_packet_holds(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            one = task(1, body=b"xyz", result_serializers=("a.B", "c.Ü"))
            packets.send_task(
                ours,
                packets.TaskPacket(
                    one.seq, one.task_id, one.result_serializers, one.body, tiny=True
                ),
            )
            packet, _handles = packets.receive(theirs)
        assert len(packet) == packets.size(one.body, one.result_serializers)


class TestTakingBack:
    def test_unread_packets_come_back_whole_and_in_order(self, worker: Worker) -> None:
        worker.send(some(1, 2, 3), True)
        worker.send(some(4), True)
        worker.send(some(5, 6), True)
        assert seqs(worker.take_back(2)) == [1, 2, 3]
        assert list(worker.given) == [4, 5, 6]
        assert seqs(worker.take_back()) == [4, 5, 6]
        assert take_all(Inbox(worker.far)) == []

    def test_what_is_read_and_not_begun_comes_back_the_last_first(self, worker: Worker) -> None:
        worker.send(some(1, 2, 3, 4), True)
        inbox = Inbox(worker.far)
        assert taken(inbox) == 1
        assert seqs(worker.take_back(1)) == [4]
        assert taken(inbox) == 2
        assert seqs(worker.take_back()) == [3]
        assert list(worker.given) == [1, 2]
        worker.send(some(4, 3), True)
        assert take_all(inbox) == [4, 3]

    def test_read_and_unread_come_back_in_order(self, worker: Worker) -> None:
        worker.send(some(1, 2, 3), True)
        worker.send(some(4, 5), True)
        inbox = Inbox(worker.far)
        assert taken(inbox) == 1
        assert seqs(worker.take_back()) == [2, 3, 4, 5]
        assert take_all(inbox) == []

    def test_nothing_of_a_packet_needs_to_have_begun(self, worker: Worker) -> None:
        worker.send(some(1, 2), True)
        inbox = Inbox(worker.far)
        packet, handles = packets.receive(worker.far)
        inbox._together.extend(packets.read_tasks(packet, [])[0])
        inbox._claims = handles[0]
        assert seqs(worker.take_back()) == [1, 2]
        assert seqs(worker.take_back()) == []
        assert take_all(inbox) == []

    def test_after_all_came_back_the_next_comes_alone(self, worker: Worker) -> None:
        worker.send(some(1, 2), True)
        inbox = Inbox(worker.far)
        assert taken(inbox) == 1
        worker.take_back()
        assert seqs(worker.take_back(1)) == []
        worker.send(some(7), True)
        assert seqs(worker.take_back(1)) == [7]
        worker.send(some(7), True)
        assert take_all(inbox) == [7]

    def test_room_counts_what_came_back(self, new_worker: Callable[..., Worker]) -> None:
        worker = new_worker(room=5)
        worker.send(some(1, 2, 3), True)
        assert worker.room == 2
        inbox = Inbox(worker.far)
        taken(inbox)
        worker.take_back()
        assert worker.room == 4
        assert take_all(inbox) == []

    def test_each_task_is_begun_or_comes_back_and_never_both(self, worker: Worker) -> None:
        rounds, together = 300, 20
        begun: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work() -> None:
            inbox = Inbox(worker.far)
            while (one := inbox.take()) is not None:
                begun.put(one.seq)

        thread = threading.Thread(target=work)
        thread.start()
        there: list[int] = []
        back: list[int] = []
        for number in range(rounds):
            first = number * together
            assert worker.send(some(*range(first, first + together)), True)
            if number % 2:
                there.append(begun.get(timeout=60))
            back += seqs(worker.take_back(1 + number % 3 * 10))
            while len(there) + len(back) < first + together:
                there.append(begun.get(timeout=60))
            worker.given.clear()
        worker.leave()
        thread.join(60)
        assert begun.empty()
        assert sorted(there + back) == list(range(rounds * together))
        assert there
        assert back


class TestHandingOut:
    def test_tiny_ones_are_shared_and_travel_together(
        self, new_worker: Callable[..., Worker], pace: Pace
    ) -> None:
        one, other = new_worker(), new_worker()
        pending = deque(some(*range(21)))
        hand_out(pending, [one, other], pace)
        assert not pending
        assert (len(one.given), len(other.given)) == (11, 10)
        packet, handles = packets.receive(one.far)
        packets.close_all(handles)
        assert packets.seqs_of(packet) == list(range(11))

    def test_a_worker_gets_more_when_half_is_done(self, worker: Worker, pace: Pace) -> None:
        pending = deque(some(*range(100)))
        hand_out(pending, [worker], pace)
        assert len(worker.given) == 32
        for seq in range(15):
            del worker.given[seq]
        hand_out(pending, [worker], pace)
        assert len(worker.given) == 17
        del worker.given[15], worker.given[16]
        hand_out(pending, [worker], pace)
        assert len(worker.given) == 32
        assert len(pending) == 51

    def test_others_go_alone(self, worker: Worker, pace: Pace) -> None:
        pending = deque([task(1, SLOW), task(2, SLOW), task(3)])
        hand_out(pending, [worker], pace)
        assert list(worker.given) == [1, 2, 3]
        packet, handles = packets.receive(worker.far)
        assert packets.seqs_of(packet) == [1]
        assert not handles

    def test_what_is_not_tiny_ends_a_packet(self, worker: Worker, pace: Pace) -> None:
        pending = deque([*some(1, 2), task(3, SLOW), task(4)])
        hand_out(pending, [worker], pace)
        assert seqs([*pending]) == [3, 4]  # two are in hand: a slow one waits here
        packet, handles = packets.receive(worker.far)
        packets.close_all(handles)
        assert packets.seqs_of(packet) == [1, 2]

    def test_a_packet_holds_as_many_as_its_slowest_allows(self, worker: Worker, pace: Pace) -> None:
        for _ in range(20):
            pace.ran("some ms", 0.004)
        pending = deque([*some(1, 2, 3), *(task(seq, "some ms") for seq in range(4, 12))])
        hand_out(pending, [worker], pace)
        packet, handles = packets.receive(worker.far)
        packets.close_all(handles)
        assert packets.seqs_of(packet) == [1, 2, 3, 4]

    def test_a_packet_is_small(self, worker: Worker, pace: Pace) -> None:
        body = b"x" * 10_000
        hand_out(deque(task(seq, body=body) for seq in range(9)), [worker], pace)
        while True:
            try:
                packet, handles = packets.receive(worker.far, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            packets.close_all(handles)
            assert len(packets.seqs_of(packet)) == 3
            assert len(packet) <= packets.TOGETHER_LIMIT

    def test_a_worker_gets_no_more_than_it_may_still_run(
        self, new_worker: Callable[..., Worker], pace: Pace
    ) -> None:
        worker = new_worker(room=3)
        pending = deque(some(*range(10)))
        hand_out(pending, [worker], pace)
        assert list(worker.given) == [0, 1, 2]
        assert len(pending) == 7

    def test_an_idle_worker_gets_what_another_has_read(
        self, new_worker: Callable[..., Worker]
    ) -> None:
        busy, idle = new_worker(), new_worker()
        busy.send(some(1, 2, 3), True)
        inbox = Inbox(busy.far)
        assert taken(inbox) == 1
        assert seqs(take_for_idle([busy, idle])) == [3]
        assert seqs(take_for_idle([busy, idle])) == [2]
        assert take_for_idle([busy, idle]) == []
        assert take_all(inbox) == []


class TestInTheEngine:
    """A function that was tiny each time and now waits, with others behind it in its packet."""

    @pytest.fixture(name="rigs")
    def _rigs(self, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
        made: list[Rig] = []

        def build(workers: int) -> Rig:
            engine = ProcessPoolEngine(ProcessPoolSettings(max_workers=workers))
            made.append(Rig(engine, tmp_path / "run", 120.0))
            (tmp_path / "run").mkdir()
            return made[-1].start()

        yield build
        for rig in made:
            rig.engine.stop(5.0)

    def make_tiny(self, rig: Rig, folder: Path) -> None:
        """Until the function's tasks travel together."""
        (folder / "open").touch()
        for _ in range(100):
            rig.wait_for([self.add(rig, folder, "open") for _ in range(50)])
            if rig.slots > 8:
                return
        pytest.fail("5,000 runs, and the function does not count as tiny")

    def add(self, rig: Rig, folder: Path, gate: str) -> int:
        return rig.add(tasks.touch_and_wait, str(folder / f"of-{gate}"), str(folder / gate))

    def test_the_others_run_elsewhere(self, rigs: Callable[..., Rig], tmp_path: Path) -> None:
        rig = rigs(2)
        self.make_tiny(rig, tmp_path)
        slow = self.add(rig, tmp_path, "shut")
        others = [self.add(rig, tmp_path, "open") for _ in range(20)]
        rig.wait_for(others)
        assert slow not in rig.outcomes
        (tmp_path / "shut").touch()
        assert rig.wait_for([slow])[0].kind is OutcomeKind.DONE

    def test_the_others_can_be_cancelled(self, rigs: Callable[..., Rig], tmp_path: Path) -> None:
        rig = rigs(1)
        self.make_tiny(rig, tmp_path)
        rig.give_back_again = False
        slow = self.add(rig, tmp_path, "shut")
        others = [self.add(rig, tmp_path, "open") for _ in range(5)]
        rig.feed()
        rig.wait_for_file(tmp_path / "of-shut")
        rig.engine.cancel([slow, *others])
        assert {one.kind for one in rig.wait_for(others)} == {OutcomeKind.NOT_BEGUN}
        (tmp_path / "shut").touch()
        assert rig.wait_for([slow])[0].kind is OutcomeKind.DONE

    def test_its_worker_takes_only_it_along(self, rigs: Callable[..., Rig], tmp_path: Path) -> None:
        rig = rigs(1)
        self.make_tiny(rig, tmp_path)
        slow = self.add(rig, tmp_path, "shut")
        others = [self.add(rig, tmp_path, "open") for _ in range(5)]
        rig.feed()
        psutil.Process(int(rig.wait_for_file(tmp_path / "of-shut"))).kill()
        assert rig.wait_for([slow])[0].kind is OutcomeKind.LOST
        assert {one.kind for one in rig.wait_for(others)} == {OutcomeKind.DONE}
