"""The embedded broker and a peer that asks for much and reads nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pamqp import body, commands, frame, header

from cep.hub.broker import Limits
from cep.hub.broker.publishing import Publishing
from tests.unit.broker_rig import client, running

Basic, Queue = commands.Basic, commands.Queue
KIB = 1 << 10
LIMITS = Limits(outbound_bytes=64 * KIB, page_bytes=0)


def test_answers_that_nobody_reads_do_not_pile_up_and_come_when_they_are_read(
    tmp_path: Path,
) -> None:
    count, size = 500, 32 * KIB

    async def scenario() -> None:
        async with running(tmp_path, limits=LIMITS) as (broker, port), client(port) as lazy:
            await lazy.call(Queue.Declare(queue="q"), Queue.DeclareOk)
            lazy.publish("q", b"x" * size, properties=Basic.Properties(delivery_mode=1))
            await lazy.call_through(Basic.Qos(), Basic.QosOk)
            lazy.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(count):
                lazy.send(Basic.Get(queue="q"), Basic.Nack(0, multiple=True, requeue=True))
            async with client(port) as other:  # unharmed, and a proof that the broker went on
                for _ in range(20):
                    await other.call(Queue.Declare(queue="p"), Queue.DeclareOk)
            (waiting,) = (one for one in broker.connections if one._waiting)
            unread = waiting._out_bytes + waiting._transport.get_write_buffer_size()
            assert unread <= 2 * LIMITS.outbound_bytes + 2 * size
            lazy.writer.transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(count):
                await lazy.expect(Basic.GetOk)
                assert len(await lazy.body()) == size
            await lazy.call(Basic.Qos(), Basic.QosOk)
            assert not waiting._waiting

    asyncio.run(scenario())


def test_a_peer_that_asks_for_stored_bodies_gets_them_one_after_another(tmp_path: Path) -> None:
    bodies = [bytes((n,)) * (8 * KIB) for n in range(50)]

    async def scenario() -> None:
        async with running(tmp_path, limits=LIMITS) as (broker, port), client(port) as peer:
            await peer.call(Queue.Declare(queue="q", durable=True), Queue.DeclareOk)
            await peer.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
            for one in bodies:
                peer.publish("q", one)
                await peer.expect(Basic.Ack)
            assert broker.memory.held == 0
            loading: list[int] = []
            load = broker.store.load

            def counted(seqs: list[int], done: Any) -> None:
                loading.append(1)

                def loaded(found: Any) -> None:
                    loading.pop()
                    done(found)

                assert len(loading) == 1
                load(seqs, loaded)

            broker.store.load = counted  # type: ignore[method-assign]
            peer.send(*[Basic.Get(queue="q", no_ack=True) for _ in bodies], Basic.Qos())
            for one in bodies:
                await peer.expect(Basic.GetOk)
                assert await peer.body() == one
            await peer.expect(Basic.QosOk)

    asyncio.run(scenario())


def test_a_close_is_heard_while_a_peer_must_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, limits=LIMITS) as (broker, port), client(port) as lazy:
            await lazy.call(Queue.Declare(queue="q"), Queue.DeclareOk)
            lazy.publish("q", b"x" * 60 * KIB, properties=Basic.Properties(delivery_mode=1))
            await lazy.call_through(Basic.Qos(), Basic.QosOk)
            for _ in range(100):
                lazy.send(Basic.Get(queue="q"), Basic.Nack(0, multiple=True, requeue=True))
            await lazy.expect(Basic.GetOk)
            assert broker.drop_connections("u") == 1
            assert await lazy.close_code() == 320

    asyncio.run(scenario())


def test_a_peer_that_never_reads_is_dropped_after_two_heartbeats(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path, limits=LIMITS) as (broker, port),
            client(port, heartbeat=1) as lazy,
        ):
            await lazy.call(Queue.Declare(queue="q"), Queue.DeclareOk)
            lazy.publish("q", b"x" * 60 * KIB, properties=Basic.Properties(delivery_mode=1))
            await lazy.call_through(Basic.Qos(), Basic.QosOk)
            lazy.writer.transport.pause_reading()  # type: ignore[attr-defined]
            (connection,) = broker.connections
            gone = asyncio.get_running_loop().create_future()
            lost = connection.connection_lost

            def noted(exc: Exception | None) -> None:
                lost(exc)
                gone.set_result(connection._waiting)

            connection.connection_lost = noted  # type: ignore[method-assign]
            for _ in range(200):
                lazy.send(Basic.Get(queue="q"), Basic.Nack(0, multiple=True, requeue=True))
            assert await asyncio.wait_for(gone, 60)
            assert not broker.connections

    asyncio.run(scenario())


class _Connection:
    """As much of a connection as the assembling of a message needs."""

    def assemble(self, _size: int) -> bool:
        return True


def test_a_body_in_tiny_pieces_takes_the_room_of_its_bytes() -> None:
    class Broker:
        limits = Limits()

    publishing = Publishing(1, _Connection(), Broker())  # type: ignore[arg-type]
    publishing._publication = object()  # type: ignore[assignment]
    size = 100_000
    head = header.ContentHeader(0, size, Basic.Properties())
    publishing.header(frame.marshal(head, 1)[7:-1])
    for _ in range(size // 4):
        publishing.body(b"")  # an empty piece is no piece
        publishing.body(body.ContentBody(b"ab").value)
    assert len(publishing._body) == size // 2
    assert isinstance(publishing._body, bytearray)
