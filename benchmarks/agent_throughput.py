"""What the whole endpoint costs per task, against a bare echo through the same broker.

    python -m benchmarks.agent_throughput [--tasks 5000] [--engines threads,processes] [--audit]

For each engine: no-op tasks wait in the queue, the agent starts, and the time from the first to the
last result counts; then single tasks go one at a time. The echo (pika consume, ack, publish with
confirms, one thread) runs right before each engine on the same RabbitMQ container, and what matters
is the ratio. With `--audit` each engine runs a second time with an audit file, right after. The web
service is the stand-in of the integration tests.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.link_echo import echo_with_bare_pika, measure
from cep.wire.result import unpack_result
from tests.integration.agent_rig import Bench, bench
from tests.integration.docker_engine import ensure_engine
from tests.integration.rabbitmq import RabbitMq

ENGINES = {
    "threads": "engine: {type: ThreadPoolEngine, max_workers: 2}\n",
    "processes": "engine: {type: ProcessPoolEngine, max_workers: 2}\n",
    "htex": "engine: {type: GlobusComputeEngine, max_workers_per_node: 2}\n",
}


def nothing(_executed: str, _label: str) -> None:
    """The no-op."""


def answers(scene: Bench, wanted: int) -> tuple[float, float]:
    """Times (s, monotonic) of the first and of the last of `wanted` answers."""
    first = last = 0.0
    with scene.broker.channel() as channel:
        channel.basic_qos(prefetch_count=1000)
        for method, _, body in channel.consume(scene.results_queue, inactivity_timeout=120):
            if method is None:
                raise RuntimeError(f"{wanted} answers are missing\n{scene.log()}")
            channel.basic_ack(method.delivery_tag)
            if b"ep_status_report" in body[:60]:
                continue
            assert unpack_result(body).error_code is None, body
            last = time.monotonic()
            first = first or last
            wanted -= 1
            if not wanted:
                break
        channel.cancel()
    return first, last


def run(broker: RabbitMq, engine: str, tasks: int, more: str = "") -> float:
    """Measure one engine, print a line and return tasks/s.

    Args:
        broker: Running.
        engine: One of `ENGINES`.
        tasks: How many.
        more: Lines for the configuration.
    """
    seconds, _ = measure(echo_with_bare_pika, broker.url, tasks, 2000)
    rate = tasks / seconds
    with tempfile.TemporaryDirectory() as directory, bench(Path(directory), broker) as scene:
        scene.configure(ENGINES[engine] + more)
        scene.submit(nothing, ["x"] * tasks)
        began = time.monotonic()
        agent = scene.start()
        ready = time.monotonic()
        first, last = answers(scene, tasks)
        cpu = psutil.Process(agent.pid).cpu_times()
        single = []
        for _ in range(20):
            scene.submit(nothing, ["x"])
            sent = time.monotonic()
            single.append(answers(scene, 1)[1] - sent)
        scene.stop(agent)
    throughput = (tasks - 1) / (last - first)
    print(
        f"{engine:10} {throughput:7.0f} tasks/s; echo {rate:7.0f}/s; "
        f"ratio {throughput / rate:.2f}; "
        f"ready {ready - began:.2f} s, first result {first - began:.2f} s; "
        f"agent CPU per 1,000 tasks {(cpu.user + cpu.system) / tasks * 1000:.2f} s; "
        f"one at a time {statistics.median(single) * 1000:.1f} ms (consumer start included)",
        flush=True,
    )
    return throughput


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--audit", action="store_true")
    arguments = parser.parse_args()
    ensure_engine()
    with tempfile.TemporaryDirectory() as directory:
        broker = RabbitMq(Path(directory) / "ca.pem")
        try:
            broker.create()
            for engine in arguments.engines.split(","):
                plain = run(broker, engine, arguments.tasks)
                if arguments.audit:
                    audited = run(broker, engine, arguments.tasks, "audit_log: audit.log\n")
                    print(f"{engine:10} with audit / without: {audited / plain:.2f}", flush=True)
        finally:
            broker.remove()


if __name__ == "__main__":
    main()
