"""Where the time goes: samples of all threads and processes of our endpoint during a burst.

    python -m benchmarks.side_by_side.profile ENGINE [--tasks 5000] [--py-spy PROGRAM] [--top 15]

Needs py-spy (`pip install py-spy`). It samples the endpoint while it works off a burst, and the
CPU time that the processes really used is divided among what the samples show: by layer (the
innermost frame that is ours, pika's, Parsl's or ZeroMQ's), and by line for the most expensive ones.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.side_by_side import measure, tasks
from benchmarks.side_by_side.endpoints import ENGINES, Ours
from benchmarks.side_by_side.place import Place, place
from benchmarks.side_by_side.session import Started
from tests.integration.docker_engine import ensure_engine
from tests.integration.rabbitmq import RabbitMq

RATE_PER_S = 250
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*?)(:\d+)?\)$")
# In this order: what of a file's path names a layer.
_LAYERS = (
    "cep/amqp", "cep/journal", "cep/agent", "cep/engines", "cep/worker", "cep/wire", "cep/safety",
    "pika", "parsl", "zmq", "dill", "json",
)  # fmt: skip


def layer_of(file: str) -> str | None:
    """The layer a source file belongs to, None for the standard library and others."""
    return next((layer for layer in _LAYERS if f"{layer}/" in file), None)


def sample(place_: Place, program: str, count: int) -> tuple[Counter[str], float]:
    """Folded stacks with their number of samples, and CPU seconds, of one burst."""
    stacks: Counter[str] = Counter()
    spies = []
    for process in measure.marked(place_.directory):
        target = place_.directory / f"spy-{process.pid}"
        words = ["record", "--nonblocking", "--format", "raw", "--threads", "--full-filenames"]
        argv = [program, *words, "--rate", str(RATE_PER_S), "--output", target]
        spies.append(
            (
                subprocess.Popen(
                    [*argv, "--pid", str(process.pid), "--duration", "unlimited"],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                ),
                target,
            )
        )
    messages = tasks.messages(place_.client, tasks.no_op(), count)
    place_.client.burst(messages[:200])  # py-spy is attached by then
    before = measure.cpu_s(place_.directory)
    place_.client.burst(messages[200:])
    used = measure.cpu_between(before, measure.cpu_s(place_.directory))
    for spy, target in spies:
        spy.send_signal(2)
        spy.wait(30)
        if target.exists():
            for line in target.read_text(errors="replace").splitlines():
                stack, _, number = line.rpartition(" ")
                stacks[stack] += int(number)
    return stacks, used / (count - 200)


def told(stacks: Counter[str], used_s: float, top: int) -> list[str]:
    """Lines of text: microseconds per task by layer, then by function."""
    total = sum(stacks.values())
    layers: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for stack, number in stacks.items():
        frames = [found for frame in stack.split(";") if (found := _FRAME.match(frame))]
        thread = stack.split(";")[0]
        inner = next((f for f in reversed(frames) if layer_of(f["file"])), None)
        layers[(layer_of(inner["file"]) or "?") if inner else f"other: {thread[:40]}"] += number
        if frames:
            shown = inner or frames[-1]
            short = "/".join(Path(shown["file"]).parts[-2:])
            leaf = "" if shown is frames[-1] else f" -> {frames[-1]['function']}"
            functions[f"{short} {shown['function']}{leaf}"] += number
    per_task = used_s * 1e6 / max(total, 1)
    lines = [f"{used_s * 1e6:.0f} us CPU per task, {total} samples"]
    lines += [f"{number * per_task:7.1f} us  {name}" for name, number in layers.most_common()]
    lines.append("")
    lines += [f"{n * per_task:7.1f} us  {name}" for name, n in functions.most_common(top)]
    return lines


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--py-spy", default=shutil.which("py-spy"))
    parser.add_argument("--top", type=int, default=25)
    options = parser.parse_args()
    if options.py_spy is None:
        parser.error("py-spy is not on the PATH; install it or name it with --py-spy")
    ensure_engine()
    with tempfile.TemporaryDirectory(prefix="cepb-") as home:
        broker = RabbitMq(Path(home) / "ca.pem")
        try:
            broker.create()
            with place(broker.direct_url, Path(home) / "p") as where:
                first = tasks.messages(where.client, tasks.no_op(), 1)
                with Started(Ours(options.engine), where, first):
                    where.client.take(1)
                    where.client.burst(tasks.messages(where.client, tasks.no_op(), 300))
                    stacks, used_s = sample(where, options.py_spy, options.tasks)
        finally:
            broker.remove()
    print("\n".join(told(stacks, used_s, options.top)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
