"""Blocks come, go, fail and are killed: what the HTEX engine makes of it, on this host."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines.base import Submission
from cep.engines.htex import GlobusComputeEngine
from cep.engines.parsl_parts import PLAIN_VARIABLE
from cep.errors import EngineError
from cep.model import OutcomeKind
from cep.wire import result
from tests.unit.engine_rig import Rig, marked_processes, wait_until
from tests.unit.engine_tasks import add, make_bytes, touch_and_wait

DEADLINE_S = 60.0


def settings(workers: int = 1, **changes: Any) -> HtexSettings:
    provider = changes.pop("provider", {})
    htex = {"max_workers_per_node": workers, "cores_per_worker": 0.01, **changes.pop("htex", {})}
    return HtexSettings(provider=ComponentSettings("LocalProvider", provider), htex=htex, **changes)


@pytest.fixture
def rig_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[HtexSettings], Rig]]:
    """Start engines; at the end nothing of them is left: processes, threads, sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    built: list[Rig] = []
    threads = set(threading.enumerate())

    def build(chosen: HtexSettings) -> Rig:
        run_dir = tmp_path / f"an endpoint {len(built)}"
        run_dir.mkdir()
        rig = Rig(GlobusComputeEngine(chosen), run_dir, DEADLINE_S)
        built.append(rig)
        return rig

    yield build
    for rig in built:
        rig.engine.stop(60.0)
        left = marked_processes(rig.run.run_dir)
        psutil.wait_procs(left, timeout=60)
        assert not [process for process in left if process.is_running()]
    assert not set(threading.enumerate()) - threads
    assert not list((tmp_path / "cep").iterdir())


def processes(rig: Rig, word: str) -> list[psutil.Process]:
    """The endpoint's processes whose command line has this word."""
    found = []
    for process in marked_processes(rig.run.run_dir):
        with contextlib.suppress(psutil.Error):
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_workers_are_children_below_the_agent_under_their_titles(
    rig_for: Callable[[HtexSettings], Rig],
) -> None:
    rig = rig_for(settings()).start()
    assert rig.value(add, 1, 1) == 2
    below = {process.pid: process for process in psutil.Process().children(recursive=True)}
    titles = [" ".join(process.cmdline()) for process in below.values()]
    assert any(title.startswith("parsl: HTEX interchange") for title in titles)
    assert {process.pid for process in marked_processes(rig.run.run_dir)} <= set(below)
    assert any("cep.engines.pool_main" in title for title in titles)


