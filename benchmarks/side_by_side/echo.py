"""The echo: the least that a program can do which receives tasks and sends results.

    python -m benchmarks.side_by_side.echo URL TASKS EXCHANGE KEY

One process, two of pika's SelectConnections on one loop, prefetch 1,000, persistent messages with
pipelined confirms, and a delivery is acknowledged once its copy is confirmed, as many at once as
there are. The body goes back unchanged. It keeps nothing on a disk and runs nothing. Ends with
SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop

PREFETCH = 1000


class Echo:
    """Both channels, and the confirms that are open."""

    def __init__(self, url: str, source: str, exchange: str, key: str) -> None:
        self._parameters = pika.URLParameters(url)
        self._source = source
        self._target = (exchange, key)
        self._properties = pika.BasicProperties(delivery_mode=2)
        self._loop = IOLoop()
        self._channels: dict[str, Any] = {}
        self._connections = [self._connect("in"), self._connect("out")]

    def run(self) -> None:
        """Echo until told to stop."""
        signal.signal(signal.SIGTERM, lambda *_: self._loop.add_callback_threadsafe(self._stop))
        self._loop.start()

    def _stop(self) -> None:
        self._loop.stop()

    def _connect(self, role: str) -> Any:
        return pika.SelectConnection(
            self._parameters,
            on_open_callback=lambda made: made.channel(
                on_open_callback=lambda channel: self._opened(role, channel)
            ),
            custom_ioloop=self._loop,
        )

    def _opened(self, role: str, channel: Any) -> None:
        self._channels[role] = channel
        if len(self._channels) < 2:
            return
        self._channels["out"].confirm_delivery(self._on_confirm)
        self._channels["in"].basic_qos(prefetch_count=PREFETCH)
        self._channels["in"].basic_consume(self._source, self._on_task, exclusive=True)

    def _on_task(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        # Both tags count from 1 in the same order, so a confirm names the delivery as well.
        exchange, key = self._target
        self._channels["out"].basic_publish(exchange, key, body, self._properties, mandatory=True)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        self._channels["in"].basic_ack(method.delivery_tag, multiple=method.multiple)


if __name__ == "__main__":
    Echo(*sys.argv[1:5]).run()
