"""Who may run an endpoint: real files, real processes, and hosts that the test makes up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from cep.agent.host import Host, process_start, this_host
from cep.agent.lease import HeldLease, Lease, Standing, acquire, judge, read
from cep.agent.lease_file import name_of
from cep.errors import AlreadyRunning, CantCreate, LeaseLost
from cep.paths import EndpointPaths

ROOT = Path(__file__).resolve().parents[2]
OTHER = Host(name="login2.example.org", machine_id="b" * 32, boot_id="boot-of-login2")


@pytest.fixture
def paths(tmp_path: Path) -> EndpointPaths:
    root = tmp_path / "my-endpoint"
    root.mkdir()
    return EndpointPaths.of(root)


def take(paths: EndpointPaths, host: Host | None = None, *, take_over: bool = False) -> HeldLease:
    return acquire(paths, period_s=30, control_socket="/run/x.sock", take_over=take_over, host=host)


def names(paths: EndpointPaths) -> list[str]:
    return sorted(file.name for file in paths.root.iterdir())


def ended_pid() -> int:
    """The pid of a process that has ended and was waited for."""
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    return child.pid


def write_lease(paths: EndpointPaths, **changes: object) -> Lease:
    """Leave a lease as another process would have."""
    here = this_host()
    lease = Lease(
        host=here.name,
        machine_id=here.machine_id,
        boot_id=here.boot_id,
        pid=1,
        start_time=0,
        token="an-old-token",
        renewed=datetime.now(timezone.utc),
        period_s=30.0,
        control_socket="/gone.sock",
    )
    lease = replace(lease, **changes)  # type: ignore[arg-type]
    paths.lease.write_bytes(lease.encode())
    return lease


def of_host(host: Host) -> dict[str, object]:
    return {"host": host.name, "machine_id": host.machine_id, "boot_id": host.boot_id}


def test_the_lease_says_who_runs_and_daemon_pid_says_it_to_the_published_tools(
    paths: EndpointPaths,
) -> None:
    held = take(paths)
    fields = json.loads(paths.lease.read_text())
    here = this_host()
    assert fields["host"] == here.name
    assert fields["machine_id"] == here.machine_id
    assert fields["boot_id"] == here.boot_id
    assert fields["pid"] == os.getpid()
    assert fields["start_time"] == process_start(os.getpid())
    assert fields["token"] == held.token
    assert fields["control_socket"] == "/run/x.sock"
    assert fields["renewed"].endswith("Z")
    assert paths.pid_file.read_text() == str(os.getpid())
    assert not held.after_crash
    assert names(paths) == ["daemon.pid", "lease.json"]
    assert paths.lease.stat().st_mode & 0o777 == 0o600
    held.release()
    assert names(paths) == []
    held.release()


def test_a_second_agent_on_this_host_is_refused_with_the_pid(paths: EndpointPaths) -> None:
    held = take(paths)
    for take_over in (False, True):
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}") as refused:
            take(paths, take_over=take_over)
        assert refused.value.exit_code == 73
        assert "cep stop my-endpoint" in str(refused.value)
    held.check()
    assert names(paths) == ["daemon.pid", "lease.json"]
    held.release()


def test_another_hosts_lease_prints_both_ways_on(paths: EndpointPaths) -> None:
    write_lease(paths, **of_host(OTHER))
    before = paths.lease.read_bytes()
    with pytest.raises(AlreadyRunning) as refused:
        take(paths)
    text = str(refused.value)
    assert "ssh login2.example.org cep stop my-endpoint" in text
    assert "cep start my-endpoint --take-over" in text
    assert paths.lease.read_bytes() == before


def test_a_silent_hosts_lease_still_needs_take_over(paths: EndpointPaths) -> None:
    long_ago = datetime.now(timezone.utc) - timedelta(days=2)
    write_lease(paths, **of_host(OTHER), renewed=long_ago)
    with pytest.raises(AlreadyRunning, match="silent"):
        take(paths)
    held = take(paths, take_over=True)
    assert held.after_crash
    assert read(paths) is not None
    assert held.token == read(paths).token  # type: ignore[union-attr]
    held.release()


def test_a_start_from_a_copied_directory_on_another_machine_is_refused(
    paths: EndpointPaths, tmp_path: Path
) -> None:
    held = take(paths)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", paths.root, copy], check=True)
    with pytest.raises(AlreadyRunning, match=this_host().name):
        take(EndpointPaths.of(copy), OTHER)
    same_name = replace(this_host(), machine_id="c" * 32, boot_id="another")
    with pytest.raises(AlreadyRunning, match="--take-over"):
        take(EndpointPaths.of(copy), same_name)
    held.check()
    held.release()


def dead(paths: EndpointPaths) -> None:
    write_lease(paths, pid=ended_pid(), start_time=1)


def reused(paths: EndpointPaths) -> None:
    start = process_start(os.getpid())
    assert start is not None
    write_lease(paths, pid=os.getpid(), start_time=start - 1)


def rebooted(paths: EndpointPaths) -> None:
    start = process_start(os.getpid())
    write_lease(paths, pid=os.getpid(), start_time=start, boot_id="the-boot-before")


def torn(paths: EndpointPaths) -> None:
    write_lease(paths)
    os.truncate(paths.lease, 60)


def empty(paths: EndpointPaths) -> None:
    paths.lease.write_bytes(b"")


def foreign(paths: EndpointPaths) -> None:
    paths.lease.write_text('["not", "a", "lease"]')


@pytest.mark.parametrize("leave", [dead, reused, rebooted, torn, empty, foreign])
def test_a_stale_lease_is_taken_at_once_and_flagged(
    paths: EndpointPaths, leave: Callable[[EndpointPaths], None]
) -> None:
    leave(paths)
    paths.pid_file.write_text("1")
    held = take(paths)
    assert held.after_crash
    held.check()
    assert paths.pid_file.read_text() == str(os.getpid())
    assert names(paths) == ["daemon.pid", "lease.json"]
    held.release()
    assert names(paths) == []


def test_a_process_that_was_killed_leaves_a_stale_lease(paths: EndpointPaths) -> None:
    script = (
        "import sys, pathlib; from cep.agent.lease import acquire;"
        "from cep.paths import EndpointPaths;"
        "acquire(EndpointPaths.of(pathlib.Path(sys.argv[1])), period_s=30, control_socket='',"
        " take_over=False); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(paths.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=f"process {child.pid}"):
            take(paths)
        child.send_signal(signal.SIGKILL)
        # A zombie holds nothing: it need not even be waited for.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        held = take(paths)
    assert held.after_crash
    held.release()


def test_take_over_fences_the_old_agent_out(paths: EndpointPaths) -> None:
    old = take(paths, OTHER)
    new = take(paths, take_over=True)
    assert new.token != old.token
    for look in (old.check, old.renew):
        with pytest.raises(LeaseLost, match="taken over"):
            look()
    old.release()
    new.check()
    assert paths.pid_file.exists()
    new.release()


def test_a_renewal_that_comes_too_late_harms_nobody(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old agent hangs between its look and its write; the lease is taken over meanwhile."""
    old = take(paths, OTHER)
    monkeypatch.setattr(old, "check", lambda: None)
    new = take(paths, take_over=True)
    old.renew()
    new.check()
    assert read(paths).token == new.token  # type: ignore[union-attr]
    new.release()