def test_nothing_listens_beyond_the_loopback_address(
    rig_for: Callable[[HtexSettings], Rig],
) -> None:
    rig = rig_for(settings()).start()
    assert rig.value(add, 1, 1) == 2
    agent = psutil.Process()
    assert not [one for one in agent.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    sockets = [
        connection.laddr
        for process in marked_processes(rig.run.run_dir)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert sockets
    assert {address.ip.removeprefix("::ffff:") for address in sockets} == {"127.0.0.1"}


def test_workers_of_this_host_come_by_a_unix_socket_and_by_the_network_when_it_was_removed(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings()).start()
    assert rig.value(add, 1, 1) == 2
    (manager,) = processes(rig, "cep.engines.pool_main")
    assert not manager.net_connections("tcp")

    for directory in (tmp_path / "cep").iterdir():  # as logind does when the user logs out
        shutil.rmtree(directory)
    assert rig.value(add, 1, 2) == 3
    manager.kill()
    rig.pump_until(lambda: rig.slots == 0, "the loss of the manager")
    assert rig.value(add, 1, 3) == 4
    (another,) = processes(rig, "cep.engines.pool_main")
    remote = {one.raddr.ip for one in another.net_connections("tcp") if one.raddr}
    assert {address.removeprefix("::ffff:") for address in remote} == {"127.0.0.1"}


def test_a_killed_manager_costs_its_tasks_at_once_and_a_new_block_runs_the_next(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings()).start()
    gate = tmp_path / "gate"
    running = rig.add(touch_and_wait, str(tmp_path / "started"), str(gate))
    waiting = rig.add(add, 2, 3)
    rig.wait_for_file(tmp_path / "started")
    rig.pump_until(lambda: waiting in rig.given, "room for a second task")
    (manager,) = processes(rig, "cep.engines.pool_main")
    manager.kill()
    lost = rig.wait_for([running])[0]
    assert lost.kind is OutcomeKind.LOST
    assert lost.code == result.BLOCK_LOST
    assert "block 0" in lost.reason
    assert rig.wait_for([waiting])[0].kind is OutcomeKind.DONE
    assert not rig.downs


def test_a_task_sent_ahead_is_given_back_when_cancelled_and_kept_when_its_manager_is_killed(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings()).start()
    session = rig.engine._session  # type: ignore[attr-defined]
    for _ in range(100):
        if session._coalescer.short([rig.task(add, 1, 1)]):
            break
        # On a busy machine a run may take so long that its function does not count as short.
        rig.wait_for([rig.add(add, 1, 1) for _ in range(20)])
    else:
        pytest.fail("2,000 additions have not proved short")
    running = rig.add(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "gate"))
    rig.wait_for_file(tmp_path / "started")

    def send_ahead() -> int:
        seq = rig.add(add, 2, 3)
        rig.pump_until(lambda: seq in rig.given, "room for a second task")
        wait_until(lambda: [one["tasks"] for one in managers(session)] == [2])
        return seq

    cancelled = send_ahead()
    rig.give_back_again = False
    rig.engine.cancel([cancelled])
    assert rig.wait_for([cancelled])[0].kind is OutcomeKind.NOT_BEGUN
    rig.give_back_again = True
    wait_until(lambda: [one["tasks"] for one in managers(session)] == [1])
    waiting = send_ahead()
    (manager,) = processes(rig, "cep.engines.pool_main")
    manager.kill()
    assert rig.wait_for([running])[0].kind is OutcomeKind.LOST
    assert rig.wait_for([waiting])[0].kind is OutcomeKind.DONE


def managers(session: Any) -> list[dict[str, Any]]:
    """The interchange's own account of its managers."""
    commands = session._executor._link.commands
    commands.send_pyobj("MANAGERS")
    found: list[dict[str, Any]] = commands.recv_pyobj()
    return found


def test_workers_end_with_their_manager(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings(workers=2)).start()
    rig.add(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "gate"))
    worker = psutil.Process(int(rig.wait_for_file(tmp_path / "started")))
    (manager,) = processes(rig, "cep.engines.pool_main")
    manager.kill()
    worker.wait(timeout=60)


def test_a_lost_task_is_told_when_no_worker_of_its_block_can_begin_another(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings(workers=2)).start()
    lost = rig.add(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "gate"))
    worker = psutil.Process(int(rig.wait_for_file(tmp_path / "started")))
    (manager,) = processes(rig, "cep.engines.pool_main")
    worker.suspend()  # as one that gets no processor, so it does not see the end of its pool
    manager.kill()
    assert rig.wait_for([lost])[0].kind is OutcomeKind.LOST
    with contextlib.suppress(psutil.NoSuchProcess):
        assert worker.status() == psutil.STATUS_ZOMBIE


def test_a_killed_idle_worker_is_replaced_and_the_others_go_on(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings(workers=2)).start()
    gate = tmp_path / "gate"
    gate.touch()
    for turn in range(3):
        started = tmp_path / f"started-{turn}"
        idle = psutil.Process(rig.value(touch_and_wait, str(started), str(gate)))
        idle.kill()
        psutil.wait_procs([idle], timeout=60)
    seqs = [rig.add(add, number, 0) for number in range(20)]
    assert {outcome.kind for outcome in rig.wait_for(seqs)} == {OutcomeKind.DONE}


def test_a_killed_worker_server_is_replaced(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings()).start()
    gate = tmp_path / "gate"
    gate.touch()
    worker = psutil.Process(rig.value(touch_and_wait, str(tmp_path / "started"), str(gate)))
    server = worker.parent()
    assert server is not None
    server.kill()
    worker.kill()
    assert rig.value(add, 1, 1) == 2


def test_signals_to_the_whole_group_do_not_end_the_interchange(
    rig_for: Callable[[HtexSettings], Rig],
) -> None:
    rig = rig_for(settings()).start()
    assert rig.value(add, 1, 1) == 2
    (interchange,) = processes(rig, "HTEX interchange")
    for number in (signal.SIGTERM, signal.SIGINT):
        interchange.send_signal(number)
    assert rig.value(add, 2, 1) == 3
    assert not rig.downs


