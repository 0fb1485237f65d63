"""The small parts of the HTEX engine: lanes, frames, batches, logs, and Parsl made light."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from cep.engines import ahead, htex_task, worker_logs
from cep.engines.coalescing import Coalescer
from cep.engines.htex_task import Answer, pack_answers, pack_bodies, unpack_answers
from cep.engines.lanes import Lanes, WorkerLane
from cep.engines.parsl_parts import PLAIN_VARIABLE
from cep.model import Task

# -- lanes ---------------------------------------------------------------------------------------


def lost(task: int, rank: int) -> bytes:
    return f"{task} lost by {rank}".encode()


def _nothing(rank: int, came_up: bool) -> None:
    del rank, came_up


def come_up(lanes: Lanes, *workers: WorkerLane) -> None:
    for worker in workers:
        worker.greet()
    while len(lanes._up) < len(workers):
        lanes._collect()


def test_each_idle_worker_gets_one_task_and_the_next_after_its_answer() -> None:
    lanes = Lanes(lost, _nothing)
    workers = [lanes.open(rank) for rank in range(2)]
    come_up(lanes, *workers)
    for number in range(3):
        lanes.put_task({"task_id": number})
    got = [worker.get(1)["task_id"] for worker in workers]
    assert sorted(got) == [0, 1]
    assert lanes.qsize() == 1
    with pytest.raises(queue.Empty):
        workers[0].get(0)
    workers[0].put(b"done")
    assert lanes.get_result() == b"done"
    assert workers[0].get(1) == {"task_id": 2}


def test_a_worker_that_is_not_up_gets_no_task() -> None:
    died: list[tuple[int, bool]] = []
    lanes = Lanes(lost, lambda rank, came_up: died.append((rank, came_up)))
    worker = lanes.open(0)
    lanes.put_task({"task_id": 5})
    worker.close()
    while not died:
        lanes._collect()
    assert died == [(0, False)]
    assert lanes.qsize() == 1
    second = lanes.open(0)
    come_up(lanes, second)
    assert second.get(1) == {"task_id": 5}


def test_a_dead_worker_loses_its_task_only() -> None:
    died: list[tuple[int, bool]] = []
    lanes = Lanes(lost, lambda rank, came_up: died.append((rank, came_up)))
    first, second = lanes.open(0), lanes.open(1)
    come_up(lanes, first, second)
    lanes.put_task({"task_id": 5})
    lanes.put_task({"task_id": 6})
    had = {lane: lane.get(1)["task_id"] for lane in (first, second)}
    second.put(b"answer")
    first.close()
    results = {lanes.get_result(), lanes.get_result()}
    assert results == {b"%d lost by 0" % had[first], b"answer"}
    assert died == [(0, True)]


def test_a_worker_ends_with_its_pool() -> None:
    lanes = Lanes(lost, _nothing)
    worker = lanes.open(0)
    for pipe in lanes._pipes.values():
        pipe.close()
    with pytest.raises(SystemExit):
        worker.get(1)


def test_a_message_of_the_pool_itself_wakes_the_reader() -> None:
    lanes = Lanes(lost, _nothing)
    lanes.put(None)
    assert lanes.get_result() is None


def busy_with_one_ahead() -> tuple[Lanes, WorkerLane]:
    lanes = Lanes(lost, _nothing)
    worker = lanes.open(0)
    come_up(lanes, worker)
    lanes.put_task({"task_id": 1})
    lanes.put_task(ahead.sent_ahead({"task_id": 2}))
    assert worker.get(1)["task_id"] == 1
    return lanes, worker


def test_a_task_sent_ahead_goes_to_the_next_free_worker() -> None:
    lanes, worker = busy_with_one_ahead()
    worker.put(b"done")
    assert lanes.get_result() == b"done"
    assert worker.get(1)["task_id"] == 2


def test_what_was_sent_ahead_and_has_not_begun_is_handed_back_and_nothing_else() -> None:
    lanes, worker = busy_with_one_ahead()
    lanes.put_task({"task_id": 3})
    (request,) = pickle.loads(ahead.GIVE_BACK)
    lanes.put_task(request)
    assert lanes.get_result() == ahead.handed_back({"task_id": 2})
    worker.put(b"done")
    assert lanes.get_result() == b"done"
    assert worker.get(1)["task_id"] == 3
    lanes.put_task(request)
    assert lanes.qsize() == 0
    worker.put(b"done, too")
    assert lanes.get_result() == b"done, too"


def test_what_was_sent_ahead_too_long_ago_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "KEPT_S", -1.0)
    lanes, worker = busy_with_one_ahead()
    lanes.put_task({"task_id": 3})
    worker.put(b"done")
    results = {lanes.get_result(), lanes.get_result()}
    assert results == {b"done", ahead.handed_back({"task_id": 2})}
    assert worker.get(1)["task_id"] == 3


# -- frames --------------------------------------------------------------------------------------


def test_answers_come_back_as_they_were_packed() -> None:
    answers = [Answer(True, 0.25, b"one"), Answer(False, 0.0, b""), Answer(True, 1.0, b"x" * 999)]
    assert unpack_answers(pack_answers(answers)) == answers


@pytest.mark.parametrize("cut", [0, 3, 10, -1])
def test_a_frame_that_was_cut_is_refused(cut: int) -> None:
    frame = pack_answers([Answer(True, 0.25, b"one")])
    with pytest.raises(ValueError, match=r"cannot be read|instead of"):
        unpack_answers(frame[:cut])


def test_a_worker_runs_a_batch_and_hands_back_what_its_budget_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[bytes, str]] = []
    clock = iter([0.0, 0.0, 0.015, 0.015, 0.03, 0.03])

    def execute(body: bytes, task_id: str, context: Any, serializers: Any) -> bytes:
        del context, serializers
        seen.append((body, task_id))
        return body.upper()

    monkeypatch.setattr(htex_task, "execute", execute)
    monkeypatch.setattr(htex_task.time, "perf_counter", lambda: next(clock))
    tasks = [(number, f"id-{number}", ()) for number in range(3)]
    context = ("endpoint", str(tmp_path), False, 1000, None, str(tmp_path))
    frame = htex_task.run(pack_bodies([b"a", b"bb", b"c"]), tasks, context, None)
    answers = unpack_answers(frame)
    assert [(one.begun, one.result) for one in answers] == [
        *((True, b"A"), (True, b"BB"), (False, b""))
    ]
    assert seen == [(b"a", "id-0"), (b"bb", "id-1")]


# -- batches -------------------------------------------------------------------------------------


def tasks(count: int, function: str = "f", **more: Any) -> list[Task]:
    return [Task(number, f"id-{number}", function, b"body", **more) for number in range(count)]


def trained(function: str = "f", seconds: float = 0.0005) -> Coalescer:
    coalescer = Coalescer(True)
    for _ in range(30):
        coalescer.ran(function, seconds)
    return coalescer


def test_an_unknown_function_travels_alone() -> None:
    assert len(Coalescer(True).cut(deque(tasks(10)), 1)) == 1


def test_a_tiny_function_travels_together_shared_among_free_workers() -> None:
    line = deque(tasks(40))
    assert len(trained().cut(line, 4)) == 10
    assert len(trained().cut(line, 1)) == 30


def test_another_function_or_a_resource_specification_ends_a_batch() -> None:
    line = deque([*tasks(3), *tasks(3, "unknown")])
    assert len(trained().cut(line, 1)) == 3
    line = deque([*tasks(2), *tasks(2, resource_specification='{"priority": 1}')])
    assert len(trained().cut(line, 1)) == 2
    assert len(trained().cut(line, 1)) == 1


def test_the_window_is_as_narrow_as_the_least_known_function() -> None:
    coalescer = trained()
    coalescer.came(tasks(3))
    assert coalescer.size_now() > 1
    coalescer.came(tasks(1, "unknown"))
    assert coalescer.size_now() == 1


def test_tasks_are_short_together_when_each_of_their_functions_is() -> None:
    coalescer = trained(seconds=0.05)
    assert coalescer.short(tasks(2))
    assert not coalescer.short([*tasks(1), *tasks(1, "unknown")])


def test_coalescing_off_means_one_by_one() -> None:
    coalescer = Coalescer(False)
    for _ in range(100):
        coalescer.ran("f", 0.0001)
    coalescer.came(tasks(5))
    assert coalescer.size_now() == 1
    assert len(coalescer.cut(deque(tasks(10)), 1)) == 1
    assert not coalescer.short(tasks(1))


# -- logs ----------------------------------------------------------------------------------------


def test_fault_17_a_workers_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_logs, "MAX_BYTES", 2000)
    path = tmp_path / "manager.log"
    end = worker_logs.bounded_file_logger(str(path), "test.bounded", logging.INFO)
    for number in range(500):
        logging.getLogger("test.bounded").info("line %d", number)
    end()
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert set(sizes) == {"manager.log", "manager.log.1"}
    assert max(sizes.values()) <= 2000


def test_workers_log_from_warning_on_unless_debugging(tmp_path: Path) -> None:
    name = "test.quiet"
    end = worker_logs.bounded_file_logger(str(tmp_path / "worker_0.log"), name, logging.INFO)
    assert logging.getLogger(name).level == logging.WARNING
    end()
    end = worker_logs.bounded_file_logger(str(tmp_path / "worker_0.log"), name, logging.DEBUG)
    assert logging.getLogger(name).level == logging.DEBUG
    end()


@pytest.mark.parametrize(
    ("file", "script", "block"),
    [
        ("parsl.here-HighThroughputExecutor.block-3.1764.25.sh.out", "1764.25", "3"),
        ("parsl.here-HighThroughputExecutor.block-12.1764.25.submit", "1764.25", "12"),
        ("parsl.parsl.a.b.block-0.1764.25.submit.stderr", "1764.25", "0"),
        ("my-own.block-0.txt", None, None),
        ("notes", None, None),
    ],
)
def test_files_of_a_script_are_known_by_their_names(
    file: str, script: str | None, block: str | None
) -> None:
    found = worker_logs.script_of(file)
    assert (found is None) == (script is None)
    if found is not None and script is not None:
        assert found[0].endswith(script)
        assert found[1] == block


@pytest.mark.parametrize(
    ("file", "block"),
    [
        ("cmd_cep.0b3e1a52-3f3a-4d1e-9d1c-0a1b2c3d4e5f.11a91bd6.3.sh", "3"),
        ("cmd_parsl.here-HighThroughputExecutor.block-12.1764.25.sh", "12"),
        ("cmd_parsl.here-HighThroughputExecutor.block-12.1764.25.sh.parallel", "12"),
        ("cmd_mine.sh", None),
        ("cep.0b3e1a52.11a91bd6.3.sh", None),
    ],
)
def test_what_a_launcher_writes_is_known_by_its_name(file: str, block: str | None) -> None:
    assert worker_logs.block_of_launched(file) == block


# -- Parsl's parts -------------------------------------------------------------------------------

LOAD = """
import sys
from cep.engines import parsl_parts
module = parsl_parts.load("parsl.executors.high_throughput.process_worker_pool")
print(module.Manager.__name__, len(sys.modules), "globus_compute_sdk" in sys.modules)
{more}
"""


def load(more: str = "", **environment: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD.format(more=more)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_the_light_import_leaves_most_of_parsl_and_the_sdk_out() -> None:
    light, plain = load(), load(**{PLAIN_VARIABLE: "1"})
    assert light[0] == plain[0] == "Manager"
    assert int(light[1]) < 0.5 * int(plain[1])
    assert light[2] == "False"


def test_parsl_is_whole_for_a_function_that_uses_it() -> None:
    more = "import parsl; print(parsl.python_app.__name__, parsl.Config.__name__)"
    assert load(more)[3:] == ["python_app", "Config"]


def test_a_failing_light_import_falls_back_to_the_plain_one() -> None:
    more = (
        "parsl_parts._forget_all()\n"
        "parsl_parts.PACKAGES = ('parsl', 'parsl.no_such_package')\n"
        "again = parsl_parts.load('parsl.executors.high_throughput.interchange')\n"
        "print(again.Interchange.__name__, 'parsl.dataflow.dflow' in sys.modules)"
    )
    assert load(more)[3:] == ["Interchange", "True"]


def test_the_agent_imports_parsl_without_what_it_can_do_without() -> None:
    program = (
        "import sys, threading\n"
        "from cep.engines import parsl_parts\n"
        "parsl_parts.import_in_agent()\n"
        "loaded = [name in sys.modules"
        " for name in ('parsl.dataflow.dflow', 'globus_compute_sdk', 'sqlalchemy')]\n"
        "print(*loaded, threading.active_count())\n"
        "import globus_compute_sdk, sqlalchemy\n"
    )
    assert printed(program) == ["True", "False", "False", "1"]


def test_parsl_still_checks_types_in_the_agent() -> None:
    program = (
        "import inspect, typeguard\n"
        "at_once = typeguard.typechecked\n"
        "from cep.engines import parsl_parts\n"
        "parsl_parts.import_in_agent()\n"
        "from parsl.executors import HighThroughputExecutor as Executor\n"
        "print('label' in inspect.signature(Executor).parameters)\n"
        "print(\"label='x'\" in repr(Executor(label='x')))\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        Executor(label=3)\n"
        "    except typeguard.TypeCheckError as error:\n"
        "        print('label' in str(error))\n"
        "print(typeguard.typechecked is at_once)\n"
        "from parsl.monitoring import MonitoringHub\n"
        "try:\n"
        "    MonitoringHub(workflow_name=3)\n"
        "except typeguard.TypeCheckError as error:\n"
        "    print('workflow_name' in str(error))\n"
    )
    assert printed(program) == ["True"] * 6


def printed(program: str) -> list[str]:
    """The words that a program prints in an interpreter of its own."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_messages_between_pool_and_agent_are_plain_values() -> None:
    from cep.engines.htex_executor import plain_loads
    from cep.engines.pool import _lost_message

    back = ahead.handed_back({"task_id": 3})
    for message in (_lost_message(3, 1), back):
        assert plain_loads(message) == pickle.loads(message)
