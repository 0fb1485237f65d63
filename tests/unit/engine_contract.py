"""What every engine must do: one suite, run on all of them.

A test module for an engine subclasses `EngineContract`, gives `make_engine`, and pytest runs all
tests below on it. The class attributes say where engines may differ. `Rig` plays the agent: it
keeps given and unfinished tasks within the engine's slots, and gives handed back tasks again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from task_payloads import make_task, value_of

from cep.engines.base import Engine, EngineDown, EngineEvent, EngineRun, Outcomes, SlotsChanged
from cep.engines.base import Submission
from cep.model import Outcome, OutcomeKind, Task
from cep.wire import result
from cep.wire.result import unpack_result

ENDPOINT_ID = "1f0e9a52-0000-4000-8000-000000000001"
MARK = "CEP_ENDPOINT_DIR"

# -- functions that run in workers; they travel as source and import what they need ------------


def add(a, b):
    return a + b


def touch_and_wait(started, gate):
    """Say that the task has begun, then wait for the file `gate` (or for ever)."""
    import os
    import time

    open(started, "w").write(str(os.getpid()))
    until = time.monotonic() + 100
    while not os.path.exists(gate) and time.monotonic() < until:
        time.sleep(0.01)
    return os.getpid()


def append_line(path, text):
    with open(path, "a") as file:
        file.write(text + "\n")
    return text


def raise_value_error(text):
    def inner():
        raise ValueError(text)

    inner()


def raise_system_exit():
    import sys

    sys.exit(3)


def raise_keyboard_interrupt():
    raise KeyboardInterrupt


def exit_at_once():
    import os

    os._exit(7)


def surroundings():
    import os
    import subprocess
    import time

    time.sleep(0.05)  # so that tasks on several workers overlap
    return {
        "uuid": os.environ.get("GC_TASK_UUID"),
        "sandbox": os.environ.get("GC_TASK_SANDBOX_DIR"),
        "copied": os.environ.copy().get("GC_TASK_UUID"),
        "child": subprocess.run(
            ["sh", "-c", "echo $GC_TASK_UUID"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "cwd": os.getcwd(),
        "pid": os.getpid(),
        "mark": os.environ.get("CEP_ENDPOINT_DIR"),
    }


def spin(seconds):
    import time

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.005)
    return "not interrupted"


def make_bytes(count):
    return b"x" * count


def print_much(lines):
    import os
    import sys

    for number in range(lines):
        print("line", number, "\0\1\2 payload")
    sys.stdout.flush()
    os.write(1, b"\0" * 4096)
    return lines


def hostile_value(path):
    """A value that writes its reader's pid into `path` when it is unpickled."""

    class Trap:
        def __reduce__(self):
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    return Trap()


def raise_hostile(path):
    class Trap:
        def __reduce__(self):
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    class Bad(Exception):
        def __str__(self):
            raise RuntimeError("no text")

        def __reduce__(self):
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    raise Bad(Trap())


def unpicklable():
    class Refuses:
        def __reduce__(self):
            raise SystemExit("cannot be pickled")

    return Refuses()