def test_a_killed_interchange_is_replaced_and_running_tasks_are_lost(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings()).start()
    running = rig.add(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "gate"))
    waiting = rig.add(add, 2, 3)
    rig.wait_for_file(tmp_path / "started")
    rig.pump_until(lambda: waiting in rig.given, "room for a second task")
    old = set(marked_processes(rig.run.run_dir))
    (interchange,) = processes(rig, "HTEX interchange")
    interchange.kill()
    rig.slots = 0  # as the agent does at EngineDown
    lost = rig.wait_for([running])[0]
    assert lost.kind is OutcomeKind.LOST
    rig.pump_until(lambda: bool(rig.downs), "EngineDown")
    assert rig.downs[0].rebuilding
    assert "interchange" in rig.downs[0].reason
    assert rig.wait_for([waiting])[0].kind is OutcomeKind.DONE
    _, alive = psutil.wait_procs(old, timeout=60)
    assert not alive


def test_an_interchange_that_keeps_dying_ends_the_engine(
    rig_for: Callable[[HtexSettings], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cep.engines.htex.DEATHS_WITHIN_S", 600.0)  # on a busy machine, too
    rig = rig_for(settings(provider={"init_blocks": 0})).start()
    for death in range(1, 4):
        rig.pump_until(lambda: bool(processes(rig, "HTEX interchange")), "interchange")
        (interchange,) = processes(rig, "HTEX interchange")
        interchange.kill()
        rig.pump_until(lambda wanted=death: len(rig.downs) >= wanted, "EngineDown")
        if death < 3:
            rig.engine.submit(Submission((), waiting=1))
            rig.pump_until(lambda: rig.slots > 0, "slots of the new engine")
            rig.slots = 0
    assert [down.rebuilding for down in rig.downs] == [True, True, False]
    assert "3 times" in rig.downs[-1].reason


def test_an_interchange_that_dies_again_and_again_but_works_between_is_always_replaced(
    rig_for: Callable[[HtexSettings], Rig],
) -> None:
    """Found by the fault schedule, seed 2026: the third kill within a minute ended the endpoint."""
    rig = rig_for(settings()).start()
    for death in range(1, 4):
        assert rig.wait_for([rig.add(add, 2, 3)])[0].kind is OutcomeKind.DONE
        (interchange,) = processes(rig, "HTEX interchange")
        interchange.kill()
        rig.slots = 0  # as the agent does at EngineDown
        rig.pump_until(lambda wanted=death: len(rig.downs) >= wanted, "EngineDown")
        rig.pump_until(lambda: rig.slots > 0, "slots of the new engine")
    assert all(down.rebuilding for down in rig.downs)


def test_blocks_that_end_at_once_do_not_flood(rig_for: Callable[[HtexSettings], Rig]) -> None:
    worker_init = "echo no such module >&2; exit 1"
    rig = rig_for(settings(provider={"worker_init": worker_init, "max_blocks": 4})).start()
    rig.add(add, 1, 1)
    rig.feed()

    def paused() -> bool:
        return "paused after 3 failed in a row" in rig.engine.status().summary

    wait_until(paused)
    scripts = list((rig.run.run_dir / "submit_scripts").glob("*.sh"))
    assert len(scripts) <= 4  # the first ones are asked for together
    summary = rig.engine.status().summary
    assert "no such module" in summary
    assert "exit status 1" in summary
    assert not rig.outcomes


def test_the_first_block_starts_with_the_first_task(rig_for: Callable[[HtexSettings], Rig]) -> None:
    rig = rig_for(settings(provider={"init_blocks": 0})).start()
    assert rig.engine.status().summary == "blocks 0/1, first starts with the first task"
    assert not processes(rig, "pool_main")
    assert rig.value(add, 1, 1) == 2
    wait_until(lambda: rig.engine.status().summary == "blocks 1/1, 1 worker, 1 idle")


def test_two_blocks_come_with_demand_and_go_when_idle(
    rig_for: Callable[[HtexSettings], Rig], tmp_path: Path
) -> None:
    rig = rig_for(settings(provider={"max_blocks": 2}, max_idletime_s=0.5)).start()
    gate = tmp_path / "gate"
    seqs = [rig.add(touch_and_wait, str(tmp_path / f"s{n}"), str(gate)) for n in range(2)]
    for n in range(2):
        rig.wait_for_file(tmp_path / f"s{n}")
    # Engine and block thread hear of the pools a moment after the interchange has used them.
    wait_until(lambda: rig.engine.status().workers == 2)
    wait_until(lambda: [b["state"] for b in rig.engine.status().blocks] == ["running"] * 2)
    gate.touch()
    rig.wait_for(seqs)
    rig.pump_until(lambda: rig.slots == 0, "slots without blocks")
    wait_until(lambda: rig.engine.status().blocks == ())
    summary = "blocks 0/2, first starts with the first task"
    wait_until(lambda: rig.engine.status().summary == summary)
    assert rig.value(add, 1, 1) == 2


def test_a_lower_priority_number_does_not_hinder_and_a_text_is_refused(
    rig_for: Callable[[HtexSettings], Rig],
) -> None:
    rig = rig_for(settings()).start()
    assert rig.call(add, 1, 1, resource_specification='{"priority": 2}').kind is OutcomeKind.DONE
    refused = rig.call(add, 1, 1, resource_specification='{"priority": "high"}')
    assert refused.kind is OutcomeKind.REFUSED
    assert "priority" in refused.reason


def test_a_start_with_a_taken_port_fails_with_the_reason_and_leaves_nothing(
    rig_for: Callable[[HtexSettings], Rig],
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        rig = rig_for(settings(htex={"worker_port": taken.getsockname()[1]}))
        descriptors = open_descriptors()
        with pytest.raises(EngineError, match="Address already in use"):
            rig.start()
        wait_until(lambda: not marked_processes(rig.run.run_dir))
        wait_until(lambda: open_descriptors() <= descriptors)


def test_stop_leaves_no_descriptor_and_no_temporary_file(
    rig_for: Callable[[HtexSettings], Rig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    warm = rig_for(settings()).start()
    warm.value(add, 1, 1)
    warm.engine.stop(60.0)
    descriptors = open_descriptors()
    rig = rig_for(settings()).start()
    rig.value(add, 1, 1)
    rig.engine.stop(60.0)
    wait_until(lambda: open_descriptors() <= descriptors)
    wait_until(lambda: not list(temporary.iterdir()))


def test_tiny_tasks_travel_together(rig_for: Callable[[HtexSettings], Rig]) -> None:
    rig = rig_for(settings()).start()
    for _ in range(20):
        rig.wait_for([rig.add(add, number, 0) for number in range(30)])
        before = rig.engine.status().report["total_tasks"]
        rig.wait_for([rig.add(add, number, 0) for number in range(400)])
        if rig.engine.status().report["total_tasks"] - before < 200:
            return
        # On a busy machine a run may take so long that its function does not count as tiny.
    pytest.fail("no 400 of 8,000 tiny tasks travelled together")


def test_without_coalescing_every_task_travels_alone(
    rig_for: Callable[[HtexSettings], Rig],
) -> None:
    rig = rig_for(settings(coalesce=False)).start()
    rig.wait_for([rig.add(add, number, 0) for number in range(100)])
    assert rig.engine.status().report["total_tasks"] == 100


def test_parsl_is_imported_plainly_where_the_light_way_is_off(
    rig_for: Callable[[HtexSettings], Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLAIN_VARIABLE, "1")
    rig = rig_for(settings()).start()
    assert rig.value(make_bytes, 3) == b"xxx"


def open_descriptors() -> int:
    """How many file descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


AGENT = """
import sys, threading
from pathlib import Path
from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines.base import EngineRun, SlotsChanged
from cep.engines.htex import GlobusComputeEngine
root = Path(sys.argv[1])
up = threading.Event()
engine = GlobusComputeEngine(HtexSettings(htex={"max_workers_per_node": 1}))
engine.start(
    EngineRun("e", "n", root, root / "slots", root / "over"),
    lambda event: up.set() if isinstance(event, SlotsChanged) else None,
)
assert up.wait(120)
print("up", flush=True)
threading.Event().wait()
"""


def test_a_killed_agent_takes_its_interchange_and_blocks_along(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"up\n"
        family = marked_processes(tmp_path)
        assert len(family) >= 4
        agent.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert not list((tmp_path / "cep").iterdir()), "the interchange removes what is left"
