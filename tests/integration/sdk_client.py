"""What researchers do with the official SDK: run in an environment that has it and nothing of ours.

`sdk_client.py VERB ENDPOINT_ID [ARGUMENT...]`; the last line on stdout is the answer as JSON. The
tests (test_sdk_scenarios.py and others) start it and judge the answer. `sdk_client.py several
CALL...` makes several such calls, each a JSON list, one after the other.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from globus_compute_sdk import Client, Executor, ShellFunction
from globus_compute_sdk.serialize import ComputeSerializer, PureSourceTextInspect

TIMEOUT_S = 150.0  # on a loaded machine; most answers come within a second


def double(number: int) -> int:
    return 2 * number


def divide(number: int) -> float:
    return number / 0


def size_of(data: bytes) -> int:
    return len(data)


def make(size: int) -> bytes:
    return b"x" * size


def begin(number: int, witness: str, busy_s: float) -> int:
    """Tell a witness that this task begins, be busy for a while, return the number."""
    import socket
    import time as clock

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(str(number).encode(), witness)
    end = clock.monotonic() + busy_s
    while clock.monotonic() < end:
        pass
    return number


def task_id() -> str:
    import os

    return os.environ["GC_TASK_UUID"]


def host() -> str:
    import socket

    return socket.gethostname()


def variables() -> dict[str, str]:
    import os

    return dict(os.environ)


def environment(endpoint_id: str) -> dict[str, str]:
    """Tell which variables a function sees."""
    with Executor(endpoint_id=endpoint_id) as executor:
        seen: dict[str, str] = executor.submit(variables).result(timeout=TIMEOUT_S)
        return seen


def mark_and_wait(value: int, place: str) -> int:
    import time
    from pathlib import Path

    Path(f"{place}-{value}").touch()
    while not Path(f"{place}-open").exists():
        time.sleep(0.1)
    return value


def mark_and_sleep(mark: str, seconds: float) -> str:
    """Tell by a file that this task runs, and where; then sleep."""
    import os
    import socket
    import time as clock
    from pathlib import Path as File

    part = File(f"{mark}.{os.getpid()}")
    part.write_text(socket.gethostname())
    part.rename(mark)
    clock.sleep(seconds)
    return socket.gethostname()


def fate(endpoint_id: str, mark: str, seconds: str) -> dict[str, Any]:
    """Tell how a task ended that sleeps for so long, and after how many seconds."""
    begun = time.monotonic()
    with Executor(endpoint_id=endpoint_id) as executor:
        future = executor.submit(mark_and_sleep, mark, float(seconds))
        error = future.exception(timeout=2 * TIMEOUT_S)
    return {"error": str(error) if error else "", "seconds": time.monotonic() - begun}


def sleepers(endpoint_id: str, number: str, seconds: str) -> dict[str, Any]:
    """Run so many sleeping tasks; tell on which hosts."""
    with Executor(endpoint_id=endpoint_id) as executor:
        futures = [
            executor.submit(mark_and_sleep, f"/tmp/sleeper-{n}", float(seconds))
            for n in range(int(number))
        ]
        return {"hosts": sorted({future.result(timeout=TIMEOUT_S) for future in futures})}


def until_open(endpoint_id: str, number: str, place: str) -> dict[str, Any]:
    """Run functions that each leave a mark, PLACE-NUMBER, and end once PLACE-open is there."""
    with Executor(endpoint_id=endpoint_id) as executor:
        futures = [executor.submit(mark_and_wait, n, place) for n in range(int(number))]
        return {"values": [future.result(timeout=12 * TIMEOUT_S) for future in futures]}


def hosts(endpoint_id: str, number: str) -> dict[str, Any]:
    """Tell on which hosts functions run."""
    with Executor(endpoint_id=endpoint_id) as executor:
        futures = [executor.submit(host) for _ in range(int(number))]
        return {"hosts": sorted({future.result(timeout=TIMEOUT_S) for future in futures})}


def many(endpoint_id: str, number: str) -> dict[str, Any]:
    begun = time.monotonic()
    with Executor(endpoint_id=endpoint_id) as executor:
        futures = [executor.submit(double, value) for value in range(int(number))]
        values = [future.result(timeout=TIMEOUT_S) for future in futures]
    seconds = time.monotonic() - begun
    return {"right": values == [2 * n for n in range(int(number))], "seconds": seconds}


def exception(endpoint_id: str) -> dict[str, Any]:
    with Executor(endpoint_id=endpoint_id) as executor:
        error = executor.submit(divide, 1).exception(timeout=TIMEOUT_S)
        after = executor.submit(double, 4).result(timeout=TIMEOUT_S)
    return {"type": type(error).__name__, "text": str(error), "after": after}


def shell(endpoint_id: str) -> dict[str, Any]:
    with Executor(endpoint_id=endpoint_id) as executor:
        good = executor.submit(ShellFunction("echo hello {name}; echo bad >&2"), name="you")
        bad = executor.submit(ShellFunction("exit 7"))
        answer, failed = good.result(timeout=TIMEOUT_S), bad.result(timeout=TIMEOUT_S)
    return {
        "stdout": answer.stdout,
        "stderr": answer.stderr,
        "code": answer.returncode,
        "failed": failed.returncode,
    }


def own_task_id(endpoint_id: str) -> dict[str, Any]:
    with Executor(endpoint_id=endpoint_id) as executor:
        futures = [executor.submit(task_id) for _ in range(20)]
        seen = [future.result(timeout=TIMEOUT_S) for future in futures]
        right = [future.task_id for future in futures]
    return {"seen": seen, "right": right}


def reload(endpoint_id: str) -> dict[str, Any]:
    with Executor(endpoint_id=endpoint_id) as executor:
        first = [executor.submit(double, value) for value in range(10)]
        values = [future.result(timeout=TIMEOUT_S) for future in first]
        group = executor.task_group_id
    with Executor(endpoint_id=endpoint_id, task_group_id=group) as executor:
        again = [future.result(timeout=TIMEOUT_S) for future in executor.reload_tasks()]
    return {"first": sorted(values), "again": sorted(again)}


def by_client(endpoint_id: str) -> dict[str, Any]:
    client = Client()
    function_id = client.register_function(double)
    task_ids = [
        client.run(value, endpoint_id=endpoint_id, function_id=function_id) for value in range(5)
    ]
    failing = client.run(1, endpoint_id=endpoint_id, function_id=client.register_function(divide))
    end = time.monotonic() + TIMEOUT_S
    pause = threading.Event()
    while any(task["pending"] for task in client.get_batch_result([*task_ids, failing]).values()):
        if time.monotonic() > end:
            raise TimeoutError("tasks are pending for too long")
        pause.wait(0.1)  # tasks of Client.run can only be asked for
    batch = client.get_batch_result(task_ids)
    try:
        client.get_result(failing)
        error = ""
    except Exception as exc:
        error = str(exc)
    return {
        "one": client.get_result(task_ids[3]),
        "batch": [batch[name]["result"] for name in task_ids],
        "states": sorted({batch[name]["status"] for name in task_ids}),
        "error": error,
    }


def large(endpoint_id: str, size: str) -> dict[str, Any]:
    with Executor(endpoint_id=endpoint_id) as executor:
        there = executor.submit(size_of, b"y" * int(size))
        back = executor.submit(make, int(size))
        return {
            "there": there.result(timeout=TIMEOUT_S),
            "back": len(back.result(timeout=TIMEOUT_S)),
        }


def too_large(endpoint_id: str, size: str) -> dict[str, Any]:
    with Executor(endpoint_id=endpoint_id) as executor:
        error = executor.submit(make, int(size)).exception(timeout=TIMEOUT_S)
        after = executor.submit(double, 3).result(timeout=TIMEOUT_S)
    return {"error": str(error), "after": after}


def status(endpoint_id: str) -> dict[str, Any]:
    return {"status": Client().get_endpoint_status(endpoint_id)["status"]}


def until_status(endpoint_id: str, wanted: str, within_s: str) -> dict[str, Any]:
    """Ask for the status until it is the wanted one; tell how long that took."""
    client = Client()
    begun = time.monotonic()
    pause = threading.Event()
    while True:
        seen = client.get_endpoint_status(endpoint_id)["status"]
        seconds = time.monotonic() - begun
        if seen == wanted or seconds > float(within_s):
            return {"status": seen, "seconds": seconds}
        pause.wait(0.1)  # the service has no other way to tell


def witnessed(endpoint_id: str, number: str, witness: str, busy_s: str) -> dict[str, Any]:
    """Run functions that tell a witness when they begin; return the outcome of each."""
    with Executor(endpoint_id=endpoint_id) as executor:
        futures = [
            executor.submit(begin, value, witness, float(busy_s)) for value in range(int(number))
        ]
        outcomes = {}
        for value, future in enumerate(futures):
            error = future.exception(timeout=TIMEOUT_S)
            outcomes[value] = str(error) if error else future.result()
    return {"outcomes": outcomes}


def wait_for(number: int, witness: str, gate: str) -> int:
    """Tell a witness that this task begins, wait until a file is there, return the number."""
    import os
    import socket
    import time as clock

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(str(number).encode(), witness)
    while not os.path.exists(gate):  # noqa: PTH110 - a worker imports as little as it can
        clock.sleep(0.05)
    return number


def gated(
    endpoint_id: str, number: str, witness: str, gate: str, within_s: str = str(TIMEOUT_S)
) -> dict[str, Any]:
    """Run functions that end when somebody makes a file; return the outcome of each."""
    with Executor(endpoint_id=endpoint_id) as executor:
        futures = [executor.submit(wait_for, n, witness, gate) for n in range(int(number))]
        outcomes = {}
        for value, future in enumerate(futures):
            error = future.exception(timeout=float(within_s))
            outcomes[value] = str(error) if error else future.result()
    return {"outcomes": outcomes}


def fill(size: int) -> int:
    """Use so many bytes of memory."""
    return len(bytearray(b"x") * size)


def memory(endpoint_id: str, size: str) -> dict[str, Any]:
    """Run a function that uses so many bytes; tell what became of it."""
    with Executor(endpoint_id=endpoint_id) as executor:
        error = executor.submit(fill, int(size)).exception(timeout=TIMEOUT_S)
    return {"error": str(error) if error else ""}


def waves(endpoint_id: str, plan: str, gate: str, witness: str) -> dict[str, Any]:
    """Submit in waves, the next one as soon as the first task of the last one is answered.

    The plan is `PHASES,TASKS,WAVE`. Each phase, of so many tasks, begins when somebody opens the
    gate, a named pipe.
    """
    phases, number, wave = map(int, plan.split(","))
    answers: dict[int, list[str]] = {}
    futures = []
    with Executor(endpoint_id=endpoint_id) as executor:
        for begin_at in range(0, phases * number, wave):
            if begin_at % number == 0:
                Path(gate).read_text()
            for value in range(begin_at, begin_at + wave):
                future = executor.submit(begin, value, witness, 0.002)
                future.add_done_callback(
                    lambda done, value=value: answers.setdefault(value, []).append(
                        str(done.exception() or done.result())
                    )
                )
                futures.append(future)
            futures[begin_at].exception(timeout=TIMEOUT_S)
        for future in futures:
            future.exception(timeout=TIMEOUT_S)
    return {"answers": answers}


def where(package):  # type: ignore[no-untyped-def]
    import importlib
    import sys

    return {
        "prefix": sys.prefix,
        "python": ".".join(map(str, sys.version_info[:2])),
        "value": importlib.import_module(package).VALUE,
    }


def place(endpoint_id: str, package: str, form: str) -> dict[str, Any]:
    """Tell in which environment a function runs that travels as `bytecode` or as `source`."""
    strategy = PureSourceTextInspect() if form == "source" else None
    serializer = ComputeSerializer(strategy_code=strategy)
    with Executor(endpoint_id=endpoint_id, serializer=serializer) as executor:
        future = executor.submit(where, package)
        error = future.exception(timeout=TIMEOUT_S)
        return {"error": str(error)} if error else future.result()


VERBS = {
    "place": place,
    "until-open": until_open,
    "many": many,
    "environment": environment,
    "fate": fate,
    "sleepers": sleepers,
    "hosts": hosts,
    "exception": exception,
    "shell": shell,
    "own-task-id": own_task_id,
    "reload": reload,
    "client": by_client,
    "large": large,
    "too-large": too_large,
    "status": status,
    "until-status": until_status,
    "witnessed": witnessed,
    "waves": waves,
    "gated": gated,
    "memory": memory,
}


def several(*calls: str) -> list[dict[str, Any]]:
    """Run verbs in turn, each given as a JSON list with its arguments; tell of each what came."""
    told: list[dict[str, Any]] = []
    for verb, *arguments in map(json.loads, calls):
        try:
            told.append({"answer": VERBS[verb](*arguments)})
        except Exception:
            told.append({"failure": traceback.format_exc()})
    return told


if __name__ == "__main__":
    wanted = several if sys.argv[1] == "several" else VERBS[sys.argv[1]]
    print(json.dumps(wanted(*sys.argv[2:])), flush=True)
