"""What a publisher holds until the broker answers for it; pure, no thread.

Messages wait in order, go in flight within a window, and leave by a confirm. When the channel is
lost everything in flight waits again, in the old order, before what came later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cep.model import PublishKwargs

MIB = 1024 * 1024
WINDOW_MESSAGES = 4096
WINDOW_BYTES = 16 * MIB  # in flight: copies in pika's and the kernel's buffers


@dataclass(slots=True)
class Message:
    """One message that is not confirmed.

    Attributes:
        token: The owner's number for it.
        body: The message.
        route: Where to publish it.
        returned: Why the broker returned it, else "".
    """

    token: int
    body: bytes
    route: PublishKwargs
    returned: str = ""


class Outgoing:
    """Waiting and in-flight messages of one publisher.

    Args:
        window_messages: At most so many in flight.
        window_bytes: At most so many bytes in flight; one message always fits.
    """

    def __init__(
        self, window_messages: int = WINDOW_MESSAGES, window_bytes: int = WINDOW_BYTES
    ) -> None:
        self._window_messages = window_messages
        self._window_bytes = window_bytes
        self._waiting: deque[Message] = deque()
        self._in_flight: dict[int, Message] = {}  # by publish tag of the present channel
        self._in_flight_bytes = 0
        self._lowest = 1  # no tag below it is in flight
        self._suspects = 0  # so many of the next messages go one at a time

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    @property
    def in_flight(self) -> int:
        """Number of messages published and not answered for."""
        return len(self._in_flight)

    def add(self, messages: Iterable[Message]) -> None:
        """Take messages behind all others."""
        self._waiting.extend(messages)

    def next(self) -> Message | None:
        """The next message that may be published now, None when the window is full."""
        if not self._waiting:
            return None
        if not self._in_flight:
            return self._waiting.popleft()
        if self._suspects or len(self._in_flight) >= self._window_messages:
            return None
        if self._in_flight_bytes + len(self._waiting[0].body) > self._window_bytes:
            return None
        return self._waiting.popleft()

    def published(self, tag: int, message: Message) -> None:
        """Note under which publish tag a message went out; tags rise by one from 1."""
        self._in_flight[tag] = message
        self._in_flight_bytes += len(message.body)

    def answered(self, tag: int, multiple: bool) -> list[Message]:
        """The messages that an ack or nack of the broker is about; they are forgotten here.

        Args:
            tag: Publish tag.
            multiple: All unanswered tags up to this one too.
        """
        if multiple:
            tags = range(self._lowest, tag + 1)
            found = [m for t in tags if (m := self._in_flight.pop(t, None)) is not None]
            self._lowest = max(self._lowest, tag + 1)
        else:
            one = self._in_flight.pop(tag, None)
            found = [] if one is None else [one]
            if tag == self._lowest:
                self._lowest += 1
        for message in found:
            self._in_flight_bytes -= len(message.body)
        if self._suspects:
            self._suspects = max(0, self._suspects - len(found))
        return found

    def returned(self, body: bytes, reason: str) -> bool:
        """Mark the in-flight message with this body as returned; its ack follows.

        A basic.return names no publish tag, but it carries the body; of two equal messages it does
        not matter which is which.
        """
        for message in self._in_flight.values():
            if not message.returned and message.body == body:
                message.returned = reason
                return True
        return False

    def reroute(self, old: PublishKwargs, new: PublishKwargs) -> None:
        """Let messages for the old default route go the new one."""
        for message in (*self._waiting, *self._in_flight.values()):
            if message.route is old:
                message.route = new

    def channel_lost(self) -> None:
        """Put everything in flight back to the front, in order; tags begin anew."""
        self._waiting.extendleft(reversed(self._take_in_flight()))

    def channel_refused(self) -> Sequence[Message]:
        """The channel was lost because of one of the messages in flight.

        Which one is not said. With one in flight it is found and handed out; otherwise all go
        back and are published one at a time until each was answered for.

        Returns:
            The culprit, or nothing.
        """
        messages = self._take_in_flight()
        if len(messages) == 1:
            self._suspects = max(0, self._suspects - 1)
            return messages
        self._suspects = max(self._suspects, len(messages))
        self._waiting.extendleft(reversed(messages))
        return ()

    def _take_in_flight(self) -> list[Message]:
        messages = [self._in_flight[tag] for tag in sorted(self._in_flight)]
        for message in messages:
            message.returned = ""
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._lowest = 1
        return messages
