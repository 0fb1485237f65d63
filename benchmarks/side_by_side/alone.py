"""What needs no broker: commands that only talk, and a worker's wrapper around a no-op."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.side_by_side import tasks

_OURS = """
import json, sys, tempfile, time
from cep.worker.context import WorkerContext
from cep.worker.execute import execute
buffers, count = sys.stdin.read(), int(sys.argv[1])
place = tempfile.mkdtemp()
context = WorkerContext(sys.argv[2], place, False, 10 * 1024 * 1024, None, place)
def body(task_id):
    data = {"task_id": task_id, "container_id": None, "container": None, "task_buffer": buffers}
    text = json.dumps({"message_type": "task", "data": data}, separators=(",", ":"))
    return b"\\x01" + text.encode()
bodies = [(body(i), i) for i in (f"00000000-0000-4000-8000-{n:012d}" for n in range(count + 500))]
for one, task_id in bodies[:500]:
    assert b'"error_details":null' in execute(one, task_id, context)
began = time.process_time()
for one, task_id in bodies[500:]:
    execute(one, task_id, context)
print((time.process_time() - began) / count * 1e6)
"""
_PUBLISHED = """
import sys, tempfile, time, uuid
from pathlib import Path
from globus_compute_common.messagepack import pack
from globus_compute_common.messagepack.message_types import Task
from globus_compute_endpoint.engines.helper import execute_task
buffers, count = sys.stdin.read(), int(sys.argv[1])
endpoint = uuid.UUID(sys.argv[2])
place = Path(tempfile.mkdtemp())
ids = [uuid.uuid4() for _ in range(count + 500)]
bodies = [(pack(Task(task_id=i, task_buffer=buffers)), i) for i in ids]
if sys.argv[3] == "2.19":
    run = lambda body, task_id: execute_task(task_id, body, endpoint)
else:
    run = lambda body, task_id: execute_task(body, task_id, endpoint, run_dir=place)
for one, task_id in bodies[:500]:
    assert b'"error_details":null' in run(one, task_id)
began = time.process_time()
for one, task_id in bodies[500:]:
    run(one, task_id)
print((time.process_time() - began) / count * 1e6)
"""
ENDPOINT_ID = "11111111-2222-4333-8444-555555555555"


def command_s(argv: list[str | Path], runs: int) -> list[float]:
    """Wall time in seconds of each run of a command; one run before does not count."""
    times = []
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "GLOBUS_COMPUTE_USER_DIR": home}
        for _ in range(runs + 1):
            began = time.perf_counter()
            subprocess.run(argv, env=environment, check=True, capture_output=True, timeout=60)
            times.append(time.perf_counter() - began)
    return times[1:]


def worker_overhead_us(python: Path, version: str, count: int) -> float:
    """CPU microseconds of one no-op in the wrapper, message in to message out.

    Args:
        python: An interpreter that has the endpoint.
        version: "cep", "2.19" or "4.19".
        count: How many no-ops.
    """
    program = _OURS if version == "cep" else _PUBLISHED
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [python, "-c", program, str(count), ENDPOINT_ID, version],
            input=tasks.no_op(),
            env={**os.environ, "TMPDIR": home},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the worker's wrapper of {version} fails:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def measure_alone(published: dict[str, Path], runs: int, count: int) -> dict[str, dict[str, float]]:
    """Medians, by row and column: seconds (`_s`) and CPU microseconds (`_us`).

    Args:
        published: Version to interpreter.
        runs: Of each command.
        count: No-ops.
    """
    here = Path(sys.executable)
    cep = here.parent / "cep"
    rows: dict[str, dict[str, float]] = {"worker_us": {}, "version_s": {}}
    for words in ("version", "list", "--help"):
        key = f"{words.strip('-')}_s"
        rows.setdefault(key, {})["cep"] = statistics.median(command_s([cep, words], runs))
    rows["worker_us"]["cep"] = worker_overhead_us(here, "cep", count)
    for version, python in published.items():
        program = python.parent / "globus-compute-endpoint"
        rows["version_s"][version] = statistics.median(command_s([program, "version"], runs))
        rows["worker_us"][version] = worker_overhead_us(python, version, count)
    return rows


if __name__ == "__main__":
    print(json.dumps(measure_alone({}, 5, 5_000), indent=2))
