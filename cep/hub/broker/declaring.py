"""The methods that change or inspect the topology: exchange.declare and the queue class.

Functions on a channel, called on the broker's event loop. Replies to changes of durable things
wait until the store has them. A passive declare needs no permission, as in RabbitMQ.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from pamqp import commands

from cep.hub.broker.replies import ChannelFault, Code, not_implemented

if TYPE_CHECKING:
    from cep.hub.broker.channel import Channel
    from cep.hub.broker.queues import Queue


def declare_exchange(channel: Channel, method: commands.Exchange.Declare) -> None:
    """exchange.declare: direct exchanges only."""
    name = _checked(method.exchange, method)
    existing = channel.broker.exchanges.get(name)
    done = channel.reply(commands.Exchange.DeclareOk(), method.nowait)
    if method.passive:
        channel.broker.exchange(name)
        done(True)
        return
    if method.exchange_type != "direct":
        raise not_implemented(f"exchange type '{method.exchange_type}'")
    if method.auto_delete or method.internal or method.arguments:
        raise not_implemented("an auto-delete or internal exchange, or one with arguments,")
    if not name:
        raise ChannelFault(Code.ACCESS_REFUSED, "operation not permitted on the default exchange")
    channel.require(channel.connection.identity.may_configure(name), "configure", "exchange", name)
    if existing is not None:
        _equal("durable", method.durable, existing.durable, f"exchange '{name}'")
        done(True)
        return
    _not_reserved(name, "exchange")
    channel.broker.add_exchange(name, durable=method.durable, done=done)


def declare_queue(channel: Channel, method: commands.Queue.Declare) -> None:
    """queue.declare: passive, again with the same properties, or new."""
    name = _checked(method.queue, method)
    if method.arguments:
        raise not_implemented(f"queue argument '{next(iter(method.arguments))}'")
    broker, connection = channel.broker, channel.connection
    if method.passive:
        queue = channel.queue(name)
        channel.last_queue = queue.name
        channel.reply(_declared(queue), method.nowait)(True)
        return
    if name in broker.queues:
        channel.require(connection.identity.may_configure(name), "configure", "queue", name)
        queue = broker.queue(name, connection)
        _same(queue, method)
        channel.last_queue = name
        channel.reply(_declared(queue), method.nowait)(True)
        return
    if name:
        _not_reserved(name, "queue")
    else:
        name = f"amq.gen-{secrets.token_urlsafe(16)}"
    channel.require(connection.identity.may_configure(name), "configure", "queue", name)
    channel.last_queue = name
    broker.add_queue(
        name,
        durable=method.durable,
        auto_delete=method.auto_delete,
        owner=connection if method.exclusive else None,
        done=channel.reply(commands.Queue.DeclareOk(name, 0, 0), method.nowait),
    )


def bind(channel: Channel, method: commands.Queue.Bind) -> None:
    """queue.bind to a direct exchange."""
    if method.arguments:
        raise not_implemented("a binding with arguments")
    queue = channel.queue(method.queue)
    key = method.routing_key or ("" if method.queue else queue.name)
    _may_bind(channel, queue.name, method.exchange)
    exchange = channel.broker.exchange(method.exchange)
    done = channel.reply(commands.Queue.BindOk(), method.nowait)
    channel.broker.bind(exchange, key, queue, done)


def unbind(channel: Channel, method: commands.Queue.Unbind) -> None:
    """queue.unbind; what is not bound is fine, as in RabbitMQ."""
    name = method.queue or channel.last_queue
    _may_bind(channel, name, method.exchange)
    done = channel.reply(commands.Queue.UnbindOk(), nowait=False)
    exchange = channel.broker.exchanges.get(method.exchange)
    if name not in channel.broker.queues or exchange is None:
        done(True)
        return
    channel.broker.unbind(exchange, method.routing_key, channel.queue(name), done)


def purge(channel: Channel, method: commands.Queue.Purge) -> None:
    """queue.purge: ready messages only."""
    queue = channel.queue(method.queue)
    channel.require(channel.connection.identity.may_read(queue.name), "read", "queue", queue.name)
    channel.reply(commands.Queue.PurgeOk(queue.purge()), method.nowait)(True)


def delete_queue(channel: Channel, method: commands.Queue.Delete) -> None:
    """queue.delete; a queue that is not there is fine, as in RabbitMQ."""
    name = method.queue or channel.last_queue
    identity = channel.connection.identity
    channel.require(identity.may_configure(name), "configure", "queue", name)
    if name not in channel.broker.queues:
        channel.reply(commands.Queue.DeleteOk(0), method.nowait)(True)
        return
    queue = channel.queue(name)
    if method.if_unused and queue.consumers:
        raise ChannelFault(Code.PRECONDITION_FAILED, f"queue '{name}' in vhost '/' in use")
    if method.if_empty and queue.ready:
        raise ChannelFault(Code.PRECONDITION_FAILED, f"queue '{name}' in vhost '/' not empty")
    reply = commands.Queue.DeleteOk(len(queue.ready))
    channel.broker.delete_queue(queue, channel.reply(reply, method.nowait))


def _declared(queue: Queue) -> commands.Queue.DeclareOk:
    return commands.Queue.DeclareOk(queue.name, len(queue.ready), len(queue.consumers))


def _checked(name: str, method: commands.Queue.Declare | commands.Exchange.Declare) -> str:
    try:
        method.validate()
    except ValueError as exc:
        raise ChannelFault(Code.PRECONDITION_FAILED, f"the name '{name}' is not allowed") from exc
    return name


def _not_reserved(name: str, kind: str) -> None:
    if name.startswith("amq."):
        raise ChannelFault(Code.ACCESS_REFUSED, f"{kind} name '{name}' has reserved prefix 'amq.'")


def _may_bind(channel: Channel, queue: str, exchange: str) -> None:
    identity = channel.connection.identity
    if not exchange:
        raise ChannelFault(Code.ACCESS_REFUSED, "operation not permitted on the default exchange")
    channel.require(identity.may_write(queue), "write", "queue", queue)
    channel.require(identity.may_read(exchange), "read", "exchange", exchange)


def _equal(word: str, received: object, current: object, what: str) -> None:
    if received != current:
        raise ChannelFault(
            Code.PRECONDITION_FAILED,
            f"inequivalent arg '{word}' for {what} in vhost '/': received '{received}' but "
            f"current is '{current}'",
        )


def _same(queue: Queue, method: commands.Queue.Declare) -> None:
    what = f"queue '{queue.name}'"
    if method.exclusive != (queue.owner is not None):
        raise ChannelFault(
            Code.RESOURCE_LOCKED, f"cannot obtain exclusive access to locked {what} in vhost '/'"
        )
    _equal("durable", method.durable, queue.durable, what)
    _equal("auto_delete", method.auto_delete, queue.auto_delete, what)
