"""One agent's life on a real broker: tasks, garbage, limits, stop, pause, setup and teardown."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cep.agent.control import call
from cep.errors import Unavailable
from cep.paths import EndpointPaths
from cep.wire.task import pack_task
from tests.integration.agent_rig import FUNCTION, Account, Bench, bench, note
from tests.integration.faults.fs_rig import gated, wait_for_trace, wait_until
from tests.integration.rabbitmq import RabbitMq

THREADS = "engine: {type: ThreadPoolEngine, max_workers: 2}\nheartbeat_period: 5\n"


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        made.configure(THREADS)
        yield made


def paths(scene: Bench) -> EndpointPaths:
    return EndpointPaths.of(scene.root)


def fail(_executed: str, label: str) -> str:
    raise ValueError(f"no {label} today")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_tasks_run_and_a_stop_signal_ends_the_agent_in_order(scene: Bench, number: int) -> None:
    agent = scene.start()
    scene.submit(note, ["a", "b", "c"])
    account = scene.collect(3)
    assert account.errors == []
    assert sorted(account.executions) == ["a", "b", "c"]
    assert scene.stop(agent, number) == 0
    assert not paths(scene).lease.exists()
    assert not paths(scene).pid_file.exists()
    scene.collect_rest(account)
    assert scene.reports[-1]["global_state"]["heartbeat_period"] == 0
    assert scene.reports[-1]["global_state"]["active"] is False


def test_a_remote_exception_comes_back_with_its_traceback(scene: Bench) -> None:
    agent = scene.start()
    scene.submit(fail, ["bread"])
    account = scene.collect(1)
    (answer,) = account.answers.values()
    assert answer.error_code == "RemoteExecutionError"
    assert "ValueError: no bread today" in answer.data
    scene.stop(agent)


def test_garbage_is_settled_and_the_next_good_task_runs(scene: Bench) -> None:
    agent = scene.start()
    ids = [str(uuid4()) for _ in range(4)]
    with scene.broker.channel() as channel:
        scene.publish(channel, ids[0], os.urandom(200))
        scene.publish(channel, ids[1], b"\x07" + pack_task(ids[1], "x")[1:])
        scene.publish(channel, ids[2], pack_task(ids[2], "20\n00\n!!!"))
        channel.basic_publish("", scene.tasks_queue, b"no headers at all")
        channel.basic_publish("", scene.tasks_queue, pack_task(ids[3], "x"))
    scene.submit(note, ["good"])
    account = scene.collect(5)
    assert len(account.answers) == 5
    assert all(account.answers[id_].error_code is not None for id_ in ids)
    assert list(account.executions) == ["good"]
    assert scene.queued() == 0
    tasks = call(paths(scene), {"do": "status"}, 60.0)["tasks"]
    assert tasks["malformed"] == 2
    scene.stop(agent)


def test_a_body_over_the_limit_is_answered(scene: Bench) -> None:
    scene.configure(THREADS + "task_size_limit: 1048576\n")
    agent = scene.start()
    id_ = str(uuid4())
    with scene.broker.channel() as channel:
        scene.publish(channel, id_, b"x" * 2_000_000)
    scene.submit(note, ["good"])
    account = scene.collect(2)
    assert account.answers[id_].error_code == "TASK_TOO_LARGE"
    scene.stop(agent)


def test_only_allowed_functions_run(scene: Bench) -> None:
    scene.configure(THREADS + f"allowed_functions: ['{uuid4()}']\n")
    agent = scene.start()
    (id_,) = scene.submit(note, ["a"])
    answer = scene.collect(1).answers[id_]
    assert answer.error_code == "FUNCTION_NOT_ALLOWED"
    assert answer.details is not None
    assert FUNCTION in answer.data
    scene.stop(agent)


def test_a_paused_endpoint_takes_nothing_also_after_a_restart(scene: Bench) -> None:
    agent = scene.start()
    assert call(paths(scene), {"do": "pause"}, 60.0)["state"] == "paused"
    scene.stop(agent)
    scene.submit(note, ["a"])
    agent = scene.start()
    assert call(paths(scene), {"do": "status"}, 60.0)["state"] == "paused"
    assert scene.queued() == 1
    call(paths(scene), {"do": "resume"}, 60.0)
    assert list(scene.collect(1).executions) == ["a"]
    scene.stop(agent)


def test_unstarted_tasks_survive_a_stop_and_running_ones_are_answered(
    scene: Bench, tmp_path: Path
) -> None:
    agent = scene.start()
    gate = tmp_path / "gate"
    blocked = scene.submit(gated, ["x", "y"], str(gate))
    for label in ("x", "y"):
        wait_for_trace(scene, label)
    scene.submit(note, ["later-1", "later-2"])
    wait_until(scene, lambda seen: seen["tasks"]["received"] == 4)
    call(paths(scene), {"do": "stop", "drain_s": 0}, 60.0)
    assert agent.wait(60) == 0, scene.log()
    stopped = scene.collect_rest(Account(scene.labels))
    gate.touch()
    assert set(stopped.answers) == set(blocked)
    agent = scene.start()
    account = scene.collect(2)
    assert account.errors == []
    assert sorted(account.executions) == ["later-1", "later-2", "x", "y"]
    scene.stop(agent)


def test_a_stop_signal_gives_running_tasks_the_configured_time(
    scene: Bench, tmp_path: Path
) -> None:
    scene.configure(THREADS + "drain_timeout: 0\n")
    agent = scene.start()
    (blocked,) = scene.submit(gated, ["x"], str(tmp_path / "gate"))
    wait_for_trace(scene, "x")
    assert scene.stop(agent) == 0
    (tmp_path / "gate").touch()
    assert set(scene.collect_rest(Account(scene.labels)).answers) == {blocked}
    assert "signal SIGTERM: stopping; running tasks get 0 s" in scene.log()


def test_a_stop_request_with_a_wrong_time_is_refused_and_the_agent_goes_on(scene: Bench) -> None:
    agent = scene.start()
    for wrong in ("soon", None, -1, float("inf")):
        with pytest.raises(Unavailable, match="drain_s"):
            call(paths(scene), {"do": "stop", "drain_s": wrong}, 60.0)
    scene.submit(note, ["a"])
    assert list(scene.collect(1).executions) == ["a"]
    assert scene.stop(agent) == 0


def test_a_failed_setup_is_a_configuration_error_with_its_output(scene: Bench) -> None:
    scene.configure(THREADS + "endpoint_setup: |\n  echo the disk is on fire\n  exit 9\n")
    agent = scene.start(crash="none:1")
    assert agent.wait(60) == 78
    assert "status 9" in scene.words[-1]["error"]
    assert "the disk is on fire" in scene.words[-1]["error"]


def test_a_setup_that_does_not_end_is_ended_after_its_time(scene: Bench) -> None:
    scene.configure(THREADS + "endpoint_setup: sleep 600\nendpoint_setup_timeout: 1\n")
    agent = scene.start(crash="none:1")
    assert agent.wait(60) == 78
    assert "within 1 s (endpoint_setup_timeout)" in scene.words[-1]["error"]


def test_a_teardown_that_a_crash_prevented_runs_at_the_next_start(
    scene: Bench, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    scene.configure(
        THREADS
        + f"endpoint_setup: echo setup >> {diary}\nendpoint_teardown: echo down >> {diary}\n"
    )
    scene.kill(scene.start())
    assert diary.read_text().split() == ["setup"]
    agent = scene.start()
    assert diary.read_text().split() == ["setup", "down", "setup"]
    assert scene.stop(agent) == 0
    assert diary.read_text().split() == ["setup", "down", "setup", "down"]


def test_a_second_start_is_refused_and_says_where_the_first_runs(scene: Bench) -> None:
    agent = scene.start()
    second = scene.start(crash="none:1")
    assert second.wait(60) == 73
    assert str(agent.pid) in scene.words[-1]["error"]
    scene.stop(agent)


def test_the_registration_says_what_the_service_needs(scene: Bench) -> None:
    agent = scene.start()
    (request,) = scene.registrations
    assert request["endpoint_name"] == "bench"
    assert request["metadata"]["endpoint_version"] == "2.19.0"
    assert "ThreadPoolEngine" in request["metadata"]["endpoint_config"]
    assert "multi_user" not in request
    scene.stop(agent)


def test_no_secret_reaches_the_tasks_or_the_log(scene: Bench) -> None:
    def environment(_executed: str, label: str) -> str:
        import os

        return label + repr(dict(os.environ))

    agent = scene.start()
    (id_,) = scene.submit(environment, ["a"])
    answer = scene.collect(1).answers[id_]
    from globus_compute_sdk.serialize import ComputeSerializer

    assert "bench-secret" not in ComputeSerializer().deserialize(answer.data)
    scene.stop(agent)
    assert "bench-secret" not in scene.log()
    assert scene.broker.password not in scene.log()


def test_results_follow_the_broker_through_a_restart(scene: Bench) -> None:
    agent = scene.start()
    scene.submit(note, ["before"])
    assert len(scene.collect(1).answers) == 1
    scene.broker.restart()
    scene.submit(note, ["after"])
    assert len(scene.collect(1).answers) == 1
    scene.stop(agent)
