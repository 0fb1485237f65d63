"""The process engine passes the engine contract, and keeps its own promises."""

# Functions that travel as source are plain and import what they need.
# ruff: noqa: PTH123, PTH110, PLW1510

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cep.config.settings import ProcessPoolSettings
from cep.engines import pool_link
from cep.engines.base import Engine
from cep.engines.processes import ProcessPoolEngine
from cep.errors import EngineError
from cep.model import OutcomeKind
from cep.wire import result
from tests.unit import engine_tasks as tasks
from tests.unit.engine_contract import (
    EngineContract,
    IsolatedContract,
    QueueContract,
    RefusesResourcesContract,
    StartSlotsContract,
)
from tests.unit.engine_rig import Rig, marked_processes, wait_until
from tests.unit.task_payloads import value_of


def pid_and_signals():
    import os
    import signal
    import subprocess

    child = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True)
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "session": os.getsid(0),
        "default": signal.getsignal(signal.SIGTERM) is signal.SIG_IGN,
        "ignored_in_children": int(child.stdout.split()[1], 16),
    }


def interrupted_and_well(started, gate):
    import os
    import signal
    import time

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    with open(started, "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(gate):
        time.sleep(0.01)
    return "well"


def end_at(number, last):
    import os

    if number == last:
        os._exit(7)
    return number


def leave_child(path):
    import os
    import subprocess

    child = subprocess.Popen(["sleep", "1000"])
    with open(path, "w") as file:
        file.write(str(child.pid))
    os.kill(os.getpid(), 9)


def sys_path_and_main():
    import os
    import sys

    import __main__

    return sys.path, sorted(vars(__main__)), os.environ.get("SPT_NOENV")


def pool_of(rig: Rig) -> psutil.Process:
    """The process that made the workers."""
    return psutil.Process(rig.value(pid_and_signals)["ppid"])


class TestProcessPoolEngine(
    EngineContract, IsolatedContract, QueueContract, RefusesResourcesContract, StartSlotsContract
):
    """All of the contract, and what only this engine has."""

    def make_engine(self, *, workers: int = 2, **common: Any) -> Engine:
        return ProcessPoolEngine(ProcessPoolSettings(max_workers=workers, **common))

    def test_workers_are_replaced_after_so_many_tasks(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs(workers=2, max_tasks_per_child=3).start()
        seqs = [rig.add(pid_and_signals) for _ in range(18)]
        pids = [value_of(one.result)["pid"] for one in rig.wait_for(seqs)]
        assert len(set(pids)) >= 6
        assert max(pids.count(pid) for pid in pids) <= 3

    def test_a_task_that_dies_at_once_never_runs_twice(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs(workers=2).start()
        path = tmp_path / "lines"
        seqs, deadly = [], []
        for number in range(40):
            if number % 8 == 3:
                deadly.append(rig.add(tasks.exit_at_once))
            else:
                seqs.append(rig.add(tasks.append_line, str(path), str(number)))
        outcomes = rig.wait_for(seqs)
        assert {one.kind for one in outcomes} == {OutcomeKind.DONE}
        lost = rig.wait_for(deadly)
        assert {(one.kind, one.code) for one in lost} == {(OutcomeKind.LOST, result.WORKER_LOST)}
        assert all("exit status 7" in one.reason for one in lost)
        lines = path.read_text().split()
        assert len(lines) == len(set(lines)) == 35

    def test_the_reason_names_the_signal(self, rigs: Callable[..., Rig], tmp_path: Path) -> None:
        outcome = rigs(workers=1).start().call(leave_child, str(tmp_path / "child"))
        assert outcome.kind is OutcomeKind.LOST
        assert "signal 9 (SIGKILL)" in outcome.reason

    def test_results_that_wait_for_others_survive_their_worker(
        self, rigs: Callable[..., Rig]
    ) -> None:
        rig = rigs(workers=1).start()
        run_until_slots(rig, 9, end_at, -1)
        seqs = [rig.add(end_at, number, 6) for number in range(8)]
        kinds = [one.kind for one in rig.wait_for(seqs)]
        assert kinds == [OutcomeKind.DONE] * 6 + [OutcomeKind.LOST] + [OutcomeKind.DONE]

    def test_each_kill_costs_at_most_the_task_that_ran(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs(workers=2).start()
        pool = pool_of(rig)
        path = tmp_path / "lines"
        seqs = [rig.add(tasks.append_line, str(path), str(number)) for number in range(600)]
        for finished in range(40, 560, 40):
            rig.pump_until(lambda least=finished: len(rig.outcomes) > least, "progress")
            workers = pool.children()
            if workers:
                # One that was killed before may be listed, and be reaped before it is hit again.
                with contextlib.suppress(psutil.NoSuchProcess):
                    workers[finished // 40 % len(workers)].kill()
        outcomes = rig.wait_for(seqs)
        lost = [one for one in outcomes if one.kind is OutcomeKind.LOST]
        assert len(lost) <= 13
        assert {one.kind for one in outcomes} <= {OutcomeKind.LOST, OutcomeKind.DONE}
        lines = path.read_text().split()
        assert len(lines) == len(set(lines))  # nothing ran twice
        assert len(lines) >= 600 - len(lost)

    def test_what_a_killed_worker_had_started_dies_with_it(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs(workers=1).start()
        rig.call(leave_child, str(tmp_path / "child"))
        child = int((tmp_path / "child").read_text())
        assert rig.value(tasks.add, 1, 1) == 2  # the death was handled
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan = psutil.Process(child)
            wait_until(lambda: orphan.status() == psutil.STATUS_ZOMBIE)

    def test_a_killed_pool_process_costs_only_running_tasks(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs(workers=2).start()
        pool = pool_of(rig)
        running = rig.add(tasks.touch_and_wait, str(tmp_path / "a"), str(tmp_path / "never"))
        worker = psutil.Process(int(rig.wait_for_file(tmp_path / "a")))
        others = [rig.add(tasks.add, number, 0) for number in range(8)]
        rig.feed()
        pool.kill()
        assert rig.wait_for([running])[0].kind is OutcomeKind.LOST
        worker.wait(timeout=60)
        kinds = [one.kind for one in rig.wait_for(others)]
        # The other worker, too, may have been in the middle of one when it lost its pool.
        assert set(kinds) <= {OutcomeKind.DONE, OutcomeKind.LOST}
        assert kinds.count(OutcomeKind.LOST) <= 1
        assert not rig.downs

    def test_signals_to_the_whole_service_leave_tasks_alone(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs(workers=1).start()
        gate = tmp_path / "gate"
        seq = rig.add(interrupted_and_well, str(tmp_path / "a"), str(gate))
        worker = psutil.Process(int(rig.wait_for_file(tmp_path / "a")))
        pool = worker.parent()
        assert pool is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            worker.send_signal(number)
            pool.send_signal(number)
        gate.touch()
        assert value_of(rig.wait_for([seq])[0].result) == "well"

    def test_workers_have_groups_of_their_own_and_plain_signals_for_children(
        self, rigs: Callable[..., Rig]
    ) -> None:
        seen = rigs().start().value(pid_and_signals)
        assert seen["session"] == seen["pid"]
        assert seen["session"] != os.getsid(0)
        assert not seen["ignored_in_children"] & (1 << (signal.SIGTERM - 1))
        assert not seen["ignored_in_children"] & (1 << (signal.SIGINT - 1))

    def test_processes_are_named_in_ps_and_keep_their_mark(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs(workers=2).start()
        wait_until(lambda: rig.engine.status().workers == 2)
        names = [" ".join(one.cmdline()) for one in marked_processes(rig.run.run_dir)]
        assert any(name.startswith("cep worker pool (") and "contract" in name for name in names)
        assert any(name.startswith("cep worker 0 (") for name in names)

    def test_a_task_sees_a_clean_interpreter(self, rigs: Callable[..., Rig]) -> None:
        path, main_names, noenv = rigs().start().value(sys_path_and_main)
        here = str(Path(__file__).resolve().parents[2])
        assert path[0] not in ("", here)
        assert "main" not in main_names
        assert noenv is None

    def test_an_idle_worker_gets_what_waits_behind_a_long_task(
        self, rigs: Callable[..., Rig], tmp_path: Path
    ) -> None:
        rig = rigs(workers=2).start()
        gates = [tmp_path / "gate-0", tmp_path / "gate-1"]
        first = rig.add(tasks.touch_and_wait, str(tmp_path / "a"), str(gates[0]))
        second = rig.add(tasks.touch_and_wait, str(tmp_path / "b"), str(gates[1]))
        rig.wait_for_file(tmp_path / "a")
        rig.wait_for_file(tmp_path / "b")
        behind = [rig.add(tasks.add, number, 0) for number in range(2)]
        rig.pump_until(lambda: not rig.backlog, "room for two more")
        gates[1].touch()
        rig.wait_for([second, *behind])
        assert first not in rig.outcomes
        gates[0].touch()
        rig.wait_for([first])

    def test_tiny_tasks_widen_the_window_and_a_slow_one_narrows_it(
        self, rigs: Callable[..., Rig]
    ) -> None:
        rig = rigs(workers=2).start()
        run_until_slots(rig, 5, tasks.add, 0)
        rig.value(tasks.spin, 0.05)
        rig.pump_until(lambda: rig.slots == 4, "narrow window")

    def test_without_coalescing_the_window_stays(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs(workers=2, coalesce=False).start()
        rig.wait_for([rig.add(tasks.add, number, 0) for number in range(200)])
        assert rig.slots == 4

    def test_many_large_tasks_pass_through(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs(workers=2).start()
        seqs = [rig.add(tasks.add, b"y" * size, b"") for size in (65_000, 66_000, 500_000) * 4]
        sizes = [len(value_of(one.result)) for one in rig.wait_for(seqs)]
        assert sizes == [65_000, 66_000, 500_000] * 4
        handles = list(Path("/proc/self/fd").iterdir())
        assert not [one for one in handles if _is_memfd(one)]

    def test_too_many_serializer_names_are_refused(self, rigs: Callable[..., Rig]) -> None:
        rig = rigs().start()
        outcome = rig.call(tasks.add, 1, 1, result_serializers=("x" * 100_000,))
        assert outcome.kind is OutcomeKind.REFUSED
        assert outcome.code == result.TASK_REFUSED

    def test_workers_that_do_not_start_end_the_engine_with_the_reason(
        self, rigs: Callable[..., Rig]
    ) -> None:
        rig = rigs(workers=1)
        assert rig.run.start_slots is not None
        rig.run.start_slots.mkdir()
        (rig.run.start_slots / "worker-0.slots").mkdir()  # where the worker wants a file
        rig.start()
        rig.slots = 1
        rig.add(tasks.add, 1, 1)
        rig.give_back_again = False
        rig.pump_until(lambda: bool(rig.downs), "EngineDown")
        assert rig.downs[0].rebuilding is False
        assert "5 workers in a row" in rig.downs[0].reason
        assert "exit status 1" in rig.downs[0].reason
        assert [one.kind for one in rig.outcomes.values()] == [OutcomeKind.NOT_BEGUN]

    def test_a_pool_that_does_not_start_is_an_error_and_leaves_nothing(
        self, rigs: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_link, "_PROGRAM", "raise SystemExit(9)")
        rig = rigs()
        with pytest.raises(EngineError, match="exit status 9"):
            rig.start()

    def test_it_works_without_a_place_for_start_slots(self, rigs: Callable[..., Rig]) -> None:
        from dataclasses import replace

        rig = rigs(workers=1)
        rig.run = replace(rig.run, start_slots=None)
        rig.start()
        assert rig.call(tasks.exit_at_once).kind is OutcomeKind.LOST
        assert rig.value(tasks.add, 1, 1) == 2


def run_until_slots(rig: Rig, slots: int, function: Callable[..., Any], argument: int) -> None:
    """Run tiny tasks of a function until so many may travel together.

    On a busy machine a run may take so long that the function does not count as tiny; then more.
    """
    for _ in range(100):
        rig.wait_for([rig.add(function, number, argument) for number in range(100)])
        if rig.slots >= slots:
            return
    pytest.fail(f"{rig.slots} slots after 10,000 tiny tasks")


def _is_memfd(handle: Path) -> bool:
    try:
        return "memfd:cep (" in str(handle.readlink())
    except OSError:
        return False


AGENT = """
import queue, sys
from pathlib import Path
from cep.config.settings import ProcessPoolSettings
from cep.engines.base import EngineRun, Submission
from cep.engines.processes import ProcessPoolEngine
from cep.model import Task
base, body, task_id = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3]
events = queue.SimpleQueue()
engine = ProcessPoolEngine(ProcessPoolSettings(max_workers=2))
engine.start(EngineRun("e", "killed", base, base / "slots", base / "oversized"), events.put)
engine.submit(Submission([Task(1, task_id, "f", body)]))
events.get()
print("ready", flush=True)
sys.stdin.read()
"""


def test_nothing_outlives_an_agent_that_was_killed(tmp_path: Path) -> None:
    from cep.worker.slots import begun_seqs
    from tests.unit.task_payloads import make_task

    task = make_task(1, tasks.touch_and_wait, str(tmp_path / "a"), str(tmp_path / "never"))
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path), task.body.hex(), task.task_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"ready\n"
        wait_until(lambda: (tmp_path / "a").exists() and bool((tmp_path / "a").read_text()))
        wait_until(lambda: len(marked_processes(tmp_path)) == 3)  # the second worker comes later
        left = marked_processes(tmp_path)
        agent.kill()
        agent.wait()
    _gone, alive = psutil.wait_procs(left, timeout=60)
    assert not alive
    assert begun_seqs(tmp_path / "slots") == {1}


def test_the_engine_starts_in_a_program_run_as_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(
        "import queue\nfrom pathlib import Path\n"
        "from cep.config.settings import ProcessPoolSettings\n"
        "from cep.engines.base import EngineRun, SlotsChanged\n"
        "from cep.engines.processes import ProcessPoolEngine\n"
        "print('loaded')\n"  # printed once: no worker imports the agent's main module
        "events = queue.SimpleQueue()\n"
        "engine = ProcessPoolEngine(ProcessPoolSettings(max_workers=2))\n"
        f"base = Path({str(tmp_path)!r})\n"
        "engine.start(EngineRun('e', 'n', base, base / 'slots', base / 'big'), events.put)\n"
        "assert isinstance(events.get(timeout=60), SlotsChanged)\n"
        "engine.stop(5)\n"
        "print('stopped')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.stdout, done.stderr) == ("loaded\nstopped\n", "")
