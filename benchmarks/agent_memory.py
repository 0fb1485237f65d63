"""What a long queue costs the agent in memory, on a real RabbitMQ.

    python -m benchmarks.agent_memory [--tasks 200000] [--large 200]

Three queues are laid before the agent of a process engine whose only worker is held: many small
tasks (1 KB), some large ones (10 MB), and large ones right behind small ones, which is the worst
case for a prefetch that follows the mean size. The agent's memory is read while it takes what it
will take, and, for the first queue, until all of it is answered. An idle agent on the same broker
is the measure. Memory is the peak of the proportional set size (PSS) of the agent's own process,
read every 20 ms; the peak of its resident set (VmHWM) stands beside it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from globus_compute_sdk.serialize import ComputeSerializer

from cep.agent.control import call
from cep.paths import EndpointPaths
from cep.wire.result import unpack_result
from cep.wire.task import pack_task
from tests.integration.agent_rig import Bench, bench
from tests.integration.docker_engine import ensure_engine
from tests.integration.rabbitmq import RabbitMq

MIB = 1024 * 1024
SMALL = 1024
LARGE = 10 * 1000 * 1000
ENGINE = "engine: {type: ProcessPoolEngine, max_workers: 1}\nheartbeat_period: 5\n"
READ_EVERY_S = 0.02
# What the agent may hold beyond its idle self, see docs/limits.md: undigested bodies and the cache
# of bodies, 64 MiB each; answers on their way, 64 MiB; and the tasks in its one worker's hands.
ALLOWED = {"small": 64 * MIB, "large": 192 * MIB, "mixed": 192 * MIB}


def held(_executed: str, _label: str, gate: str, _filling: bytes) -> None:
    """Wait until the gate is open."""
    import os
    import subprocess

    if not os.path.exists(gate):  # noqa: PTH110 (200,000 times)
        subprocess.run(["sh", "-c", 'until [ -e "$0" ]; do sleep 0.2; done', gate], check=True)


class Watch:
    """Reads a process's memory in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.peak_bytes = 0

    def _read(self) -> None:
        while not self._over.wait(READ_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, pss_of(self._pid))

    @contextmanager
    def on(self) -> Iterator[Watch]:
        """Watch for the time of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join()


def pss_of(pid: int) -> int:
    """Proportional set size in bytes (proc(5), smaps_rollup); 0 once the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def peak_rss_of(pid: int) -> int:
    """The largest resident set the process ever had, in bytes (proc(5), VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def wait_for(what: Callable[[], bool], within_s: float) -> None:
    """Come back when it is true."""
    deadline = time.monotonic() + within_s
    while not what():
        if time.monotonic() > deadline:
            raise RuntimeError("it did not happen in time")
        time.sleep(0.2)


def unacked(broker: RabbitMq, queue: str) -> int:
    """Messages that the agent holds without having settled them."""
    (row,) = [
        line.split("\t")
        for line in broker.control("list_queues", "name", "messages_unacknowledged").splitlines()
        if line.startswith(queue)
    ]
    return int(row[1])


def answered(scene: Bench, wanted: int, within_s: float) -> None:
    """Take answers until there are `wanted` of them, without keeping any."""
    deadline = time.monotonic() + within_s
    with scene.broker.channel() as channel:
        channel.basic_qos(prefetch_count=1000)
        for method, _, body in channel.consume(scene.results_queue, inactivity_timeout=60):
            if method is None or time.monotonic() > deadline:
                raise RuntimeError(f"{wanted} answers are missing\n{scene.log()[-3000:]}")
            channel.basic_ack(method.delivery_tag)
            if b"ep_status_report" in body[:60]:
                continue
            assert unpack_result(body).error_code is None, body
            wanted -= 1
            if not wanted:
                break
        channel.cancel()


def lay(scene: Bench, count: int, size: int, gate: str) -> None:
    """Publish `count` tasks whose messages have about `size` bytes; all but the id is the same."""
    pack = ComputeSerializer()
    filling = os.urandom(max(0, size - 600) * 3 // 4)  # the serializer writes base64
    buffers = pack.pack_buffers(
        [
            pack.serialize(held),
            pack.serialize((str(scene.executed), "x", gate, filling)),
            pack.serialize({}),
        ]
    )
    with scene.broker.channel() as channel:
        for _ in range(count):
            id_ = str(uuid4())
            scene.publish(channel, id_, pack_task(id_, buffers))
    wait_for(lambda: scene.queued() >= count, 120)


def idle(broker: RabbitMq, directory: Path) -> int:
    """The memory of an agent that has nothing to do."""
    with bench(directory, broker) as scene:
        scene.configure(ENGINE)
        agent = scene.start()
        time.sleep(2)
        size = pss_of(agent.pid)
        scene.stop(agent)
    print(f"{'idle':8} PSS {size / MIB:6.1f} MiB", flush=True)
    return size


def run(
    broker: RabbitMq, directory: Path, name: str, sizes: list[tuple[int, int]], floor: int
) -> None:
    """Lay the tasks (count, bytes) before an agent whose worker is held, and print a line."""
    with bench(directory, broker) as scene:
        scene.configure(ENGINE)
        gate = directory / "gate"
        for count, size in sizes:
            lay(scene, count, size, str(gate))
        total = sum(count for count, _ in sizes)
        paths = EndpointPaths.of(scene.root)
        agent = scene.start()
        with Watch(agent.pid).on() as watch:
            wait_for(lambda: bool(call(paths, {"do": "status"})["holds"]), 300)
            wait_for(lambda: unacked(broker, scene.tasks_queue) == 0, 60)
            taken, left = call(paths, {"do": "status"})["tasks"]["waiting"], scene.queued()
            blocked = watch.peak_bytes
            assert taken + left >= total - 4, (taken, left, total)
            gate.touch()
            began = time.monotonic()
            answered(scene, total, 3600)
            seconds = time.monotonic() - began
        journal = sum(f.stat().st_size for f in paths.state.glob("journal*") if f.is_file())
        print(
            f"{name:8} {total:7} tasks: taken at the high mark {taken}, left at the broker {left}, "
            f"unacked 0; PSS peak {blocked / MIB:6.1f} MiB held ({blocked / floor:.2f} x idle), "
            f"{watch.peak_bytes / MIB:6.1f} MiB until all was answered in {seconds:.0f} s "
            f"({watch.peak_bytes / floor:.2f} x), VmHWM {peak_rss_of(agent.pid) / MIB:6.1f} MiB, "
            f"journal {journal / MIB:.1f} MiB at the end; "
            f"{'within' if watch.peak_bytes - floor <= ALLOWED[name] else 'OVER'} "
            f"idle + {ALLOWED[name] // MIB} MiB",
            flush=True,
        )
        scene.stop(agent)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--large", type=int, default=200)
    parser.add_argument("--only", choices=list(ALLOWED), action="append")
    arguments = parser.parse_args()
    queues = {
        "small": [(arguments.tasks, SMALL)],
        "large": [(arguments.large, LARGE)],
        "mixed": [(2_000, SMALL), (arguments.large, LARGE)],
    }
    ensure_engine()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        os.environ["XDG_RUNTIME_DIR"] = str(home / "run")
        (home / "run").mkdir(mode=0o700)
        broker = RabbitMq(home / "ca.pem")
        try:
            broker.create()
            floor = idle(broker, home / "idle")
            for name in arguments.only or list(queues):
                run(broker, home / name, name, queues[name], floor)
        finally:
            broker.remove()


if __name__ == "__main__":
    main()
