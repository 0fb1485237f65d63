"""Measure every endpoint side by side and write the table and the pictures.

    python -m benchmarks.side_by_side [--quick | --trial] [--rounds N] [--only WORD]... [--audit]
        [--before CHECKOUT] [--publish]

Each round runs the endpoints one after another, engine by engine, so that each engine of ours is
measured within minutes of the published ones and of the echo. All share one RabbitMQ in a
container. What was found is written after each step to build/bench/result.json; the table goes to
build/bench/table.md, and with `--publish` into docs/performance.md, the pictures to docs/.

The directories of the endpoints are below the system's temporary directory (TMPDIR): the journal's
speed is that of its disk.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.side_by_side import alone, measure, plots, session, table
from benchmarks.side_by_side.client import AnswersMissing
from benchmarks.side_by_side.endpoints import ENGINES, EchoProcess, Endpoint, Ours, Published
from benchmarks.side_by_side.peers import measure_peer, peers
from benchmarks.side_by_side.sizes import FULL, QUICK, TRIAL, Sizes
from tests.integration import venvs
from tests.integration.docker_engine import ensure_engine
from tests.integration.rabbitmq import RabbitMq

PROJECT = Path(__file__).resolve().parents[2]
OUTPUT = PROJECT / "build" / "bench"
PAGE = PROJECT / "docs" / "performance.md"
BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"


class Run:
    """One run: what was found so far, and where.

    Args:
        sizes: How much.
        only: Words; endpoints whose name has none of them are left out, and so are the parts
            peers, idle and alone.
        audit: Measure ours with an audit log, too.
        before: Another checkout of this project, to be measured as well.
    """

    def __init__(
        self, sizes: Sizes, only: list[str], audit: bool, before: Path | None = None
    ) -> None:
        self._sizes = sizes
        self._audit = audit
        self._before = before
        self._only = only
        self._number = 0
        self.failures: list[str] = []
        self.published: dict[str, Path] = {}
        self.result: dict[str, Any] = {
            "sizes": asdict(sizes),
            "machine": _machine(),
            "figures": {},
            "series": {},
            "alone": {},
            "peers": {},  # name -> the engine of ours beside which it stands
        }

    def wanted(self, name: str) -> bool:
        """Whether this one was asked for."""
        return not self._only or any(word in name for word in self._only)

    def prepare(self) -> None:
        """Make the virtual environments, which takes a minute the first time.

        Our own code is compiled as pip compiles what it installs: a checkout whose programs run
        with PYTHONDONTWRITEBYTECODE would compile itself at each start.
        """
        for checkout in (PROJECT, self._before):
            if checkout is not None:
                compileall.compile_dir(checkout / "cep", quiet=1)
        for version, make in (
            ("2.19", venvs.published_python),
            ("4.19", venvs.published_4_python),
        ):
            try:
                self.published[version] = make()
            except venvs.CannotInstall as exc:
                self._failed(f"NOT MEASURED: the published endpoint {version}. {exc}")

    def endpoints(self, engine: str, workers: int = 2) -> list[Endpoint]:
        """Ours and the published ones with this engine."""
        found: list[Endpoint] = [Ours(engine, workers)]
        found += [Ours(engine, workers, audit=True)] if self._audit else []
        if self._before is not None:
            found.append(Ours(engine, workers, before=self._before))
        found += [Published(v, python, engine, workers) for v, python in self.published.items()]
        return [one for one in found if self.wanted(one.name)]

    def _order(self, engine: str) -> list[Endpoint]:
        """One round: the echo and ours in turn, more than once, then the published ones.

        A machine's speed moves within minutes, and ours is compared with the echo most closely.
        """
        everyone = self.endpoints(engine)
        published = [one for one in everyone if isinstance(one, Published)]
        ours = [one for one in everyone if one not in published]
        return [EchoProcess(), *ours] * self._sizes.turns + published

    def measure(self, url: str, home: Path) -> None:
        """Everything."""
        sizes, began = self._sizes, time.monotonic()
        self.result["fsync_ms"] = measure.fsync_ms(home)
        if self.wanted("alone"):
            found = alone.measure_alone(self.published, sizes.commands, sizes.overhead)
            self.result["alone"] = found
        for number in range(sizes.rounds):
            for engine in ENGINES:
                for endpoint in self._order(engine):
                    self._step(number, engine, endpoint, url, home)
            self._peers(url, home)
        self._idle(url, home)
        self._series(url, home)
        self.result["fsync_ms_after"] = measure.fsync_ms(home)
        self.result["took_s"] = time.monotonic() - began
        self.save()

    def _directory(self, home: Path) -> Path:
        self._number += 1
        return home / f"p{self._number}"

    def _step(self, number: int, engine: str, endpoint: Endpoint, url: str, home: Path) -> None:
        """One endpoint in one round; the echo counts for the engine beside which it ran."""
        sizes, told = self._sizes, f"round {number + 1}: {endpoint.name}"
        name = endpoint.name if endpoint.engine != table.ECHO else f"{table.ECHO} {engine}"
        first = name not in self.result["figures"]
        figures = self._try(
            told,
            lambda: session.measure_all(endpoint, url, self._directory(home), sizes, first=first),
        )
        length = sizes.published_backlog if isinstance(endpoint, Published) else sizes.backlog
        if length and first:
            figures |= self._try(
                f"{told}, backlog of {length:,}",
                lambda: session.measure_backlog(endpoint, url, self._directory(home), length),
            )
            if endpoint.engine != table.ECHO:
                self._point("queue_length", endpoint, length, figures.get("backlog_per_s"))
                self._point("queue_memory", endpoint, length, figures.get("backlog_pss_mib"))
        self._keep(name, figures)

    def _peers(self, url: str, home: Path) -> None:
        if not self.wanted("peers"):
            return
        try:
            python = venvs.peers_python()
        except venvs.CannotInstall as exc:
            self._failed(f"NOT MEASURED: what a user might pick instead. {exc}")
            return
        for peer in peers(python):
            found = self._try(
                peer.name,
                lambda peer=peer: measure_peer(  # type: ignore[misc]
                    peer, url, self._directory(home), self._sizes.burst, self._sizes.singles
                ),
            )
            self._keep(peer.name, found)
            self.result["peers"][peer.name] = peer.instead_of

    def _idle(self, url: str, home: Path) -> None:
        if not self.wanted("idle"):
            return
        everyone = [one for engine in ENGINES for one in self.endpoints(engine)]
        (home / "idle").mkdir()
        found: list[float] = []
        self._try(
            f"idle for {self._sizes.idle_s:g} s, all at the same time",
            lambda: found.extend(
                session.measure_idle(everyone, url, home / "idle", self._sizes)
            ) or {},
        )  # fmt: skip
        for endpoint, used in zip(everyone, found, strict=False):
            self._keep(endpoint.name, {"idle_cpu_s": used * 60 / self._sizes.idle_s})

    def _series(self, url: str, home: Path) -> None:
        for length in self._sizes.queue_lengths:
            for endpoint in [one for engine in ENGINES for one in self.endpoints(engine)]:
                if isinstance(endpoint, Published) and length > self._sizes.published_backlog:
                    continue
                found = self._try(
                    f"{length} waiting: {endpoint.name}",
                    lambda endpoint=endpoint, length=length: session.measure_backlog(  # type: ignore[misc]
                        endpoint, url, self._directory(home), length
                    ),
                )
                self._point("queue_length", endpoint, length, found.get("backlog_per_s"))
                self._point("queue_memory", endpoint, length, found.get("backlog_pss_mib"))
        for size in self._sizes.payload_bytes:
            for endpoint in [one for engine in ENGINES for one in self.endpoints(engine)]:
                found = self._try(
                    f"payload {size}: {endpoint.name}",
                    lambda endpoint=endpoint, size=size: session.measure_payload(  # type: ignore[misc]
                        endpoint, url, self._directory(home), size
                    ),
                )
                self._point("payload", endpoint, size, found.get("payload_mb_per_s"))
        for workers in self._sizes.worker_counts:
            for engine in ("processes", "gce"):
                for endpoint in self.endpoints(engine, workers):
                    found = self._try(
                        f"{workers} workers: {endpoint.name}",
                        lambda endpoint=endpoint, workers=workers: session.measure_workers(  # type: ignore[misc]
                            endpoint, url, self._directory(home), 100 * workers
                        ),
                    )
                    self._point("workers", endpoint, workers, found.get("naps_per_s"))

    def _point(self, series: str, endpoint: Endpoint, at: int, value: Any) -> None:
        if value is not None:
            found = self.result["series"].setdefault(series, {}).setdefault(endpoint.name, {})
            found[str(at)] = value
            self.save()

    def _try(self, told: str, work: Callable[[], session.Figures]) -> session.Figures:
        """Run one step; a failing one is told, and the others go on."""
        began = time.monotonic()
        try:
            found = work()
        except (AnswersMissing, RuntimeError, OSError, psutil.Error) as exc:
            self._failed(f"FAILED: {told}: {exc}")
            return {}
        short = {
            key: f"{statistics.median(value) if isinstance(value, list) else value:.4g}"
            for key, value in found.items()
        }
        print(f"{told} ({time.monotonic() - began:.0f} s): {short}", flush=True)
        return found

    def _failed(self, told: str) -> None:
        print(told, file=sys.stderr, flush=True)
        self.failures.append(told)

    def _keep(self, name: str, figures: session.Figures) -> None:
        if figures:
            self.result["figures"].setdefault(name, []).append(figures)
            self.save()

    def save(self) -> None:
        """Write the result as it is now."""
        OUTPUT.mkdir(parents=True, exist_ok=True)
        (OUTPUT / "result.json").write_text(json.dumps(self.result, indent=1))


def _machine() -> dict[str, Any]:
    """What the reader must know of the machine; nothing that names it."""
    return {
        "processors": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load_before": [round(one, 2) for one in psutil.getloadavg()],
        "date": time.strftime("%Y-%m-%d"),
    }


def report(result: dict[str, Any]) -> str:
    """The whole table as Markdown."""
    machine, sizes = result["machine"], result["sizes"]
    fsync = result.get("fsync_ms", (float("nan"),) * 2)
    minutes = result.get("took_s", 0) / 60
    lines = [
        f"{machine['date']}, {machine['processors']} processors, {machine['memory_gib']} GiB, "
        f"Python {machine['python']}, load before {machine['load_before'][0]}; "
        f"{sizes['rounds']} rounds (ours and the echo {sizes['turns']} times in each) with "
        f"{sizes['bursts']} bursts of {sizes['burst']:,}, "
        f"backlogs of {sizes['backlog']:,} (published: {sizes['published_backlog']:,}), in "
        f"{minutes:.0f} minutes; the disk needs {fsync[0]:.2f} ms (median; 99 %: {fsync[1]:.2f}) "
        "to be sure of 4 KiB.",
        "",
        *table.main_table(result["figures"]),
        "",
        *table.peer_table(result["figures"], result["peers"]),
        "",
        *table.before_table(result["figures"]),
        "",
        *table.alone_table(result["alone"]),
        *table.series_table(result["series"]),
    ]
    return "\n".join(lines) + "\n"


def publish(result: dict[str, Any]) -> None:
    """Put table and pictures into docs/."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    pictures = [
        f"![{path.stem.removeprefix('bench-')}]({path.name})\n"
        for path in plots.draw(result, PAGE.parent)
    ]
    shown = "\n".join([report(result), *pictures])
    PAGE.write_text(f"{before}{BEGIN}\n{shown}{END}{after}")


