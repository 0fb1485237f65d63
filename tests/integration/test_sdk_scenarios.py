"""An unmodified official SDK, in an environment of its own, against our hub and endpoints."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.integration.hub_places import EMBEDDED, LONG, PLACES
from tests.integration.scene import ENGINES, Scene

MIB = 1024 * 1024
HEARTBEAT_S = 5.0  # the shortest period an endpoint takes


# What runs on RabbitMQ with PostgreSQL each time; with LONG=1 everything does, on every engine.
ON_SERVERS = (
    "test_a_thousand_functions_come_back_through_the_executor",
    "test_the_client_runs_and_gets_one_result_and_a_batch",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose where the hub keeps its things, and, where it matters, the engines."""
    places = PLACES if LONG or metafunc.function.__name__ in ON_SERVERS else (EMBEDDED,)
    if "any_engine" in metafunc.fixturenames:
        wanted = [
            (place, engine)
            for place in places
            for engine in ENGINES
            if LONG or place == EMBEDDED or engine == "processes"
        ]
        metafunc.parametrize(("scene", "any_engine"), wanted, indirect=True, scope="module")
    else:
        metafunc.parametrize("scene", places, indirect=True, scope="module")


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    servers = None if request.param == EMBEDDED else request.getfixturevalue("servers")
    with Scene(servers) as made:
        made.hub()
        yield made


@pytest.fixture(scope="module")
def any_engine(scene: Scene, request: pytest.FixtureRequest) -> Iterator[str]:
    """The ID of a running endpoint, for each engine in turn."""
    with scene.endpoint(f"on-{request.param}", request.param) as endpoint_id:
        yield endpoint_id


@pytest.fixture(scope="module")
def endpoint_id(scene: Scene) -> Iterator[str]:
    """The ID of a running endpoint for scenarios where the engine does not matter."""
    with scene.endpoint("plain", "processes") as made:
        yield made


def test_a_thousand_functions_come_back_through_the_executor(scene: Scene, any_engine: str) -> None:
    answer = scene.sdk("many", any_engine, "1000")
    assert answer["right"]


def test_a_remote_exception_comes_with_its_traceback(scene: Scene, any_engine: str) -> None:
    answer = scene.sdk("exception", any_engine)
    assert answer["type"] == "TaskExecutionFailed"
    assert "ZeroDivisionError: division by zero" in answer["text"]
    assert "in divide" in answer["text"]
    assert answer["after"] == 8


def test_a_shell_function_runs_and_tells_its_exit_code(scene: Scene, any_engine: str) -> None:
    answer = scene.sdk("shell", any_engine)
    assert answer["stdout"].strip() == "hello you"
    # The SDK adds a warning of its own where tasks have no sandbox.
    assert answer["stderr"].splitlines()[0] == "bad"
    assert (answer["code"], answer["failed"]) == (0, 7)


def test_each_task_sees_its_own_id_in_the_environment(scene: Scene, any_engine: str) -> None:
    answer = scene.sdk("own-task-id", any_engine)
    assert answer["seen"] == answer["right"]


def test_five_megabytes_travel_both_ways(scene: Scene, any_engine: str) -> None:
    assert scene.sdk("large", any_engine, str(5 * MIB)) == {"there": 5 * MIB, "back": 5 * MIB}


def test_the_tasks_of_an_earlier_executor_are_reloaded(scene: Scene, endpoint_id: str) -> None:
    answer = scene.sdk("reload", endpoint_id)
    assert answer["first"] == answer["again"] == [2 * n for n in range(10)]


def test_the_client_runs_and_gets_one_result_and_a_batch(scene: Scene, endpoint_id: str) -> None:
    answer = scene.sdk("client", endpoint_id)
    assert answer["one"] == 6
    assert answer["batch"] == [0, 2, 4, 6, 8]
    assert answer["states"] == ["success"]
    assert "ZeroDivisionError" in answer["error"]


def test_a_result_above_the_limit_is_a_clear_error(scene: Scene, endpoint_id: str) -> None:
    answer = scene.sdk("too-large", endpoint_id, str(9 * MIB))
    assert "10485760" in answer["error"], "the text must name the limit"
    assert answer["after"] == 6
    kept = list((scene.user_dir / "plain").rglob("oversized_results/*"))
    assert len(kept) == 1, "the bytes stay on disk for their owner"
    assert kept[0].stat().st_mode & 0o077 == 0


def test_the_status_is_online_when_ready_and_offline_after_stop(scene: Scene) -> None:
    scene.configure("truth", ENGINES["threads"], f"heartbeat_period: {HEARTBEAT_S}\n")
    endpoint_id = scene.start("truth")
    try:
        answer = scene.sdk("until-status", endpoint_id, "online", "60")
        assert answer["status"] == "online"
    finally:
        scene.cep("stop", "truth")
    assert scene.sdk("status", endpoint_id)["status"] == "offline"


def test_the_status_is_offline_within_three_heartbeats_after_a_kill(scene: Scene) -> None:
    scene.configure("killed", ENGINES["threads"], f"heartbeat_period: {HEARTBEAT_S}\n")
    endpoint_id = scene.start("killed")
    assert scene.sdk("until-status", endpoint_id, "online", "60")["status"] == "online"
    os.kill(scene.agent_pid("killed"), signal.SIGKILL)
    answer = scene.sdk("until-status", endpoint_id, "offline", str(3 * HEARTBEAT_S))
    assert answer["status"] == "offline"
