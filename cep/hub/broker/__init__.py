"""An embedded AMQP 0-9-1 broker on asyncio: what endpoints and the SDK use, done properly.

What it has: PLAIN login, the direct and the default exchange, durable, exclusive and auto-delete
queues, consumers (exclusive, prefetch), get, acks, redelivery in the original order, confirms,
mandatory returns, heartbeats, per-user permissions. Everything else is answered with reply code
540, not-implemented. Durable queues and persistent messages survive a restart and a kill -9.

Modules: `broker` (life cycle, topology), `connection` (one client), `channel` and `publishing`
(the methods), `queues` (order, consumers, bounds), `store` (SQLite), `frames` (codec edge),
`access` (who may do what). All of it runs on the event loop that called `Broker.start`, except
for SQLite, which has one thread of its own.
"""

from cep.hub.broker.access import Identity, Limits
from cep.hub.broker.broker import Broker

__all__ = ["Broker", "Identity", "Limits"]
