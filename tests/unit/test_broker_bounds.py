"""The embedded broker's bounds: memory, paging to disk, slow readers, full queues."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from pamqp import commands

from cep.hub.broker import Limits
from tests.unit.broker_rig import Client, client, running

Basic, Queue = commands.Basic, commands.Queue
KIB, MIB = 1 << 10, 1 << 20


def test_bodies_beyond_a_queues_share_are_on_disk_and_come_back_in_order(
    tmp_path: Path,
) -> None:
    bodies = [bytes((n,)) * (256 * KIB) for n in range(40)]

    async def scenario() -> None:
        limits = Limits(page_bytes=MIB)
        async with running(tmp_path, limits=limits) as (broker, port), client(port) as peer:
            await peer.call(Queue.Declare(queue="q", durable=True), Queue.DeclareOk)
            await peer.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
            for body in bodies:
                peer.publish("q", body)
            last = 0
            while last < len(bodies):
                last = max(last, (await peer.expect(Basic.Ack)).delivery_tag)
            assert broker.memory.held <= MIB
            await peer.call(Basic.Consume(queue="q"), Basic.ConsumeOk)
            for body in bodies:
                deliver = await peer.expect(Basic.Deliver)
                assert await peer.body() == body
            assert broker.memory.held <= 6 * MIB
            await peer.call(Basic.Recover(requeue=True), Basic.RecoverOk)
            for body in bodies:
                deliver = await peer.expect(Basic.Deliver)
                assert deliver.redelivered
                assert await peer.body() == body
            peer.send(Basic.Ack(0, multiple=True))
            await peer.call(Basic.Qos(), Basic.QosOk)
            assert broker.memory.held == 0

    asyncio.run(scenario())


def test_get_reads_a_body_from_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(page_bytes=0)
        async with running(tmp_path, limits=limits) as (broker, port), client(port) as peer:
            await peer.call(Queue.Declare(queue="q", durable=True), Queue.DeclareOk)
            await peer.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
            peer.publish("q", b"stored")
            await peer.expect(Basic.Ack)
            assert broker.memory.held == 0
            await peer.call(Basic.Get(queue="q", no_ack=True), Basic.GetOk)
            assert await peer.body() == b"stored"

    asyncio.run(scenario())


def test_a_publisher_is_held_up_while_memory_is_short_and_goes_on_later(
    tmp_path: Path,
) -> None:
    limit = 2 * MIB
    transient = Basic.Properties(delivery_mode=1)

    async def scenario() -> None:
        limits = Limits(memory_bytes=limit)
        async with (
            running(tmp_path, limits=limits) as (broker, port),
            client(port) as publisher,
            client(port) as consumer,
        ):
            await publisher.call(Queue.Declare(queue="q"), Queue.DeclareOk)
            for number in range(100):
                publisher.publish("q", bytes((number,)) * (256 * KIB), properties=transient)
            blocked = await publisher.expect(commands.Connection.Blocked)
            assert blocked.reason
            assert limit < broker.memory.held <= limit + MIB
            await consumer.call(Basic.Consume(queue="q", no_ack=True), Basic.ConsumeOk)
            for number in range(100):
                await consumer.expect(Basic.Deliver)
                assert await consumer.body() == bytes((number,)) * (256 * KIB)
            await publisher.expect(commands.Connection.Unblocked)
            assert broker.memory.held == 0

    asyncio.run(scenario())


def test_a_consumer_that_does_not_read_gets_only_a_bounded_part(tmp_path: Path) -> None:
    count, size = 400, 128 * KIB

    async def scenario() -> None:
        limits = Limits(outbound_bytes=256 * KIB)
        async with (
            running(tmp_path, limits=limits) as (broker, port),
            client(port) as publisher,
            client(port) as lazy,
        ):
            await publisher.call(Queue.Declare(queue="q", durable=True), Queue.DeclareOk)
            lazy.writer.transport.pause_reading()  # type: ignore[attr-defined]
            lazy.send(Basic.Consume(queue="q"))
            await publisher.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
            for _ in range(count):
                publisher.publish("q", b"x" * size)
                await publisher.expect(Basic.Ack)
            # What left the queue is in socket buffers of the system and the bounded one of ours.
            assert len(broker.queues["q"].ready) > count // 2
            lazy.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await lazy.expect(Basic.ConsumeOk)
            for _ in range(count):
                await lazy.expect(Basic.Deliver)
                assert len(await lazy.body()) == size

    asyncio.run(scenario())


def test_a_queue_that_is_full_refuses_with_a_nack(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(queue_messages=3, queue_bytes=10)
        async with running(tmp_path, limits=limits) as (_broker, port), client(port) as peer:
            await peer.call(Queue.Declare(queue="q"), Queue.DeclareOk)
            await peer.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
            peer.publish("q", b"12345678901")
            assert (await peer.expect(Basic.Nack)).delivery_tag == 1
            for number in range(3):
                peer.publish("q", b"1")
                assert (await peer.expect(Basic.Ack)).delivery_tag == number + 2
            peer.publish("q", b"1")
            assert (await peer.expect(Basic.Nack)).delivery_tag == 5

    asyncio.run(scenario())


def test_twenty_mebibytes_pass_in_one_body(tmp_path: Path) -> None:
    large = bytes(range(256)) * (80 * KIB)

    async def scenario() -> None:
        async with running(tmp_path) as (_broker, port), client(port) as peer:
            await peer.call(Queue.Declare(queue="q", durable=True), Queue.DeclareOk)
            peer.publish("q", large)
            await peer.call(Basic.Get(queue="q"), Basic.GetOk)
            assert await peer.body() == large

    asyncio.run(scenario())


class Life:
    """One publisher and consumers that ack, nack, vanish and close at random."""

    count = 1500

    def __init__(self, port: int) -> None:
        self.port = port
        self.done: set[int] = set()
        self._draw = random.Random(7)

    async def publish(self) -> None:
        """Publish them all, persistent or not, small and large, and wait for the confirms."""
        async with client(self.port) as peer:
            await peer.call(commands.Confirm.Select(), commands.Confirm.SelectOk)
            for number in range(self.count):
                mode = Basic.Properties(delivery_mode=self._draw.choice((1, 2)))
                body = number.to_bytes(4, "big") * self._draw.choice((1, 1, 100, 8000))
                peer.publish("q", body, properties=mode)
                await peer.writer.drain()
            confirmed = 0
            while confirmed < self.count:
                got = await peer.receive()
                assert not isinstance(got, Basic.Nack)
                if isinstance(got, Basic.Ack):
                    confirmed = max(confirmed, got.delivery_tag)

    async def consume(self) -> None:
        """Come and go until every message was acknowledged."""
        while len(self.done) < self.count:
            async with client(self.port) as peer:
                prefetch = self._draw.choice((0, 1, 7, 50))
                await peer.call(Basic.Qos(prefetch_count=prefetch), Basic.QosOk)
                await peer.call(Basic.Consume(queue="q"), Basic.ConsumeOk)
                await self._take_some(peer)

    async def _take_some(self, peer: Client) -> None:
        for _ in range(self._draw.randint(1, 400)):
            try:
                deliver = await asyncio.wait_for(peer.expect(Basic.Deliver), 0.3)
            except (TimeoutError, asyncio.TimeoutError):
                return
            number = int.from_bytes((await peer.body())[:4], "big")
            dice = self._draw.random()
            if dice < 0.85:
                peer.send(Basic.Ack(deliver.delivery_tag))
                self.done.add(number)
            elif dice < 0.95:
                peer.send(Basic.Nack(deliver.delivery_tag, requeue=True))
            elif dice < 0.97:
                peer.writer.transport.abort()
                return
        await peer.call_through(commands.Channel.Close(0, "", 0, 0), commands.Channel.CloseOk)


def test_nothing_is_lost_or_counted_wrongly_in_a_random_life(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(page_bytes=64 * KIB, memory_bytes=256 * KIB, outbound_bytes=32 * KIB)
        async with running(tmp_path, limits=limits) as (broker, port), client(port) as peer:
            await peer.call(Queue.Declare(queue="q", durable=True), Queue.DeclareOk)
            life = Life(port)
            await asyncio.gather(life.publish(), *(life.consume() for _ in range(3)))
            assert life.done == set(range(life.count))

            async def others_gone() -> None:
                while len(broker.connections) > 1:
                    await asyncio.sleep(0)

            await asyncio.wait_for(others_gone(), 60)
            # Acknowledgements that were cut off on their way left messages behind.
            await peer.call(Queue.Purge(queue="q"), Queue.PurgeOk)
            queue = broker.queues["q"]
            assert (queue.count, queue.bytes, len(queue.ready)) == (0, 0, 0)
            assert broker.memory.held == 0

    asyncio.run(scenario())
