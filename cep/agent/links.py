"""The agent's AMQP links: tasks in, results out, and a third for status reports where the service
gives them another address. Owned by the main thread; the work is done in the AMQP thread."""

from __future__ import annotations

from collections.abc import Callable

from cep.amqp.consumer import Consumer
from cep.amqp.events import AmqpEvent
from cep.amqp.loop import AmqpLoop
from cep.amqp.publisher import Publisher
from cep.model import PublishKwargs, QueueAddress, Registered

TASKS = "tasks"
RESULTS = "results"
HEARTBEATS = "heartbeats"

# The token of a message that is sent once and never repeated (cep.amqp.publisher).
UNTRACKED = -1


class Links:
    """Builds, readdresses and stops the links of one endpoint.

    Attributes:
        up: Whether each link works.
        troubles: Why each link that is down is down.
    """

    def __init__(
        self,
        registered: Registered,
        *,
        port: int | None,
        ca_file: str | None,
        put: Callable[[AmqpEvent], None],
        guard: Callable[[], None],
    ) -> None:
        self._loop = AmqpLoop()
        self._registered = registered
        self.consumer = Consumer(
            self._loop,
            registered.tasks,
            name=TASKS,
            put=put,
            port=port,
            ssl_ca_file=ca_file,
            guard=guard,
        )

        def publisher(address: QueueAddress, name: str) -> Publisher:
            return Publisher(
                self._loop,
                address,
                name=name,
                put=put,
                port=port,
                ssl_ca_file=ca_file,
                guard=guard,
            )

        self.publisher = publisher(registered.results, RESULTS)
        self._report_route: PublishKwargs | None = None
        self._reports = self.publisher
        heartbeats = registered.heartbeats
        if heartbeats is not None:
            self._report_route = heartbeats.publish
            if heartbeats.url != registered.results.url:
                self._reports = publisher(heartbeats, HEARTBEATS)
        self.up: dict[str, bool] = {TASKS: False, RESULTS: False}
        if self._reports is not self.publisher:
            self.up[HEARTBEATS] = False
        self.troubles: dict[str, str] = {}

    def start(self) -> None:
        """Begin to connect; the consumer does not consume before it is told to."""
        self._loop.start()
        self.consumer.start()
        self.publisher.start()
        if self._reports is not self.publisher:
            self._reports.start()

    def are_at(self, registered: Registered) -> bool:
        """Whether these are the addresses and credentials in use."""
        return self._registered == registered

    def went_up(self, link: str) -> None:
        """Note that a link works."""
        self.up[link] = True
        self.troubles.pop(link, None)

    def went_down(self, link: str, reason: str) -> bool:
        """Note why a link is down; returns whether that is news."""
        news = self.troubles.get(link) != reason
        self.up[link] = False
        self.troubles[link] = reason
        return news

    def report(self, message: bytes) -> None:
        """Send a status report now if connected, else as soon as possible; newest wins."""
        self._reports.publish([(UNTRACKED, message)], self._report_route)

    def beat(self, echo: Callable[[], None]) -> None:
        """Have the AMQP thread call this when it comes round, connected or not."""
        self._loop.call(echo)

    def readdress(self, registered: Registered) -> None:
        """Use new credentials and addresses, keeping what is unconfirmed."""
        self._registered = registered
        self.consumer.readdress(registered.tasks)
        self.publisher.readdress(registered.results)
        if registered.heartbeats is not None and self._reports is not self.publisher:
            self._reports.readdress(registered.heartbeats)

    def stop(self, deadline_s: float) -> None:
        """Close all links, results and reports flushed as far as the deadline allows."""
        self.consumer.stop(deadline_s)
        self.publisher.stop(deadline_s)
        if self._reports is not self.publisher:
            self._reports.stop(deadline_s)
        self._loop.stop(deadline_s)
