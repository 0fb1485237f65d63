"""Two hubs on one RabbitMQ and one PostgreSQL, behind a balancer: one dies, the other goes on.

Real: both hubs, the servers, the endpoint and its agent, and the official SDK; only where the
broker itself is killed the client is a plain one, because the SDK ends when it loses its
connection with acks to send.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from globus_compute_sdk.serialize import ComputeSerializer

from cep.wire.buffers import pack_buffers
from cep.wire.result import ResultMessage, unpack_result
from tests.integration.faults.table import Row, enter
from tests.integration.hub_places import LONG
from tests.integration.hub_rig import Rest
from tests.integration.scene import HUB_URL, Scene, Witness, until
from tests.integration.sdk_client import begin
from tests.integration.servers import Servers

BALANCER = Path(__file__).resolve().parents[1] / "balancer.py"
PORTS = {"one": "5001", "two": "5002"}
KILLS = 10 if LONG else 2
PHASE, WAVE = 150, 25  # tasks submitted around each kill, and at a time
TASKS = KILLS * PHASE


@contextlib.contextmanager
def balanced(scene: Scene) -> Iterator[None]:
    """Both hubs, and one address in front of them."""
    balancer = scene.network.popen(
        [sys.executable, BALANCER, "5000", *PORTS.values()], cwd=scene.root
    )
    try:
        assert balancer.stdout is not None
        assert balancer.stdout.readline() == "ready\n"
        for name, port in PORTS.items():
            scene.hub(name, "--port", port, "--public-url", HUB_URL)
        yield
    finally:
        balancer.terminate()
        balancer.communicate()


@pytest.fixture
def scene(servers: Servers) -> Iterator[Scene]:
    with Scene(servers) as made, balanced(made):
        yield made


@contextlib.contextmanager
def ending(client: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End a client that a failed test has left running, and show what it said."""
    try:
        yield client
    except BaseException:
        client.kill()
        print(*client.communicate(), sep="\n")
        raise


def kill_hub(scene: Scene, name: str) -> None:
    """`kill -9` of one hub."""
    process = psutil.Process(scene.hub_pid(name))
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=60)


def answered(scene: Scene) -> int:
    """Tasks with a result."""
    states = scene.task_states()
    return sum(states.values()) - states.get("waiting", 0)


def next_answer(scene: Scene, submitted: int) -> float:
    """Wait for another result than those that are there; the seconds it took.

    When all tasks submitted so far have one, there was nothing left to wait for.
    """
    before = answered(scene)
    if before == submitted:
        return 0.0
    what = f"a result after the {before}.\n{scene.logs()}"
    return until(lambda: answered(scene) > before, within_s=60, what=what)


def check(row: Row, answers: dict[str, list[str]], heard: list[str], tasks: int) -> None:
    """Enter what was seen, and demand that nothing was lost or done twice."""
    executions = Counter(heard)
    row.tasks = tasks
    row.answered = len(answers)
    row.errors = sum(told[0] != value for value, told in answers.items())
    row.lost = tasks - len(answers) + row.errors  # no error answer is allowed for
    row.duplicated = sum(len(told) - 1 for told in answers.values())
    row.run_twice = sum(count - 1 for count in executions.values())
    enter(row)
    assert (row.lost, row.duplicated, row.run_twice) == (0, 0, 0), row
    assert set(executions) == {str(number) for number in range(tasks)}


def open_gate(gate: Path) -> None:
    """Let the client begin its next phase."""
    gate.open("w").close()


