"""What an endpoint does in one fault, exactly: who runs, who is answered with what, in which order.

The schedule (`test_fault_schedule.py`) draws faults at random and counts; these runs are made so
that each task's fate is known beforehand.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.agent_rig import Bench, bench, note
from tests.integration.faults import table
from tests.integration.faults.schedule import Sitting
from tests.integration.faults.settings import LONG
from tests.integration.faults.site import Site, site
from tests.integration.rabbitmq import RabbitMq
from tests.integration.scene import until

RECOVERY_LIMIT_S = 5.0
ONE_WORKER = "heartbeat_period: 5\nengine: {{type: {}, max_workers: 1}}\n"
ENGINE_TYPES = {"threads": "ThreadPoolEngine", "processes": "ProcessPoolEngine"}
ALARM, NO_ALARM = "0.000001", "0.6"


def note_and_wait_for(executed: str, label: str, gate: str) -> str:
    """Leave a trace, then wait until a file exists."""
    import os
    import subprocess

    handle = os.open(executed, os.O_WRONLY | os.O_APPEND)
    os.write(handle, f"{label}\n".encode())
    os.close(handle)
    subprocess.run(["sh", "-c", 'until [ -e "$0" ]; do sleep 0.05; done', gate], check=True)
    return label


def executed(scene: Bench) -> list[str]:
    """Labels of the functions that ran, in the order in which they began."""
    return scene.executed.read_text().split()


def wait_for_runs(scene: Bench, labels: Sequence[str]) -> None:
    """Wait until these functions have begun."""
    until(lambda: set(labels) <= set(executed(scene)), within_s=60, what=f"{labels} have begun")


@contextlib.contextmanager
def waiting_endpoint(
    directory: Path, broker: RabbitMq, engine: str
) -> Iterator[tuple[Bench, subprocess.Popen[bytes]]]:
    """An endpoint with one worker, busy with task `first`; `a` to `j` wait behind it."""
    with bench(directory, broker) as scene:
        scene.configure(ONE_WORKER.format(ENGINE_TYPES[engine]))
        agent = scene.start()
        scene.submit(note_and_wait_for, ["first"], str(directory / "gate"))
        wait_for_runs(scene, ["first"])
        scene.submit(note, list("abcdefghij"))
        until(lambda: scene.queued() == 0, within_s=60, what="the endpoint has them all")
        try:
            yield scene, agent
        finally:
            (directory / "gate").touch()  # what a killed agent's function left behind ends, too


@pytest.mark.parametrize("engine", ENGINE_TYPES)
def test_after_a_kill_what_had_begun_is_answered_and_all_else_runs_once(
    tmp_path: Path, rabbitmq: RabbitMq, engine: str
) -> None:
    with waiting_endpoint(tmp_path, rabbitmq, engine) as (scene, agent):
        scene.kill(agent)
        second = scene.start()
        account = scene.collect(11)
        assert scene.stop(second) == 0
    codes = {scene.labels[id_]: answer.error_code for id_, answer in account.answers.items()}
    assert codes == {"first": "ENDPOINT_RESTARTED", **dict.fromkeys("abcdefghij")}
    assert executed(scene) == ["first", *"abcdefghij"]  # each once, in the order they came


def test_with_permission_what_had_begun_runs_again(tmp_path: Path, rabbitmq: RabbitMq) -> None:
    with bench(tmp_path, rabbitmq) as scene:
        scene.configure(
            "heartbeat_period: 5\non_restart: retry\n"
            "engine: {type: ThreadPoolEngine, max_workers: 1, max_retries_on_system_failure: 1}\n"
        )
        gate = tmp_path / "gate"
        agent = scene.start()
        scene.submit(note_and_wait_for, ["first"], str(gate))
        wait_for_runs(scene, ["first"])
        scene.kill(agent)
        gate.touch()
        second = scene.start()
        account = scene.collect(1)
        assert scene.stop(second) == 0
    assert account.errors == []
    assert executed(scene) == ["first", "first"]


@pytest.mark.parametrize("engine", ENGINE_TYPES)
def test_the_order_is_fair_tasks_begin_as_they_came_whatever_their_function(
    tmp_path: Path, rabbitmq: RabbitMq, engine: str
) -> None:
    with bench(tmp_path, rabbitmq) as scene:
        scene.configure(ONE_WORKER.format(ENGINE_TYPES[engine]))
        labels = [f"task-{n}" for n in range(240)]
        # Two functions: short ones travel together, and none of the long ones falls behind.
        gate = tmp_path / "gate"
        gate.touch()
        for begin in range(0, len(labels), 60):
            scene.submit(note, labels[begin : begin + 55])
            scene.submit(note_and_wait_for, labels[begin + 55 : begin + 60], str(gate))
        agent = scene.start()
        account = scene.collect(len(labels))
        assert scene.stop(agent) == 0
    assert account.errors == []
    assert executed(scene) == labels


def test_while_the_broker_takes_no_results_tasks_run_on_and_the_answers_follow(
    tmp_path: Path, rabbitmq: RabbitMq
) -> None:
    with waiting_endpoint(tmp_path, rabbitmq, "threads") as (scene, agent):
        rabbitmq.control("set_vm_memory_high_watermark", ALARM)
        try:
            (tmp_path / "gate").touch()
            wait_for_runs(scene, "abcdefghij")
            until(
                lambda: "takes no results for now" in scene.log(),
                within_s=60,
                what="the agent was told to wait",
            )
            account = scene.collect(11, within_s=0.5)
            assert len(account.answers) < 11
        finally:
            rabbitmq.control("set_vm_memory_high_watermark", NO_ALARM)
        until(lambda: "takes results again" in scene.log(), within_s=60, what="the alarm is over")
        scene.submit(note, ["after"])
        scene.collect(12, onto=account)
        assert len(account.answers) == 12
        assert scene.stop(agent) == 0
    assert executed(scene) == ["first", *"abcdefghij", "after"]
    assert account.errors == []


def running_site(directory: Path, rabbitmq: RabbitMq) -> contextlib.AbstractContextManager[Site]:
    return site(directory, rabbitmq, Sitting("threads", 0, ()))


def test_after_a_broker_restart_tasks_are_answered_again(
    tmp_path: Path, rabbitmq: RabbitMq
) -> None:
    with running_site(tmp_path, rabbitmq) as made:
        before, after = made.parcels(["before", "after"], 0, 0)
        made.client.submit([before])
        assert made.books.wait(["before"], 1, 60)
        rabbitmq.stop()
        try:
            until(
                lambda: all(made.count_in_log(f"link {x} is down:") for x in ("tasks", "results")),
                within_s=60,
                what="both links have noticed",
            )
        finally:
            rabbitmq.start()
        answers_at = time.monotonic()
        made.client.submit([after])
        assert made.books.wait(["after"], 1, 60), made.scene.log()
        took_s = made.books.answered_after("after", answers_at)
    assert took_s is not None
    table.enter(
        table.Row("broker restarted under an idle endpoint", tasks=2, answered=2, recovery_s=took_s)
    )
    # A machine that is busy with other things takes longer; that no try comes later than promised
    # is shown in test_link_faults.py.
    assert not LONG or took_s < RECOVERY_LIMIT_S, f"{took_s:.1f} s"


@pytest.mark.parametrize("number", [2, 3])
def test_a_running_endpoint_has_two_connections_and_a_third_for_reports_sent_elsewhere(
    tmp_path: Path, rabbitmq: RabbitMq, number: int
) -> None:
    user = f"counted-{number}"
    with bench(tmp_path, rabbitmq) as scene:
        scene.url = rabbitmq.add_user(user, "secret", configure=".*", write=".*", read=".*")
        if number == 3:
            elsewhere = scene.url.replace("127.0.0.1", "localhost")
            route = {"exchange": "results", "routing_key": scene.results_queue}
            scene.more_queues = {
                "heartbeat_queue_info": {
                    "connection_url": elsewhere,
                    "exchange": "results",
                    "queue": scene.results_queue,
                    "queue_publish_kwargs": {**route, "mandatory": False, "properties": {}},
                }
            }
        scene.configure(ONE_WORKER.format("ThreadPoolEngine"))
        try:
            agent = scene.start()
            scene.submit(note, ["one", "two"])
            assert len(scene.collect(2).answers) == 2
            until(
                lambda: len(rabbitmq.connections_of(user)) == number,
                within_s=60,
                what=f"the broker lists {number} connections: {rabbitmq.connections_of(user)}",
            )
            assert scene.stop(agent) == 0
        finally:
            rabbitmq.remove_user(user)