def main() -> int:
    """Measure, write, print; 1 when a step failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="everything once and small")
    parser.add_argument("--trial", action="store_true", help="only to see that each part works")
    parser.add_argument("--rounds", type=int, help="how often everything is repeated")
    told = "endpoints with this in their name; also: peers, idle, alone"
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help=told)
    parser.add_argument("--audit", action="store_true", help="ours with an audit log, too")
    told = "another checkout of this project, measured as well"
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help=told)
    parser.add_argument("--publish", action="store_true", help="write into docs/ as well")
    options = parser.parse_args()
    sizes = TRIAL if options.trial else QUICK if options.quick else FULL
    if options.rounds:
        sizes = replace(sizes, rounds=options.rounds)
    if importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is missing; `make bench` installs it (extra `bench`)")
    ensure_engine()
    run = Run(sizes, options.only, options.audit, options.before)
    run.prepare()
    with tempfile.TemporaryDirectory(prefix="cepb-") as home:
        broker = RabbitMq(Path(home) / "ca.pem")
        try:
            broker.create()
            run.measure(broker.direct_url, Path(home))
        finally:
            broker.remove()
    text = report(run.result)
    (OUTPUT / "table.md").write_text(text)
    plots.draw(run.result, OUTPUT)
    if options.publish:
        publish(run.result)
    print(text)
    for failure in run.failures:
        print(failure.splitlines()[0], file=sys.stderr)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