def test_kill_9_of_one_of_two_hubs_loses_and_doubles_nothing(scene: Scene) -> None:
    worst = 0.0
    gate = scene.root / "gate"
    os.mkfifo(gate)
    with (
        Witness(scene.root / "w") as witness,
        scene.endpoint("site", "threads") as endpoint_id,
        ending(
            scene.sdk_popen(
                *("waves", endpoint_id, f"{KILLS},{PHASE},{WAVE}", str(gate), str(witness.path))
            )
        ) as client,
    ):
        for number in range(KILLS):
            open_gate(gate)
            witness.wait_for(number * PHASE + PHASE // 3, within_s=60)
            name = list(PORTS)[number % 2]
            kill_hub(scene, name)
            worst = max(worst, next_answer(scene, (number + 1) * PHASE))
            scene.serve(name, "--port", PORTS[name], "--public-url", HUB_URL)
        answer = scene.sdk_answer(client)
    assert scene.task_states() == {"success": TASKS}
    row = Row("kill -9 of one of two hubs", runs=KILLS, recovery_s=worst)
    check(row, answer["answers"], witness.heard, TASKS)


class PlainClient:
    """Submits and collects as the SDK does, and survives a broker's end; counts what it sees.

    Its requests run in the servers' network.
    """

    def __init__(self, scene: Scene, endpoint_id: str, witness: Path) -> None:
        assert scene.servers is not None
        self._inside = scene.servers.inside
        self._endpoint_id = endpoint_id
        self._witness = str(witness)
        self._serializer = ComputeSerializer()
        self.values: dict[str, int] = {}
        self.answers: dict[str, list[str]] = {}
        self.repeats = 0
        variables = scene.environment
        self._rest = self._inside(
            lambda: Rest(
                HUB_URL,
                variables["GLOBUS_COMPUTE_CLIENT_ID"],
                variables["GLOBUS_COMPUTE_CLIENT_SECRET"],
            )
        )
        code = pack_buffers([self._serializer.serialize(begin)])
        content = {"function_name": "begin", "function_code": code, "serialized": True}
        self._function = self._inside(
            lambda: self._rest("POST", "/v3/functions", content)["function_uuid"]
        )
        self.group = ""

    def submit(self, values: range) -> None:
        """Submit one task per value; returns when the hub has answered."""
        packed = [
            pack_buffers(
                [
                    self._serializer.serialize((value, self._witness, 0.002)),
                    self._serializer.serialize({}),
                ]
            )
            for value in values
        ]
        content = {"create_queue": True, "tasks": {self._function: packed}}
        if self.group:
            content["task_group_id"] = self.group
        path = f"/v3/endpoints/{self._endpoint_id}/submit"
        status, answer = self._inside(lambda: self._rest.send("POST", path, content))
        while status == 503:  # no broker for 30 s: tried again, as the SDK does; the same bytes
            status, answer = self._inside(lambda: self._rest.send("POST", path, content))
        assert status == 200, answer
        self.group = answer["task_group_id"]
        self.values.update(zip(answer["tasks"][self._function], values, strict=True))

    def collect(self, wanted: int) -> None:
        """Take results until every submitted task has one; repeats are counted apart."""
        while (missing := wanted - len(self.answers)) > 0:
            for body in self._inside(lambda: self._rest.results(self.group, missing)):
                self._take(unpack_result(body))

    def _take(self, result: ResultMessage) -> None:
        value = str(self.values[result.task_id])
        if value in self.answers:  # the SDK drops it: the future has its result
            self.repeats += 1
            return
        told = result.data if result.is_error else self._serializer.deserialize(result.data)
        self.answers[value] = [str(told)]


def test_kill_9_of_the_broker_under_two_hubs_loses_nothing(scene: Scene, servers: Servers) -> None:
    count = PHASE
    with Witness(scene.root / "w") as witness, scene.endpoint("site", "threads") as endpoint_id:
        client = PlainClient(scene, endpoint_id, witness.path)
        client.submit(range(count // 2))
        witness.wait_for(count // 4, within_s=60)
        servers.rabbitmq.kill()
        with ThreadPoolExecutor(1) as pool:  # a submit that finds no broker waits for one
            late = pool.submit(client.submit, range(count // 2, count))
            servers.rabbitmq.start()
            worst = next_answer(scene, count)
            late.result(timeout=200)
        until(
            lambda: scene.task_states() == {"success": count},
            within_s=60,
            what="every task has a result",
        )
        client.collect(count)
    row = Row("kill -9 of RabbitMQ under two hubs", repeats=client.repeats, recovery_s=worst)
    check(row, client.answers, witness.heard, count)
    assert not LONG or worst < 5  # a machine that is busy with other things takes longer
