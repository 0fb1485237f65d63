"""What goes wrong on the embedded broker: strange clients, wrong logins, things it has not."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from pamqp import commands

from cep.errors import Unavailable
from cep.hub.broker import Broker, Identity, Limits
from tests.unit.broker_rig import (
    PROTOCOL_HEADER,
    client,
    connect,
    everybody,
    running,
)

Basic, Queue, Exchange = commands.Basic, commands.Queue, commands.Exchange

NOT_IMPLEMENTED = [
    commands.Tx.Select(),
    Exchange.Delete(exchange="x"),
    Exchange.Bind(destination="a", source="b"),
    Exchange.Declare(exchange="x", exchange_type="topic"),
    Exchange.Declare(exchange="x", exchange_type="fanout"),
    Exchange.Declare(exchange="x", exchange_type="direct", auto_delete=True),
    Queue.Declare(queue="new", arguments={"x-dead-letter-exchange": "x"}),
    Queue.Declare(queue="new", arguments={"x-queue-type": "quorum"}),
    Queue.Declare(queue="new", arguments={"x-expires": 5}),
    Basic.Consume(queue="q", no_local=True),
    Basic.Consume(queue="q", arguments={"x-priority": 1}),
    Basic.Qos(prefetch_size=1),
    Basic.Recover(requeue=False),
    commands.Channel.Flow(active=False),
    Basic.Publish(exchange="", routing_key="q", immediate=True),
]


@pytest.mark.parametrize("method", NOT_IMPLEMENTED, ids=lambda each: each.name)
def test_what_the_broker_has_not_is_answered_with_540(method: object, tmp_path: Path) -> None:
    async def scenario() -> int | None:
        async with running(tmp_path) as (_broker, port), client(port) as peer:
            await peer.call(Queue.Declare(queue="q"), Queue.DeclareOk)
            peer.send(method)  # type: ignore[arg-type]
            return await peer.close_code()

    assert asyncio.run(scenario()) == 540


def test_a_method_that_amqp_has_not_is_answered_with_540(tmp_path: Path) -> None:
    async def scenario() -> int | None:
        async with running(tmp_path) as (_broker, port), client(port) as peer:
            peer.writer.write(b"\x01\x00\x01\x00\x00\x00\x04\x00\x63\x00\x07\xce")
            return await peer.close_code()

    assert asyncio.run(scenario()) == 540


def test_an_expiration_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    async def scenario() -> int | None:
        async with running(tmp_path) as (_broker, port), client(port) as peer:
            peer.publish("q", b"x", properties=Basic.Properties(expiration="100"))
            return await peer.close_code()

    assert asyncio.run(scenario()) == 540


def test_garbage_never_harms_the_broker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw = random.Random(20260101)

    def frame_of(kind: int, payload: bytes) -> bytes:
        channel = draw.choice((0, 1, 1, 1, 9)).to_bytes(2, "big")
        return bytes((kind,)) + channel + len(payload).to_bytes(4, "big") + payload + b"\xce"

    indexes = list(commands.INDEX_MAPPING)

    async def strange(port: int) -> None:
        async with client(port) as peer:
            for _ in range(draw.randint(1, 5)):
                rest = draw.randbytes(draw.randint(0, 60))
                index = draw.choice(indexes).to_bytes(4, "big")
                peer.writer.write(
                    draw.choice(
                        (
                            draw.randbytes(50),
                            frame_of(draw.choice((1, 2, 3, 8, 77)), rest),
                            frame_of(1, index + rest),
                            frame_of(1, b"\x00\x3c\x00\x28\x00\x00\x00\x01q\x00")
                            + frame_of(2, b"\x00\x3c\x00\x00" + b"\0" * 7 + b"\3" + rest),
                        )
                    )
                )
            peer.writer.write_eof()
            while await peer.reader.read(65536):
                pass

    async def scenario() -> None:
        async with running(tmp_path) as (broker, port):
            for _ in range(400):
                await strange(port)
            async with client(port) as peer:
                await peer.call(Queue.Declare(queue="good", durable=True), Queue.DeclareOk)
                peer.publish("good", b"fine")
                await peer.call(Basic.Get(queue="good"), Basic.GetOk)
                assert await peer.body() == b"fine"
            assert broker.memory.held <= 4

    asyncio.run(scenario())
    assert not [r for r in caplog.records if r.levelname == "ERROR"], caplog.text
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    told = {record.getMessage().split(": ", 1)[1][:20] for record in warnings}
    assert len(told) > 20  # the garbage reached every corner


def test_a_peer_that_does_not_log_in_is_dropped(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(handshake_s=1.0)
        async with running(tmp_path, limits=limits) as (broker, port):
            silent, half = await connect(port), await connect(port)
            half.writer.write(PROTOCOL_HEADER)
            await half.expect(commands.Connection.Start)
            for each in (silent, half):
                assert await each.receive() is None
                each.writer.close()
            assert not broker.connections

    asyncio.run(scenario())


def test_nothing_is_done_before_the_login(tmp_path: Path) -> None:
    async def scenario() -> int | None:
        async with running(tmp_path) as (broker, port):
            peer = await connect(port)
            peer.writer.write(PROTOCOL_HEADER)
            await peer.expect(commands.Connection.Start)
            peer.send(commands.Channel.Open())
            peer.send(Queue.Declare(queue="sneaked"))
            code = await peer.close_code()
            peer.writer.close()
            assert not broker.queues
            return code

    assert asyncio.run(scenario()) == 503


def test_another_mechanism_than_plain_is_refused(tmp_path: Path) -> None:
    async def scenario() -> int | None:
        async with running(tmp_path) as (_broker, port):
            peer = await connect(port)
            peer.writer.write(PROTOCOL_HEADER)
            start = await peer.expect(commands.Connection.Start)
            assert start.mechanisms == "PLAIN"
            login = commands.Connection.StartOk({}, "AMQPLAIN", "\0u\0right", "en_US")
            peer.send(login, channel=0)
            code = await peer.close_code()
            peer.writer.close()
            return code

    assert asyncio.run(scenario()) == 503


def test_another_protocol_is_answered_with_ours(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        async with running(tmp_path) as (_broker, port):
            peer = await connect(port)
            peer.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            answer = await peer.reader.read()
            peer.writer.close()
            return answer

    assert asyncio.run(scenario()) == PROTOCOL_HEADER


def test_a_login_may_take_its_time_and_an_error_in_it_refuses(tmp_path: Path) -> None:
    async def slow(user: str, password: str) -> Identity | None:
        await asyncio.sleep(0)
        if user == "bug":
            raise ValueError("not for the client")
        return everybody(user, password)

    async def scenario() -> None:
        async with running(tmp_path, authenticate=slow) as (_broker, port):
            async with client(port):
                pass
            for user, password in (("bug", "right"), ("u", "wrong")):
                with pytest.raises(AssertionError, match="ACCESS_REFUSED"):
                    async with client(port, user=user, password=password):
                        pass

    asyncio.run(scenario())


def test_passwords_are_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")

    async def scenario() -> None:
        async with running(tmp_path) as (_broker, port):
            with pytest.raises(AssertionError):
                async with client(port, password="my-secret-word"):
                    pass

    asyncio.run(scenario())
    assert "was refused" in caplog.text
    assert "my-secret-word" not in caplog.text


def test_a_user_is_cut_off_at_once_and_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path) as (broker, port),
            client(port, user="out") as out,
            client(port, user="stays") as stays,
        ):
            assert broker.drop_connections("out") == 1
            assert await out.close_code() == 320
            await stays.call(Basic.Qos(), Basic.QosOk)

    asyncio.run(scenario())


def test_routing_keys_can_be_limited(tmp_path: Path) -> None:
    identity = Identity("ep", write=frozenset({"amq.default"}), routing_keys=frozenset({"mine"}))

    async def scenario() -> int | None:
        started = running(tmp_path, authenticate=lambda _u, _p: identity)
        async with started as (_broker, port), client(port) as peer:
            peer.publish("mine", b"x")
            await peer.call(Basic.Qos(), Basic.QosOk)
            peer.publish("theirs", b"x")
            return await peer.close_code()

    assert asyncio.run(scenario()) == 403


def test_names_that_are_no_text_are_refused_and_logged_on_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = Identity("ep", write=frozenset({"amq.default"}), routing_keys=frozenset())

    async def scenario() -> int | None:
        started = running(tmp_path, authenticate=lambda _u, _p: nobody)
        async with started as (_broker, port), client(port) as peer:
            payload = b"\x00\x3c\x00\x28\x00\x00\x00\x03\xff\nx\x00"
            peer.writer.write(b"\x01\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce")
            return await peer.close_code()

    assert asyncio.run(scenario()) == 403
    assert not [each for each in caplog.records if "\n" in each.getMessage()]


def test_too_many_connections_are_refused_and_too_high_channels(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(connections=1, channels=2)
        async with running(tmp_path, limits=limits) as (_b, port), client(port) as peer:
            surplus = await connect(port)
            assert await surplus.receive() is None
            surplus.writer.close()
            peer.send(commands.Channel.Open(), channel=2)
            await peer.expect(commands.Channel.OpenOk)
            peer.send(commands.Channel.Open(), channel=3)
            assert await peer.close_code() == 504

    asyncio.run(scenario())


def test_one_user_has_only_so_many_connections_and_others_have_theirs(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(user_connections=2)
        async with (
            running(tmp_path, limits=limits) as (broker, port),
            client(port),
            client(port) as second,
        ):
            surplus = await connect(port)
            surplus.writer.write(b"AMQP\x00\x00\x09\x01")
            await surplus.expect(commands.Connection.Start)
            login = commands.Connection.StartOk({}, "PLAIN", "\0u\0right", "en_US")
            surplus.send(login, channel=0)
            assert await surplus.close_code() == 530
            surplus.writer.close()
            async with client(port, user="another"):
                await second.call(commands.Queue.Declare(queue="q"), commands.Queue.DeclareOk)
            assert broker.may_connect("another")
            assert not broker.may_connect("u")

    asyncio.run(scenario())


def test_one_channel_has_only_so_many_consumers(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(consumers=3)
        async with running(tmp_path, limits=limits) as (_b, port), client(port) as peer:
            await peer.call(commands.Queue.Declare(queue="q"), commands.Queue.DeclareOk)
            for _ in range(3):
                await peer.call(commands.Basic.Consume(queue="q"), commands.Basic.ConsumeOk)
            peer.send(commands.Basic.Consume(queue="q"))
            close = await peer.expect(commands.Channel.Close)
            assert close.reply_code == 530

    asyncio.run(scenario())


def test_an_idle_connection_without_a_login_leaves_for_a_new_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = Limits(connections=3)
        async with running(tmp_path, limits=limits) as (_b, port), client(port):
            idle = [await connect(port) for _ in range(5)]
            for one in idle[:3]:
                assert await one.receive() is None
            async with client(port) as peer:
                await peer.call(commands.Queue.Declare(queue="q"), commands.Queue.DeclareOk)
            for one in idle:
                one.writer.close()

    asyncio.run(scenario())


def test_a_port_in_use_is_told_by_its_number(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path / "a") as (_broker, port):
            second = Broker(tmp_path / "b", port=port, authenticate=everybody)
            with pytest.raises(Unavailable, match=f"port {port}"):
                await second.start()
            await second.stop()

    asyncio.run(scenario())


def test_stop_closes_politely_and_twice_does_no_harm(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (broker, port), client(port) as peer:
            stopping = asyncio.ensure_future(broker.stop())
            close = await peer.expect(commands.Connection.Close)
            assert close.reply_code == 320
            peer.send(commands.Connection.CloseOk(), channel=0)
            await stopping
            assert await peer.receive() is None
            await broker.stop()

    asyncio.run(scenario())


def test_stop_does_not_wait_for_a_client_that_never_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (broker, port), client(port):
            await asyncio.wait_for(broker.stop(), 60)
            assert not broker.connections

    asyncio.run(scenario())
