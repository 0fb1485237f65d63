"""How many no-op tasks per second the local engines run, and what each costs, without AMQP.

Run with: `python benchmarks/engine_throughput.py [tasks]`. Prints one line per engine: tasks per
second, and CPU microseconds per task in the agent's process and in the workers. The published
endpoint's figures come from its own pool when its interpreter is given by PUBLISHED_PYTHON.
"""

from __future__ import annotations

import os
import queue
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cep.config.settings import EngineSettings, ProcessPoolSettings, ThreadPoolSettings
from cep.engines.base import EngineRun, Outcomes, SlotsChanged, Submission
from cep.engines.build import build_engine
from cep.model import Task
from tests.unit.task_payloads import dilled, make_task

WORKERS = 2


def no_op(number):
    """Nothing, as every benchmark must have it."""
    return number


def measure(settings: EngineSettings, tasks: list[Task]) -> tuple[float, float, float]:
    """Return tasks per second, and CPU microseconds per task here and in children."""
    engine = build_engine(settings)
    events: queue.SimpleQueue = queue.SimpleQueue()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        engine.start(
            EngineRun("0" * 36, "benchmark", base, base / "slots", base / "oversized"), events.put
        )
        try:
            run(engine, events, tasks[:500])  # the pace is learned, imports are done
            began, own = time.perf_counter(), time.process_time()
            run(engine, events, tasks[500:])
            seconds, own = time.perf_counter() - began, time.process_time() - own
        finally:
            engine.stop(5.0)
    count = len(tasks) - 500
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return count / seconds, own / count * 1e6, (used.ru_utime + used.ru_stime) / len(tasks) * 1e6


SLOTS = {"now": 0}


def run(engine, events, tasks) -> None:
    """Feed the engine within its slots until all tasks are done."""
    backlog = list(reversed(tasks))
    given = done = 0
    while done < len(tasks):
        room = min(SLOTS["now"] - given, len(backlog))
        if room > 0:
            batch = [backlog.pop() for _ in range(room)]
            given += room
            engine.submit(Submission(batch, waiting=len(backlog)))
        event = events.get(timeout=60)
        if isinstance(event, SlotsChanged):
            SLOTS["now"] = event.slots
        elif isinstance(event, Outcomes):
            given -= len(event.outcomes)
            done += len(event.outcomes)


PUBLISHED = """
import sys, tempfile, time, uuid, resource
from concurrent.futures import ProcessPoolExecutor
from globus_compute_endpoint.engines.helper import execute_task
from globus_compute_sdk.serialize import ComputeSerializer
from globus_compute_common.messagepack import pack
from globus_compute_common.messagepack.message_types import Task
import os
def no_op(number):
    return number
if __name__ == "__main__":
    count, workers = int(sys.argv[1]), int(sys.argv[2])
    serde = ComputeSerializer()
    buffer = serde.pack_buffers([serde.serialize(one) for one in (no_op, (1,), {})])
    ids = [uuid.uuid4() for _ in range(count)]
    bodies = [pack(Task(task_id=i, task_buffer=buffer)) for i in ids]
    endpoint = uuid.uuid4()
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor(workers) as pool:
        list(pool.map(os.getpid, ()))
        pool.submit(execute_task, bodies[0], ids[0], endpoint, run_dir=place).result()
        began, own = time.perf_counter(), time.process_time()
        futures = [
            pool.submit(execute_task, body, task_id, endpoint, run_dir=place)
            for body, task_id in zip(bodies, ids)
        ]
        for future in futures:
            future.result()
        seconds, own = time.perf_counter() - began, time.process_time() - own
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(count / seconds, own / count * 1e6, (used.ru_utime + used.ru_stime) / count * 1e6)
"""


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    tasks = [
        make_task(number, dilled(no_op, "01\n"), number, function_id="f")
        for number in range(count + 500)
    ]
    line = "{:24} {:8.0f} tasks/s {:8.1f} us/task in the agent {:8.1f} us/task in workers"
    print(line.format("ThreadPoolEngine", *measure(ThreadPoolSettings(max_workers=WORKERS), tasks)))
    print(
        line.format("ProcessPoolEngine", *measure(ProcessPoolSettings(max_workers=WORKERS), tasks))
    )
    published = os.environ.get("PUBLISHED_PYTHON")
    if published:
        answer = subprocess.run(
            [published, "-c", PUBLISHED, str(count), str(WORKERS)],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode == 0:
            print(line.format("published process pool", *map(float, answer.stdout.split()[-3:])))
        else:
            print(answer.stderr[-2000:], file=sys.stderr)


if __name__ == "__main__":
    main()