def test_renewing_moves_the_moment_and_nothing_else(paths: EndpointPaths) -> None:
    held = take(paths)
    before = json.loads(paths.lease.read_text())
    os.utime(paths.pid_file, (0, 0))
    held.renew()
    after = json.loads(paths.lease.read_text())
    assert after["renewed"] > before["renewed"]
    assert {**after, "renewed": ""} == {**before, "renewed": ""}
    assert paths.pid_file.stat().st_mtime > 1_000_000
    held.release()


def test_a_lease_that_somebody_deleted_is_written_again(paths: EndpointPaths) -> None:
    held = take(paths)
    paths.lease.unlink()
    held.check()
    assert read(paths).token == held.token  # type: ignore[union-attr]
    held.renew()
    assert names(paths) == ["daemon.pid", "lease.json"]
    paths.lease.unlink()
    other = take(paths, OTHER)
    with pytest.raises(LeaseLost):
        held.check()
    held.release()
    other.check()
    other.release()


def test_a_link_to_nowhere_in_the_leases_place_is_told(paths: EndpointPaths) -> None:
    paths.lease.symlink_to(paths.root / "nowhere")
    with pytest.raises(CantCreate, match="neither read nor made"):
        take(paths)
    assert names(paths) == ["lease.json"]


def test_looks_from_several_threads_restore_a_deleted_lease_once(paths: EndpointPaths) -> None:
    held = take(paths)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            paths.lease.unlink()
            for look in [pool.submit(held.check) for _ in range(4)]:
                look.result()
            held.renew()
    assert names(paths) == ["daemon.pid", "lease.json"]
    assert judge(read(paths)) is Standing.ALIVE  # type: ignore[arg-type]
    held.release()


