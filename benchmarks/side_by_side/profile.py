"""Where the time goes: the CPU time of each thread of our endpoint during a burst, and in it.

    python -m benchmarks.side_by_side.profile ENGINE [--tasks 5000] [--payload 0]
        [--py-spy PROGRAM] [--top 5]

With --payload each task carries so many bytes there and back. Needs py-spy (`pip install py-spy`).
Two bursts: during the first nothing looks on, and the kernel's own count says what each thread
used; during the second py-spy samples the stacks, and what they show divides each thread's time
among layers (the innermost frame that is ours, pika's, Parsl's or ZeroMQ's). Samples that wait are
left out; so a layer's figure holds its share of the time in which a thread goes to sleep and wakes
up. A call that waits for the disk counts like one that computes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.side_by_side import measure, tasks
from benchmarks.side_by_side.endpoints import ENGINES, Ours
from benchmarks.side_by_side.place import Place, place
from benchmarks.side_by_side.session import Started
from tests.integration.docker_engine import ensure_engine
from tests.integration.rabbitmq import RabbitMq

RATE_PER_S = 200
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*?)(:\d+)?\)$")
_THREAD = re.compile(r'Thread (?P<tid>\d+) \(\w+\)(: "(?P<name>.*)")?')
_STACK = re.compile(r"thread \((?P<tid>\d+)\)")
# In this order: what of a file's path names a layer.
_LAYERS = (
    "cep/amqp", "cep/journal", "cep/agent", "cep/engines", "cep/worker", "cep/wire", "cep/safety",
    "pika", "parsl", "zmq", "dill", "json", "base64",
)  # fmt: skip
_WAITS = frozenset(("poll", "select", "wait", "acquire", "gather", "get", "_wait", "_recv", "recv"))

Threads = dict[tuple[int, int], float]


def layer_of(file: str) -> str | None:
    """The layer a source file belongs to, None for the standard library and others."""
    return next((layer for layer in _LAYERS if f"{layer}/" in file), None)


def thread_cpu_s(directory: Path) -> Threads:
    """CPU seconds of each thread, by process and thread id."""
    found = {}
    for process in measure.marked(directory):
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            used = int((thread / "schedstat").read_text().split()[0])
            found[process.pid, int(thread.name)] = used / measure.NANOSECONDS
    return found


def thread_names(program: str, threads: Threads) -> dict[int, str]:
    """What to call each thread: its process's program, and its name in Python."""
    names = {}
    for pid in {pid for pid, _ in threads}:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        title = " ".join(Path(word.decode(errors="replace")).name for word in words if word)[:46]
        dumped = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for line in dumped.stdout.splitlines():
            if found := _THREAD.match(line):
                names[int(found["tid"])] = f"{title} / {found['name'] or '?'}"
    return names


def sample(where: Place, program: str, buffers: str, count: int) -> Counter[str]:
    """Folded stacks of one burst, with their number of samples."""
    spies = []
    for process in measure.marked(where.directory):
        target = where.directory / f"spy-{process.pid}"
        words = ["record", "--nonblocking", "--format", "raw", "--threads", "--full-filenames"]
        words += ["--rate", str(RATE_PER_S), "--duration", "unlimited", "--output", str(target)]
        argv = [program, *words, "--pid", str(process.pid)]
        silent = subprocess.DEVNULL
        spies.append((subprocess.Popen(argv, stdout=silent, stderr=silent), target))
    where.client.burst(tasks.messages(where.client, tasks.no_op(), 300))  # attached by then
    where.client.burst(tasks.messages(where.client, buffers, count))
    stacks: Counter[str] = Counter()
    for spy, target in spies:
        spy.send_signal(2)
        spy.wait(30)
        if target.exists():
            for line in target.read_text(errors="replace").splitlines():
                stack, _, number = line.rpartition(" ")
                stacks[stack] += int(number)
    return stacks


def by_layer(stacks: Counter[str]) -> dict[int, Counter[str]]:
    """Samples of each thread, by the layer and function they were in; waits are left out."""
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for stack, number in stacks.items():
        thread = _STACK.search(stack)
        frames = [match for frame in stack.split(";") if (match := _FRAME.match(frame))]
        if thread is None or not frames or frames[-1]["function"].split(".")[-1] in _WAITS:
            continue
        inner = next((f for f in reversed(frames) if layer_of(f["file"])), frames[-1])
        layer = layer_of(inner["file"]) or "other"
        found[int(thread["tid"])][f"{layer}: {inner['function']}"] += number
    return found


def report(
    used: Threads, names: dict[int, str], samples: dict[int, Counter[str]], count: int, top: int
) -> list[str]:
    """Lines of text: microseconds per task of each thread, and what they went into."""
    total = sum(used.values()) / count * 1e6
    lines = [f"{total:.0f} us CPU per task in all threads"]
    for (pid, tid), seconds in sorted(used.items(), key=lambda item: -item[1]):
        each = seconds / count * 1e6
        if each < total / 200:
            continue
        lines.append(f"{each:7.1f} us  {names.get(tid, f'process {pid}, not Python')}")
        seen = samples.get(tid, Counter())
        everything = max(seen.total(), 1)
        layers: Counter[str] = Counter()
        for what, number in seen.items():
            layers[what.partition(":")[0]] += number
        for layer, number in layers.most_common():
            lines.append(f"            {each * number / everything:7.1f} us  {layer}")
        for what, number in seen.most_common(top):
            lines.append(f"                {each * number / everything:7.1f} us  {what}")
    return lines


def measure_engine(where: Place, program: str, buffers: str, count: int, top: int) -> list[str]:
    """Both bursts on a started endpoint."""
    messages = tasks.messages(where.client, buffers, count)
    before = thread_cpu_s(where.directory)
    where.client.burst(messages)
    after = thread_cpu_s(where.directory)
    used = {key: spent - before.get(key, 0.0) for key, spent in after.items()}
    names = thread_names(program, used)
    samples = by_layer(sample(where, program, buffers, count))
    return report(used, names, samples, count, top)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--payload", type=int, default=0, help="bytes of each argument and result")
    parser.add_argument("--py-spy", default=shutil.which("py-spy"))
    parser.add_argument("--top", type=int, default=5)
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
                    buffers = tasks.large(options.payload) if options.payload else tasks.no_op()
                    lines = measure_engine(
                        where, options.py_spy, buffers, options.tasks, options.top
                    )
                    print("\n".join(lines))
        finally:
            broker.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
