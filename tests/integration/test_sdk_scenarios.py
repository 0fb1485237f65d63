"""An unmodified official SDK, in an environment of its own, against our hub and endpoints."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

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


Told = dict[str, dict[str, Any]]


def ask(scene: Scene, endpoint_id: str, calls: dict[str, list[str]]) -> Told:
    """Let one program of a researcher make these calls in turn; what came of each, by its verb."""
    words = [json.dumps([verb, endpoint_id, *more]) for verb, more in calls.items()]
    return dict(zip(calls, scene.sdk("several", *words, timeout_s=280), strict=True))


def answer_to(verb: str, told: Told) -> Any:
    """The answer to a call, which must not have failed."""
    assert "failure" not in told[verb], told[verb]["failure"]
    return told[verb]["answer"]


@pytest.fixture(scope="module")
def by_engine(scene: Scene, any_engine: str) -> Told:
    """What was told of each engine."""
    calls = {"many": ["1000"]}
    if LONG or scene.servers is None:
        calls |= {"exception": [], "shell": [], "own-task-id": [], "large": [str(5 * MIB)]}
    return ask(scene, any_engine, calls)


@pytest.fixture(scope="module")
def by_any(scene: Scene, endpoint_id: str) -> Told:
    """What was told where the engine does not matter."""
    calls: dict[str, list[str]] = {"client": []}
    if LONG or scene.servers is None:
        calls |= {"reload": [], "too-large": [str(9 * MIB)]}
    return ask(scene, endpoint_id, calls)


def test_a_thousand_functions_come_back_through_the_executor(by_engine: Told) -> None:
    assert answer_to("many", by_engine)["right"]


def test_a_remote_exception_comes_with_its_traceback(by_engine: Told) -> None:
    answer = answer_to("exception", by_engine)
    assert answer["type"] == "TaskExecutionFailed"
    assert "ZeroDivisionError: division by zero" in answer["text"]
    assert "in divide" in answer["text"]
    assert answer["after"] == 8


def test_a_shell_function_runs_and_tells_its_exit_code(by_engine: Told) -> None:
    answer = answer_to("shell", by_engine)
    assert answer["stdout"].strip() == "hello you"
    # The SDK adds a warning of its own where tasks have no sandbox.
    assert answer["stderr"].splitlines()[0] == "bad"
    assert (answer["code"], answer["failed"]) == (0, 7)


def test_each_task_sees_its_own_id_in_the_environment(by_engine: Told) -> None:
    answer = answer_to("own-task-id", by_engine)
    assert answer["seen"] == answer["right"]


def test_five_megabytes_travel_both_ways(by_engine: Told) -> None:
    assert answer_to("large", by_engine) == {"there": 5 * MIB, "back": 5 * MIB}


def test_the_tasks_of_an_earlier_executor_are_reloaded(by_any: Told) -> None:
    answer = answer_to("reload", by_any)
    assert answer["first"] == answer["again"] == [2 * n for n in range(10)]


def test_the_client_runs_and_gets_one_result_and_a_batch(by_any: Told) -> None:
    answer = answer_to("client", by_any)
    assert answer["one"] == 6
    assert answer["batch"] == [0, 2, 4, 6, 8]
    assert answer["states"] == ["success"]
    assert "ZeroDivisionError" in answer["error"]


def test_a_result_above_the_limit_is_a_clear_error(scene: Scene, by_any: Told) -> None:
    answer = answer_to("too-large", by_any)
    assert "10485760" in answer["error"], "the text must name the limit"
    assert answer["after"] == 6
    kept = list((scene.user_dir / "plain").rglob("oversized_results/*"))
    assert len(kept) == 1, "the bytes stay on disk for their owner"
    assert kept[0].stat().st_mode & 0o077 == 0


def test_the_status_tells_the_truth_also_of_an_endpoint_that_was_killed(scene: Scene) -> None:
    for name in ("killed", "stopped"):
        scene.configure(name, ENGINES["threads"], f"heartbeat_period: {HEARTBEAT_S}\n")
    killed = scene.start("killed")
    assert scene.sdk("until-status", killed, "online", "60")["status"] == "online"
    os.kill(scene.agent_pid("killed"), signal.SIGKILL)
    # While the hub waits for three heartbeats that do not come:
    stopped = scene.start("stopped")
    assert scene.sdk("until-status", stopped, "online", "60")["status"] == "online"
    scene.cep("stop", "stopped")
    assert scene.sdk("until-status", stopped, "offline", "60")["status"] == "offline"
    assert scene.sdk("until-status", killed, "offline", "60")["status"] == "offline"
