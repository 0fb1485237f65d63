"""What is bounded in a running agent stays bounded, on a real RabbitMQ: intake and bodies.

The same with 200,000 tasks and with 10 MB each is `python -m benchmarks.agent_memory`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cep.agent.control import call
from cep.agent.intake import HOLD_FULL
from cep.amqp.connection import READ_AT_ONCE_BYTES
from cep.amqp.consumer import Consumer
from cep.amqp.events import Delivered
from cep.amqp.loop import AmqpLoop
from cep.model import Delivery
from cep.paths import EndpointPaths
from tests.integration.agent_rig import Bench, bench, note
from tests.integration.link_tools import Inbox, depth, make_queue, put_messages
from tests.integration.rabbitmq import RabbitMq

pytestmark = pytest.mark.docker
MIB = 1024 * 1024
HIGH = 40
CONFIG = f"""\
engine: {{type: ThreadPoolEngine, max_workers: 1}}
heartbeat_period: 5
intake: {{high_tasks: {HIGH}, low_tasks: 20}}
"""
# No more messages than the mark are asked for at once: so many may come in the turn that reaches
# it, and so many more may be on their way when the consumer is cancelled.
MOST_TAKEN = 3 * HIGH
TASKS = 1200


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        made.configure(CONFIG)
        yield made


def wait_at_gate(_executed: str, label: str, gate: str) -> str:
    import os
    import subprocess

    if not os.path.exists(gate):  # noqa: PTH110
        subprocess.run(["sh", "-c", 'until [ -e "$0" ]; do sleep 0.05; done', gate], check=True)
    return label


def status(scene: Bench) -> dict:  # type: ignore[type-arg]
    return call(EndpointPaths.of(scene.root), {"do": "status"}, 60.0)


def queue_of(scene: Bench) -> tuple[int, int]:
    """Ready messages of the task queue, and its consumers."""
    with scene.broker.channel() as channel:
        method = channel.queue_declare(scene.tasks_queue, passive=True).method
        return method.message_count, method.consumer_count


def until(holds: Callable[[], bool], within_s: float = 60) -> None:
    """Ask again and again; each question is a round trip, so nothing spins."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline


def test_at_the_high_mark_the_consumer_is_cancelled_and_nothing_stays_unacked(
    scene: Bench, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    scene.submit(wait_at_gate, [str(n) for n in range(TASKS)], str(gate))
    agent = scene.start()
    until(lambda: status(scene)["holds"] == [HOLD_FULL])
    until(lambda: queue_of(scene)[1] == 0)

    def taken() -> int:
        tasks = status(scene)["tasks"]
        return int(tasks["waiting"] + tasks["running"])

    # What is not ready at the broker is journaled here: between the two nothing is unacked.
    until(lambda: queue_of(scene) == (TASKS - taken(), 0))
    assert HIGH <= taken() <= MOST_TAKEN

    gate.touch()
    account = scene.collect(TASKS)
    assert len(account.answers) == TASKS
    assert account.errors == []
    said = [line for line in scene.log().splitlines() if "taking " in line]
    assert HOLD_FULL in said[0]
    assert "taking tasks again" in said[1]
    assert scene.stop(agent) == 0


def test_answers_that_the_broker_does_not_take_stop_the_intake_too(scene: Bench) -> None:
    """A memory alarm blocks who publishes, not who consumes: without this the agent would go on."""
    scene.submit(note, [str(n) for n in range(TASKS)])
    scene.broker.control("set_vm_memory_high_watermark", "absolute", "1")
    try:
        agent = scene.start()
        until(lambda: status(scene)["holds"] == [HOLD_FULL])
        until(lambda: status(scene)["tasks"]["unsent"] >= HIGH)
        until(lambda: queue_of(scene)[1] == 0)
        until(lambda: queue_of(scene)[0] + status(scene)["tasks"]["received"] == TASKS)
        left, _ = queue_of(scene)
        assert TASKS - MOST_TAKEN <= left <= TASKS - HIGH
    finally:
        scene.broker.control("set_vm_memory_high_watermark", "0.4")
    account = scene.collect(TASKS)
    assert len(account.answers) == TASKS
    assert set(account.executions.values()) == {1}
    assert scene.stop(agent) == 0


@pytest.mark.parametrize("tls", [False, True])
def test_large_bodies_that_are_on_their_way_behind_small_ones_stay_within_the_limit(
    rabbitmq: RabbitMq, tls: bool
) -> None:
    """Prefetch counts messages: 2,000 small ones may be asked for, and 10 MB each may come."""
    small, large, body = 600, 30, 200_000
    # One body may begin below the limit; with TLS pika takes up to two pieces in one turn, each of
    # which ends with a whole record (RFC 8446, 5.1: at most 16 KiB).
    overrun = body + (2 * (READ_AT_ONCE_BYTES + 16 * 1024) if tls else READ_AT_ONCE_BYTES)
    address = make_queue(rabbitmq, rabbitmq.tls_url if tls else None)
    put_messages(rabbitmq, address, [b"x" * 100] * small)
    inbox = Inbox()
    loop = AmqpLoop()
    loop.start()
    consumer = Consumer(
        loop,
        address,
        name="tasks",
        put=inbox.put,
        undigested_limit_bytes=MIB,
        ssl_ca_file=str(rabbitmq.ca_file) if tls else None,
    )
    undigested: list[Delivery] = []
    came = 0

    def take(event: object) -> None:
        nonlocal came
        if isinstance(event, Delivered):
            came += len(event.deliveries)
            undigested.extend(event.deliveries)
            if len(undigested[-1].body) < body:
                settle()

    def settle() -> None:
        for delivery in undigested:
            consumer.ack(delivery.epoch, [delivery.tag])
        undigested.clear()

    go_on = threading.Event()
    try:
        consumer.start()
        consumer.consume()
        inbox.collect(lambda: came == small, take)
        round_trip(rabbitmq, loop)  # the acks are with the broker
        # While the loop stands still, the broker hands all of them over to the connection.
        loop.call(go_on.wait)
        put_messages(rabbitmq, address, [b"y" * body] * large)
        until(lambda: depth(rabbitmq, address) == 0)
        go_on.set()
        inbox.collect(lambda: sum(len(one.body) for one in undigested) > MIB, take)
        round_trip(rabbitmq, loop)  # the loop had time for more, and kept none
        while not inbox.empty():
            take(inbox.next())
        assert sum(len(one.body) for one in undigested) <= MIB + overrun
        while came < small + large:
            settle()
            inbox.collect(lambda: bool(undigested), take)
            assert sum(len(one.body) for one in undigested) <= MIB + overrun
        assert came == small + large
        settle()
    finally:
        go_on.set()
        consumer.stop(60)
        loop.stop(60)
    with rabbitmq.channel() as channel:
        assert channel.queue_delete(address.queue).method.message_count == 0


def round_trip(rabbitmq: RabbitMq, loop: AmqpLoop) -> None:
    """One message to and fro over another link of the same loop."""
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"there and back"])
    inbox = Inbox()
    other = Consumer(loop, address, name="other", put=inbox.put)
    other.start()
    try:
        other.consume()
        (delivery,) = inbox.wait(Delivered).deliveries
        other.ack(delivery.epoch, [delivery.tag])
    finally:
        other.stop(60)
    with rabbitmq.channel() as channel:
        channel.queue_delete(address.queue)
