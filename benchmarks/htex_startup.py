"""Start of an HTEX engine, from `start` to the first result, and its memory and work when idle.

Three ways side by side in one run, each in a process of its own and with one worker:

* `parsl`: Parsl's own HighThroughputExecutor, interchange and worker pool, as it comes;
* `plain`: GlobusComputeEngine with Parsl imported plainly in the interchange and the pool;
* `cep`: GlobusComputeEngine as it is.

Run: `python benchmarks/htex_startup.py [ROUNDS]`. Prints medians and ratios against `parsl`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

WAYS = ("parsl", "plain", "cep")
IDLE_S = 6.0
TASK_ID = "00000000-0000-4000-8000-000000000001"


def measure(way: str, directory: Path) -> dict[str, float]:
    """Start one engine in this process, run one task, look at it while idle, stop it."""
    began = time.perf_counter()
    stop = start_parsl(directory) if way == "parsl" else start_cep(directory)
    first_result_s = time.perf_counter() - began
    import psutil

    family = [psutil.Process(), *descendants(directory)]
    threading.Event().wait(1.0)
    pss = sum(process.memory_full_info().pss for process in family) / 2**20
    before = cpu_s(family)
    threading.Event().wait(IDLE_S)
    idle_cpu_s = (cpu_s(family) - before) * 60 / IDLE_S
    stop()
    return {
        "first result, s": first_result_s,
        "memory of all processes, MiB": pss,
        "processes": float(len(family)),
        "idle CPU, s per minute": idle_cpu_s,
    }


def cpu_s(family: list[Any]) -> float:
    """CPU time that these processes have used."""
    return sum(sum(process.cpu_times()[:2]) for process in family)


def descendants(directory: Path) -> list[Any]:
    """All processes that have this run's mark, wherever they hang in the process tree."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("BENCHMARK_DIR") == str(directory)
        except psutil.Error:
            continue
        if marked and process.pid != os.getpid():
            found.append(process)
    return found


def start_parsl(directory: Path) -> Any:
    """Parsl's own executor on a local block."""
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    provider = LocalProvider(init_blocks=1)
    provider.script_dir = str(directory)
    bin_directory = Path(sys.executable).parent
    os.environ["PATH"] = f"{bin_directory}:{os.environ['PATH']}"
    executor = HighThroughputExecutor(
        provider=provider, max_workers_per_node=1, address="127.0.0.1", encrypted=True
    )
    executor.run_dir = str(directory)
    executor.start()
    executor.scale_out_facade(1)
    assert executor.submit(pow, {}, 2, 5).result(60) == 32

    def stop() -> None:
        executor.scale_in_facade(1)
        executor.shutdown()

    return stop


def start_cep(directory: Path) -> Any:
    """The endpoint's engine on a local block."""
    import queue

    from cep.config.settings import HtexSettings
    from cep.engines.base import EngineEvent, EngineRun, Outcomes, SlotsChanged, Submission
    from cep.engines.htex import GlobusComputeEngine
    from cep.model import OutcomeKind, Task
    from cep.wire.task import pack_task

    events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
    engine = GlobusComputeEngine(HtexSettings(htex={"max_workers_per_node": 1}))
    run = EngineRun("e", "benchmark", directory, directory / "slots", directory / "over")
    engine.start(run, events.put)
    assert isinstance(events.get(timeout=60), SlotsChanged)
    task = Task(1, TASK_ID, TASK_ID, pack_task(TASK_ID, payload()))
    engine.submit(Submission((task,)))
    while not isinstance(event := events.get(timeout=60), Outcomes):
        pass
    assert event.outcomes[0].kind is OutcomeKind.DONE
    return lambda: engine.stop(10.0)


def payload() -> str:
    """`pow(2, 5)` as a client sends it, written without loading the SDK."""
    import base64

    import dill

    from cep.wire.buffers import pack_buffers

    code = "01\n" + base64.b64encode(dill.dumps(pow)).decode()
    data = ["00\n" + base64.b64encode(dill.dumps(value)).decode() for value in ((2, 5), {})]
    return pack_buffers([code, *data])


def main() -> None:
    """Measure all ways in turn, several times, and print them side by side."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="htex-startup-") as directory:
                environment = {**os.environ, "BENCHMARK_DIR": directory, "SPT_NOENV": "1"}
                if way == "plain":
                    environment["CEP_PLAIN_PARSL_IMPORT"] = "1"
                run = subprocess.run(
                    [sys.executable, __file__, "--one", way, directory],
                    env=environment,
                    stdout=subprocess.PIPE,
                    check=True,
                )
                found[way].append(json.loads(run.stdout.splitlines()[-1]))
    print(f"{'':32}" + "".join(f"{way:>10}" for way in WAYS) + f"{'cep/parsl':>12}")
    for name in found["cep"][0]:
        medians = {way: statistics.median(one[name] for one in found[way]) for way in WAYS}
        values = "".join(f"{medians[way]:10.2f}" for way in WAYS)
        print(f"{name:32}{values}{medians['cep'] / medians['parsl']:12.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
    else:
        main()