def test_an_unreadable_file_system_is_no_reason_to_stop(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = take(paths)

    def stale(_: Path) -> bytes:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", stale)
        held.check()
        held.check()
    assert len([r for r in caplog.records if r.event == "lease.unreadable"]) == 1  # type: ignore[attr-defined]
    held.check()
    held.release()


def test_a_directory_that_cannot_be_written_is_said(paths: EndpointPaths) -> None:
    paths.root.rmdir()
    with pytest.raises(CantCreate, match=r"lease\.json cannot be written"):
        take(paths)


def test_a_living_published_endpoint_is_not_disturbed(paths: EndpointPaths) -> None:
    with published_endpoint() as child:
        assert child.stdin is not None
        paths.pid_file.write_text(f"{child.pid}\n")
        with pytest.raises(AlreadyRunning, match=str(child.pid)):
            take(paths)
        child.stdin.close()
        child.wait()
    held = take(paths)
    assert held.after_crash
    held.release()


def published_endpoint() -> subprocess.Popen[bytes]:
    """A process with the published endpoint's title; it ends when its input is closed."""
    cat = shutil.which("cat")
    child = subprocess.Popen(
        ["Globus Compute Endpoint (x, y)"],
        executable=cat,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    # For a moment of its execve a process has no command line yet; an echo is past that.
    child.stdin.write(b"there?\n")
    child.stdin.flush()
    assert child.stdout.readline() == b"there?\n"
    return child


def test_a_contender_without_hard_links_creates_exclusively(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    dead(paths)
    held = take(paths)
    held.check()
    with pytest.raises(AlreadyRunning):
        take(paths)
    held.release()
    assert names(paths) == []


def test_relics_of_contenders_that_died_are_swept(paths: EndpointPaths) -> None:
    for relic in ("new-1", "after-2", "old-3"):
        file = paths.root / f"lease.json.{relic}"
        file.write_text("relic")
        os.utime(file, (0, 0))
    fresh = paths.root / "lease.json.new-fresh"
    fresh.write_text("of a contender that may be alive")
    held = take(paths)
    assert names(paths) == ["daemon.pid", "lease.json", "lease.json.new-fresh"]
    held.release()


def test_a_claim_whose_maker_died_does_not_block_the_endpoint(paths: EndpointPaths) -> None:
    dead(paths)
    stale = paths.lease.read_bytes()
    claim = paths.root / f"lease.json.after-{name_of(stale)}"
    write_lease(paths, pid=ended_pid(), start_time=2, token="a-claimant")
    paths.lease.rename(claim)
    paths.lease.write_bytes(stale)
    held = take(paths)
    held.check()
    assert names(paths) == ["daemon.pid", "lease.json"]
    held.release()


RACER = """
import sys, pathlib
from cep.agent.lease import acquire
from cep.errors import AlreadyRunning
from cep.paths import EndpointPaths
print("here", flush=True)
sys.stdin.readline()
held = []
for root in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        paths = EndpointPaths.of(root)
        held.append(acquire(paths, period_s=30, control_socket="", take_over=False))
        print("won", root.name)
    except AlreadyRunning:
        print("lost", root.name)
print("done", flush=True)
sys.stdin.readline()
for lease in held:
    lease.check()
print("kept", len(held), flush=True)
"""


def clean(paths: EndpointPaths) -> None:
    """Nothing is left by an earlier life."""


@pytest.mark.parametrize("leave", [clean, dead, rebooted, torn])
def test_of_many_starts_at_once_exactly_one_wins(
    tmp_path: Path, leave: Callable[[EndpointPaths], None]
) -> None:
    roots = [tmp_path / f"endpoint-{number:02}" for number in range(25)]
    for root in roots:
        root.mkdir()
        leave(EndpointPaths.of(root))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(6)
    ]
    lines: list[str] = []
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "here\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        for racer in racers:
            assert racer.stdout is not None
            for line in iter(racer.stdout.readline, "done\n"):
                assert line, "a racer died"
                lines.append(line.strip())
        kept = [racer.communicate("end\n", timeout=60)[0] for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    winners = sorted(line.removeprefix("won ") for line in lines if line.startswith("won"))
    assert winners == [root.name for root in roots]
    assert len(lines) == len(roots) * len(racers)
    assert sum(int(text.split()[1]) for text in kept) == len(roots)


@pytest.mark.parametrize(
    ("silent_s", "standing"),
    [(0, Standing.ELSEWHERE), (89, Standing.ELSEWHERE), (91, Standing.SILENT)],
)
def test_another_host_is_silent_after_three_periods(
    paths: EndpointPaths, silent_s: int, standing: Standing
) -> None:
    lease = write_lease(paths, **of_host(OTHER))
    assert judge(lease, now=lease.renewed + timedelta(seconds=silent_s)) is standing


def test_clocks_that_disagree_do_not_make_a_lease_silent(paths: EndpointPaths) -> None:
    lease = write_lease(paths, **of_host(OTHER))
    assert judge(lease, now=lease.renewed - timedelta(hours=1)) is Standing.ELSEWHERE
