"""What every engine must do: one suite, run on all of them.

A test module for an engine has a class `Test...(EngineContract, ...)` that gives `make_engine` and
adds those of the classes below that say something about this engine; pytest runs all their tests
on it. `Rig` plays the agent: it keeps given and unfinished tasks within the engine's slots, and
gives handed back tasks again.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from cep.engines.base import Engine, Submission
from cep.model import OutcomeKind, Task
from cep.wire import result
from cep.wire.result import unpack_result
from cep.worker.slots import begun_seqs
from tests.unit.engine_rig import ENDPOINT_ID, Rig, marked_processes
from tests.unit.engine_tasks import (
    Trap,
    add,
    append_line,
    exit_at_once,
    hostile_value,
    make_bytes,
    print_much,
    raise_hostile,
    raise_keyboard_interrupt,
    raise_system_exit,
    raise_value_error,
    spin,
    surroundings,
    touch_and_wait,
    unpicklable,
)
from tests.unit.task_payloads import value_of


class EngineContract:
    """Subclass this as `Test...`; every method is a test."""

    deadline_s: ClassVar[float] = 60.0
    changes_directory: ClassVar[bool] = True  # tasks run in the working directory

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
            rig.engine.stop(30.0)
        for rig in built:
            left = marked_processes(rig.run.run_dir)
            psutil.wait_procs(left, timeout=60)
            left = [process for process in left if process.is_running()]
            assert not left, f"processes left behind: {left}"
        for thread in set(threading.enumerate()) - before:
            # A thread cannot be killed: one that runs a user's function may outlive the engine.
            thread.join(timeout=60)
            assert not thread.is_alive(), f"thread left behind: {thread}"

    # -- the plain path --

    def test_slots_are_announced_after_the_start(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        rig.add(add, 1, 2)  # demand, for engines that start workers on demand
        rig.pump_until(lambda: rig.slots > 0, "SlotsChanged")

    def test_a_sign_of_life_comes_while_nothing_else_happens(
        self, rigs: Callable[..., Rig]
    ) -> None:
        rig = rigs().start()
        came_round = threading.Event()
        rig.engine.beat(came_round.set)
        assert came_round.wait(self.deadline_s)

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

    # -- safety --

    def test_a_hostile_exception_is_an_error_result(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        opened = rigs().start().error(raise_hostile, str(tmp_path / "trail"))
        assert opened.error_code == result.REMOTE_EXECUTION_ERROR
        assert "Bad" in opened.data

    # -- cancel, status, stop --

    def test_the_status_tells_the_truth(self, rigs: Callable[..., Rig], tmp_path: Path) -> None:
        rig = rigs(workers=2).start()
        assert rig.value(add, 1, 1) == 2
        gate = tmp_path / "gate"
        busy = rig.add(touch_and_wait, str(tmp_path / "started"), str(gate))
        rig.wait_for_file(tmp_path / "started")
        rig.pump_until(lambda: rig.engine.status().slots == rig.slots, "its slots, as told")
        status = rig.engine.status()
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
        assert time.monotonic() - began < 60.0  # the task would go on for 100 s
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


class IsolatedContract:
    """For engines whose workers are processes."""

    def test_no_payload_is_opened_in_the_agent(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs().start()
        trail = tmp_path / "trail"
        rig.call(add, Trap(trail), 1)
        rig.call(hostile_value, str(trail))
        rig.call(raise_hostile, str(trail))
        pids = set(trail.read_text().split()) if trail.exists() else set()
        assert pids, "the trap in the arguments did not spring in the worker either"
        assert str(os.getpid()) not in pids

    def test_fault_08_a_killed_worker_costs_only_the_task_it_ran(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
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
        rig = rigs(workers=1).start()
        outcome = rig.call(exit_at_once)
        assert outcome.kind is OutcomeKind.LOST
        assert outcome.code == result.WORKER_LOST
        assert rig.value(add, 1, 1) == 2

    def test_workers_carry_the_mark_of_their_endpoint(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        seen = rig.value(surroundings)
        assert seen["mark"] == str(rig.run.run_dir.resolve())
        assert seen["pid"] in {process.pid for process in marked_processes(rig.run.run_dir)}


class RefusesResourcesContract:
    """For engines that have no use for a resource specification."""

    def test_a_resource_specification_is_refused_by_name(self, rigs: Callable[..., Rig]) -> None:
        outcome = rigs().start().call(add, 1, 1, resource_specification='{"num_nodes": 2}')
        assert outcome.kind is OutcomeKind.REFUSED
        assert outcome.code == result.TASK_REFUSED
        assert "resource_specification" in outcome.reason


class QueueContract:
    """For engines that hold tasks which no worker has begun, and can give them back."""

    def test_cancelled_tasks_that_have_not_begun_come_back(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
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


class StartSlotsContract:
    """For engines whose workers run on the agent's host."""

    def test_begun_tasks_are_written_to_start_slots(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
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