class Trap:
    """An argument that writes its reader's pid into a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        code = f"__import__('builtins').open({self.path!r}, 'a').write(str(__import__('os').getpid()) + ' ')"
        return (eval, (code,))


class Rig:
    """Plays the agent for one engine.

    Args:
        engine: Not yet started.
        run_dir: The endpoint's directory.
        deadline_s: How long any wait may last.
    """

    def __init__(self, engine: Engine, run_dir: Path, deadline_s: float) -> None:
        self.engine = engine
        self.run = EngineRun(
            endpoint_id=ENDPOINT_ID,
            endpoint_name="contract",
            run_dir=run_dir,
            start_slots=run_dir / "start-slots",
            oversized_results=run_dir / "oversized_results",
        )
        self.deadline_s = deadline_s
        self.events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self.slots = 0
        self.given: dict[int, Task] = {}
        self.backlog: deque[Task] = deque()
        self.outcomes: dict[int, Outcome] = {}
        self.order: list[int] = []
        self.downs: list[EngineDown] = []
        self.give_back_again = True
        self._seq = 0

    def start(self) -> Rig:
        self.engine.start(self.run, self.events.put)
        return self

    def task(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Task:
        self._seq += 1
        return make_task(self._seq, function, *args, **kwargs)

    def add(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> int:
        """Put a task into the backlog; return its sequence number."""
        task = self.task(function, *args, **kwargs)
        self.backlog.append(task)
        return task.seq

    def feed(self) -> None:
        """Give as much of the backlog as the engine's slots allow."""
        room = max(0, self.slots - len(self.given))
        batch = [self.backlog.popleft() for _ in range(min(room, len(self.backlog)))]
        self.given.update((task.seq, task) for task in batch)
        if batch or self.backlog:
            self.engine.submit(Submission(tuple(batch), waiting=len(self.backlog)))

    def pump_until(self, done: Callable[[], bool], what: str) -> None:
        """Handle events until something is so, or fail at the deadline."""
        until = time.monotonic() + self.deadline_s
        self.feed()
        while not done():
            left = until - time.monotonic()
            try:
                if left <= 0:
                    raise queue.Empty
                self.handle(self.events.get(timeout=left))
            except queue.Empty:
                pytest.fail(
                    f"no {what} within {self.deadline_s} s; status {self.engine.status()}, "
                    f"given {sorted(self.given)}, backlog {len(self.backlog)}, {self.downs}"
                )
            self.feed()

    def handle(self, event: EngineEvent) -> None:
        if isinstance(event, SlotsChanged):
            self.slots = event.slots
        elif isinstance(event, EngineDown):
            self.downs.append(event)
        else:
            self._take(event)

    def _take(self, event: Outcomes) -> None:
        for outcome in event.outcomes:
            task = self.given.pop(outcome.seq, None)
            assert task is not None, f"an outcome for task {outcome.seq}, which is not given"
            if outcome.kind is OutcomeKind.NOT_BEGUN and self.give_back_again:
                self.backlog.appendleft(task)
                continue
            assert outcome.seq not in self.outcomes, f"a second outcome for {outcome.seq}"
            self.outcomes[outcome.seq] = outcome
            self.order.append(outcome.seq)

    def wait_for(self, seqs: Sequence[int]) -> list[Outcome]:
        """Wait for the outcomes of these tasks, in their order."""
        self.pump_until(
            lambda: all(seq in self.outcomes for seq in seqs), f"outcome of {list(seqs)[:5]}"
        )
        return [self.outcomes[seq] for seq in seqs]

    def call(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Outcome:
        """Run one task to its end."""
        return self.wait_for([self.add(function, *args, **kwargs)])[0]

    def value(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Run one task and return what it returned."""
        outcome = self.call(function, *args, **kwargs)
        assert outcome.kind is OutcomeKind.DONE, outcome
        return value_of(outcome.result)

    def error(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Run one task and return its error result."""
        outcome = self.call(function, *args, **kwargs)
        assert outcome.kind is OutcomeKind.DONE, outcome
        opened = unpack_result(outcome.result)
        assert opened.is_error
        return opened

    def wait_for_file(self, path: Path) -> str:
        """Pump events until a task has written this file; return its text."""
        until = time.monotonic() + self.deadline_s
        self.feed()
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < until, f"{path.name} was not written"
            with contextlib.suppress(queue.Empty):
                self.handle(self.events.get(timeout=0.02))
            self.feed()
        return path.read_text()

    def drain_events(self) -> list[EngineEvent]:
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self.events.get_nowait())
        return found


def marked_processes(run_dir: Path) -> list[psutil.Process]:
    """All processes that carry the endpoint's mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(run_dir.resolve()):
                found.append(process)
    return found


class EngineContract:
    """Subclass this as `Test...`; every method is a test."""

    deadline_s: ClassVar[float] = 30.0
    isolated: ClassVar[bool] = True  # workers are processes; they can be killed one by one
    changes_directory: ClassVar[bool] = True  # tasks run in the working directory
    local_slots: ClassVar[bool] = True  # workers write start slots
    has_cancel_before_start: ClassVar[bool] = True  # tasks wait inside the engine at times
    takes_resources: ClassVar[bool] = False  # a resource specification is acceptable

    def make_engine(self, *, workers: int = 2, **common: Any) -> Engine:
        """Build an engine with that many workers and these keys of CommonEngineSettings."""
        raise NotImplementedError

    @pytest.fixture
    def rigs(self, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
        """A factory of rigs; all are stopped at the end, and nothing of them may be left."""
        before = set(threading.enumerate())
        built: list[Rig] = []

        def build(**settings: Any) -> Rig:
            run_dir = tmp_path / f"endpoint-{len(built)}"
            run_dir.mkdir()
            rig = Rig(self.make_engine(**settings), run_dir, self.deadline_s)
            built.append(rig)
            return rig

        yield build
        for rig in built:
            rig.engine.stop(5.0)
        for rig in built:
            left = marked_processes(rig.run.run_dir)
            psutil.wait_procs(left, timeout=5)
            left = [process for process in left if process.is_running()]
            assert not left, f"processes left behind: {left}"
        for thread in set(threading.enumerate()) - before:
            # A thread cannot be killed: one that runs a user's function may outlive the engine.
            thread.join(timeout=5)
            assert not thread.is_alive(), f"thread left behind: {thread}"

    # -- the plain path --

    def test_slots_are_announced_after_the_start(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        rig.add(add, 1, 2)  # demand, for engines that start workers on demand
        rig.pump_until(lambda: rig.slots > 0, "SlotsChanged")

    def test_a_task_runs_and_its_result_says_where(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        outcome = rig.call(add, 40, b=2)
        assert outcome.kind is OutcomeKind.DONE
        opened = unpack_result(outcome.result)
        assert value_of(outcome.result) == 42
        assert opened.details is not None
        assert opened.details["endpoint_id"] == ENDPOINT_ID
        assert set(opened.details) == {
            "os",
            "dill_version",
            "python_version",
            "globus_compute_sdk_version",
            "endpoint_id",
        }
        assert [one.state for one in opened.transitions] == ["execution-start", "execution-end"]
        assert opened.transitions[0].timestamp_ns <= opened.transitions[1].timestamp_ns

    def test_many_tasks_all_come_back_once(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        seqs = [rig.add(add, number, 1) for number in range(300)]
        outcomes = rig.wait_for(seqs)
        assert [value_of(one.result) for one in outcomes] == list(range(1, 301))

    def test_one_worker_runs_tasks_in_the_order_given(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs(workers=1).start()
        path = tmp_path / "lines"
        seqs = [rig.add(append_line, str(path), str(number)) for number in range(60)]
        rig.wait_for(seqs)
        assert path.read_text().split() == [str(number) for number in range(60)]

    def test_a_long_task_holds_up_no_other(self, rigs: Callable[..., Rig], tmp_path: Path) -> None:
        rig = rigs(workers=2).start()
        started, gate = tmp_path / "started", tmp_path / "gate"
        blocker = rig.add(touch_and_wait, str(started), str(gate))
        others = [rig.add(add, number, 0) for number in range(20)]
        rig.wait_for(others)
        assert blocker not in rig.outcomes
        gate.touch()
        assert rig.wait_for([blocker])[0].kind is OutcomeKind.DONE

    def test_five_megabytes_come_and_go(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        assert rig.value(add, b"y" * 5_000_000, b"z") == b"y" * 5_000_000 + b"z"

    # -- errors of the user's code --

    def test_an_exception_comes_back_with_its_traceback(self, rigs: Callable[..., Rig]) -> None:
        opened = rigs().start().error(raise_value_error, "the reason")
        assert opened.error_code == result.REMOTE_EXECUTION_ERROR
        assert "ValueError: the reason" in opened.data
        assert "in raise_value_error" in opened.data
        assert "cep/worker" not in opened.data

    @pytest.mark.parametrize("function", [raise_system_exit, raise_keyboard_interrupt])
    def test_a_base_exception_is_an_error_result_and_the_worker_lives(
        self, rigs: Callable[..., Rig], function: Callable[..., Any]
    ) -> None:
        rig = rigs(workers=1).start()
        opened = rig.error(function)
        assert opened.error_code == result.REMOTE_EXECUTION_ERROR
        assert ("SystemExit" in opened.data) or ("KeyboardInterrupt" in opened.data)
        assert rig.value(add, 1, 1) == 2

    def test_a_result_that_cannot_be_pickled_is_an_error(self, rigs: Callable[..., Rig]) -> None:
        opened = rigs().start().error(unpicklable)
        assert opened.error_code == result.REMOTE_EXECUTION_ERROR

    def test_garbage_as_a_body_is_an_error_result(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        task = Task(seq=990, task_id=str(uuid.uuid4()), function_id="f", body=os.urandom(200))
        rig.backlog.append(task)
        (outcome,) = rig.wait_for([990])
        assert unpack_result(outcome.result).task_id == task.task_id
        assert unpack_result(outcome.result).is_error
        assert rig.value(add, 1, 1) == 2

    def test_output_of_a_task_does_no_harm(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        assert rig.value(print_much, 2000) == 2000
        assert rig.value(add, 1, 1) == 2

    def test_fault_15_a_result_above_the_limit_is_kept_on_disk(
        self, rigs: Callable[..., Rig]
    ) -> None:
        rig = rigs(result_size_limit=100_000).start()
        opened = rig.error(make_bytes, 200_000)
        assert opened.error_code == result.MAX_RESULT_SIZE
        assert opened.data.startswith("MaxResultSizeExceeded(")
        kept = rig.run.oversized_results / opened.task_id
        assert str(kept) in opened.data
        assert kept.stat().st_mode & 0o777 == 0o600
        assert len(kept.read_text()) > 200_000

    # -- the surroundings of a task --

    def test_fault_04_each_task_sees_its_own_id(self, rigs: Callable[..., Rig]) -> None:
        here = Path.cwd()
        rig = rigs(workers=4).start()
        tasks = [rig.task(surroundings) for _ in range(8)]
        rig.backlog.extend(tasks)
        rig.wait_for([task.seq for task in tasks])
        for task in tasks:
            seen = value_of(rig.outcomes[task.seq].result)
            assert seen["uuid"] == seen["copied"] == seen["child"] == task.task_id
            assert seen["sandbox"] is None
            if self.changes_directory:
                assert seen["cwd"] == str((rig.run.run_dir / "tasks_working_dir").resolve())
        assert Path.cwd() == here
        assert "GC_TASK_UUID" not in os.environ

    def test_a_sandbox_is_one_directory_per_task(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs(run_in_sandbox=True, working_dir="boxes").start()
        tasks = [rig.task(surroundings) for _ in range(4)]
        rig.backlog.extend(tasks)
        rig.wait_for([task.seq for task in tasks])
        for task in tasks:
            seen = value_of(rig.outcomes[task.seq].result)
            expected = rig.run.run_dir.resolve() / "boxes" / task.task_id
            assert seen["sandbox"] == str(expected)
            assert expected.is_dir()
            if self.changes_directory:
                assert seen["cwd"] == str(expected)

    def test_the_task_timeout_raises_in_the_task(
        self, rigs: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GC_TASK_TIMEOUT", "0.3")
        opened = rigs().start().error(spin, 20)
        assert "AppTimeout" in opened.data

    def test_the_result_is_written_as_the_task_asks(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        json_data = ("globus_compute_sdk.serialize.concretes.JSONData",)
        outcome = rig.call(add, [1], [2], result_serializers=json_data)
        assert unpack_result(outcome.result).data == "11\n[1, 2]"

    def test_a_resource_specification_is_refused_by_name(self, rigs: Callable[..., Rig]) -> None:
        if self.takes_resources:
            pytest.skip("this engine takes resource specifications")
        outcome = rigs().start().call(add, 1, 1, resource_specification='{"num_nodes": 2}')
        assert outcome.kind is OutcomeKind.REFUSED
        assert outcome.code == result.TASK_REFUSED
        assert "resource_specification" in outcome.reason

    # -- safety --

    def test_no_payload_is_opened_in_the_agent(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        if not self.isolated:
            pytest.skip("threads of the agent run the tasks, the one stated exception")
        rig = rigs().start()
        trail = tmp_path / "trail"
        rig.call(add, Trap(trail), 1)
        rig.call(hostile_value, str(trail))
        rig.call(raise_hostile, str(trail))
        pids = set(trail.read_text().split()) if trail.exists() else set()
        assert pids, "the trap in the arguments did not spring in the worker either"
        assert str(os.getpid()) not in pids

    def test_a_hostile_exception_is_an_error_result(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        opened = rigs().start().error(raise_hostile, str(tmp_path / "trail"))
        assert opened.error_code == result.REMOTE_EXECUTION_ERROR
        assert "Bad" in opened.data

    # -- workers that die --

    def test_fault_08_a_killed_worker_costs_only_the_task_it_ran(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        if not self.isolated:
            pytest.skip("threads cannot be killed")
        rig = rigs(workers=2).start()
        gate = tmp_path / "gate"
        victim = rig.add(touch_and_wait, str(tmp_path / "a"), str(gate))
        survivor = rig.add(touch_and_wait, str(tmp_path / "b"), str(gate))
        others = [rig.add(add, number, 0) for number in range(6)]
        pid = int(rig.wait_for_file(tmp_path / "a"))
        rig.wait_for_file(tmp_path / "b")
        os.kill(pid, signal.SIGKILL)
        lost = rig.wait_for([victim])[0]
        assert lost.kind is OutcomeKind.LOST
        assert lost.code == result.WORKER_LOST
        assert lost.reason
        gate.touch()
        for outcome in rig.wait_for([survivor, *others]):
            assert outcome.kind is OutcomeKind.DONE

    def test_a_task_that_ends_its_process_is_lost_and_the_next_runs(
        self, rigs: Callable[..., Rig]
    ) -> None:
        if not self.isolated:
            pytest.skip("it would end the agent, as user code in threads may")
        rig = rigs(workers=1).start()
        outcome = rig.call(exit_at_once)
        assert outcome.kind is OutcomeKind.LOST
        assert outcome.code == result.WORKER_LOST
        assert rig.value(add, 1, 1) == 2

    # -- cancel, status, stop --

    def test_cancelled_tasks_that_have_not_begun_come_back(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        if not self.has_cancel_before_start:
            pytest.skip("this engine hands tasks to workers at once")
        rig = rigs(workers=1).start()
        rig.give_back_again = False
        gate = tmp_path / "gate"
        running = rig.add(touch_and_wait, str(tmp_path / "started"), str(gate))
        rig.wait_for_file(tmp_path / "started")
        waiting = rig.add(add, 1, 1)
        rig.pump_until(lambda: waiting in rig.given, "room for a second task")
        rig.engine.cancel([running, waiting, 123456])
        assert rig.wait_for([waiting])[0].kind is OutcomeKind.NOT_BEGUN
        gate.touch()
        assert rig.wait_for([running])[0].kind is OutcomeKind.DONE

    def test_the_status_tells_the_truth(self, rigs: Callable[..., Rig], tmp_path: Path) -> None:
        rig = rigs(workers=2).start()
        assert rig.value(add, 1, 1) == 2
        gate = tmp_path / "gate"
        busy = rig.add(touch_and_wait, str(tmp_path / "started"), str(gate))
        rig.wait_for_file(tmp_path / "started")
        status = rig.engine.status()
        assert status.slots == rig.slots
        assert status.workers >= 1
        assert status.idle_workers <= status.workers - 1
        assert status.report["total_workers"] == status.workers
        assert status.report["engine_type"]
        assert status.summary
        gate.touch()
        rig.wait_for([busy])

    def test_stop_meets_its_deadline_with_a_blocked_task(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs(workers=1).start()
        gate = tmp_path / "gate"
        blocked = rig.add(touch_and_wait, str(tmp_path / "started"), str(gate))
        rig.wait_for_file(tmp_path / "started")
        began = time.monotonic()
        rig.engine.stop(3.0)
        assert time.monotonic() - began < 4.0
        for event in rig.drain_events():
            rig.handle(event)
        gate.touch()  # ends a thread that nobody can kill
        assert rig.outcomes[blocked].kind is OutcomeKind.LOST
        assert rig.outcomes[blocked].code == result.WORKER_LOST

    def test_nothing_is_delivered_after_stop(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        for number in range(50):
            rig.add(add, number, 0)
        rig.feed()
        rig.engine.stop(5.0)
        rig.drain_events()
        rig.engine.stop(5.0)
        with pytest.raises(queue.Empty):
            rig.events.get(timeout=0.1)

    def test_stop_before_start_is_harmless(self, rigs: Callable[..., Rig]) -> None:
        rigs().engine.stop(1.0)

    def test_an_empty_submission_is_allowed(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        rig.engine.submit(Submission((), waiting=0))
        assert rig.value(add, 1, 1) == 2

    # -- marks --

    def test_workers_carry_the_mark_of_their_endpoint(self, rigs: Callable[..., Rig]) -> None:
        if not self.isolated:
            pytest.skip("no processes")
        rig = rigs().start()
        seen = rig.value(surroundings)
        assert seen["mark"] == str(rig.run.run_dir.resolve())
        assert seen["pid"] in {process.pid for process in marked_processes(rig.run.run_dir)}

    def test_begun_tasks_are_written_to_start_slots(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        if not self.local_slots:
            pytest.skip("workers may be on other hosts")
        from cep.worker.slots import begun_seqs

        rig = rigs(workers=1).start()
        gate = tmp_path / "gate"
        running = rig.add(touch_and_wait, str(tmp_path / "started"), str(gate))
        rig.wait_for_file(tmp_path / "started")
        waiting = rig.add(add, 1, 1)
        rig.feed()
        assert rig.run.start_slots is not None
        begun = begun_seqs(rig.run.start_slots)
        assert running in begun
        assert waiting not in begun
        gate.touch()
        rig.wait_for([running, waiting])
        assert {running, waiting} <= begun_seqs(rig.run.start_slots)
