"""A wall clock that is set forwards and backwards, by hours and years, under a running agent.

libfaketime gives the agent and its children a clock of their own that the test sets while they
run. As when an administrator or a time service sets a real clock, only the time of day jumps: the
monotonic clock goes on.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psutil
import pytest

from cep.agent import lease
from cep.paths import EndpointPaths
from tests.integration.agent_rig import Account, Bench, bench, note
from tests.integration.faults.broken_fs import command, need
from tests.integration.faults.fs_rig import (
    LONG,
    THREADS,
    enter_account,
    gated,
    long_only,
    wait_for_trace,
    wait_until,
)
from tests.integration.rabbitmq import RabbitMq

HTEX = "engine: {type: GlobusComputeEngine, max_workers_per_node: 2}\nheartbeat_period: 5\n"
YEAR = timedelta(days=365)
# In this order; the sums stay behind 1990 and before 2038, as file systems want.
JUMPS = {
    "5 hours on": timedelta(hours=5),
    "5 hours back": timedelta(hours=-5),
    "8 years on": 8 * YEAR,
    "20 years back": -20 * YEAR,
}
AGED = "8 years on"


class Clock:
    """The clock of whatever is started with `variables`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(timedelta())
        self.offset = timedelta()

    @property
    def variables(self) -> dict[str, str]:
        """Environment of a process that lives by this clock."""
        return {
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, offset: timedelta) -> None:
        """Let the clock differ by so much from the real one."""
        self.offset = offset
        new = self._file.with_name("clock.new")
        new.write_text(f"{offset.total_seconds():+.0f}\n")
        new.rename(self._file)

    def now(self) -> datetime:
        """What it shows."""
        return datetime.now(timezone.utc) + self.offset


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    need(command("faketime", "faketime"))
    return Clock(tmp_path)


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        made.configure(THREADS)
        yield made


def start(scene: Bench, clock: Clock) -> subprocess.Popen[bytes]:
    """Start the agent by this clock; `-m` takes the library that knows threads."""
    variables = {**clock.variables, "LD_PRELOAD": str(library())}
    agent = scene.start(variables=variables)
    since = datetime.fromisoformat(wait_until(scene, lambda _seen: True)["since"])
    assert abs(since - clock.now()) < timedelta(minutes=1), "the agent does not see this clock"
    return agent


def library() -> Path:
    """libfaketime for programs with threads."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "libfaketime is not where Debian puts it"
    return found[0]


def wait_for_renewal(scene: Bench, clock: Clock) -> None:
    """Wait until the lease was renewed by the clock as it stands now."""
    deadline = time.monotonic() + 60
    while True:
        found = lease.read(EndpointPaths.of(scene.root))
        if found is not None and abs(found.renewed - clock.now()) < timedelta(minutes=1):
            return
        assert time.monotonic() < deadline, scene.log()


@pytest.fixture
def logins(scene: Bench) -> Iterator[list[str]]:
    """Addresses for two users of the broker; the first is the agent's."""
    names = ("first-clock", "second-clock")
    may = {"configure": ".*", "write": ".*", "read": ".*"}
    urls = [scene.broker.add_user(name, "secret", **may) for name in names]
    scene.url = urls[0]
    yield urls
    for name in names:
        with contextlib.suppress(urllib.error.HTTPError):  # the first one is gone by then
            scene.broker.remove_user(name)


def test_a_clock_that_jumps_by_hours_and_years_costs_nothing(
    scene: Bench, clock: Clock, logins: list[str]
) -> None:
    agent = start(scene, clock)
    account = Account(scene.labels)
    submitted = 0
    for name, jump in JUMPS.items():
        reports = len(scene.reports)
        clock.set(clock.offset + jump)
        if name == AGED:  # new credentials are had when the token is years too old
            scene.url = logins[1]
            scene.broker.remove_user("first-clock")
            scene.broker.close_connections("first-clock")
        scene.submit(note, [f"{name.replace(' ', '-')}-{n}" for n in range(20)])
        submitted += 20
        scene.collect(submitted, onto=account)
        if name == AGED:
            assert len(scene.registrations) == 2
            enter_account("token expired by a clock jump", account, submitted)
        if LONG or name == "20 years back":  # each costs a heartbeat
            wait_for_renewal(scene, clock)
            deadline = time.monotonic() + 60
            while len(scene.reports) == reports:
                assert time.monotonic() < deadline, "no heartbeat after the jump"
                scene.collect(submitted + 1, within_s=0.2, onto=account)
    assert account.errors == []
    scene.kill(agent)  # and it starts again in a past in which it never was
    clock.set(clock.offset - 2 * YEAR)
    agent = start(scene, clock)
    scene.submit(note, ["after"])
    scene.collect(submitted + 1, onto=account)
    enter_account("clock set by hours and years", account, submitted + 1)
    assert scene.stop(agent) == 0


@long_only
def test_managers_of_blocks_outlive_a_clock_that_jumps(scene: Bench, clock: Clock) -> None:
    scene.configure(HTEX)
    agent = start(scene, clock)
    scene.submit(note, [f"before-{n}" for n in range(4)])
    account = scene.collect(4)
    submitted = 4
    for number, jump in enumerate(JUMPS.values()):
        gate = scene.directory / f"gate-{number}"
        running = [f"running-{number}-{n}" for n in range(2)]
        scene.submit(gated, running, str(gate))
        for label in running:
            wait_for_trace(scene, label)
        clock.set(clock.offset + jump)
        scene.submit(note, [f"waiting-{number}-{n}" for n in range(4)])
        gate.touch()
        submitted += 6
        scene.collect(submitted, onto=account)
    assert account.errors == [], next(a for a in account.answers.values() if a.error_code)
    enter_account("clock set under blocks", account, submitted)
    # No orderly stop: clock_nanosleep(2) to an absolute moment, on which Python's sleep stands,
    # fails under libfaketime 0.9.10. What the agent leaves ends by itself.
    below = psutil.Process(agent.pid).children(recursive=True)
    scene.kill(agent)
    _, alive = psutil.wait_procs(below, timeout=60)
    assert alive == []
