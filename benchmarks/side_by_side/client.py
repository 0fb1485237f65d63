"""The client of the benchmark: publishes task messages and reads the result queue.

It stands for the web service and is the same for every endpoint. So that it takes as little as
possible of the processors it shares with what is measured, the frames of all messages are made
before the clock begins, and answers are only searched for their task id. Two connections, written
to and read with plain sockets; frames by pamqp. One thread owns it; during a burst a second one
does nothing but write.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from pamqp import body, commands, frame, header

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY = 1, 2, 3
DELIVER = b"\x00\x3c\x00\x3c"  # class 60, method 60 (AMQP 0-9-1)
ID_KEY = b'"task_id":"'
ID_LENGTH = 36
CHUNK = 50  # messages per write
SILENCE_S = 120.0  # without any answer for so long a measurement has failed


class AnswersMissing(Exception):
    """The endpoint stopped answering; the text says how far it came."""


class _Connection:
    """One logged-in connection with channel 1 open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.create_connection((parts.hostname, parts.port or 5672), 20.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.socket.sendall(PROTOCOL_HEADER)
        self._answer(commands.Connection.Start)
        login = f"\0{parts.username}\0{parts.password}"
        self.send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
        tune = self._answer(commands.Connection.Tune)
        self.frame_max = tune.frame_max
        self.send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), 0)
        self.ask(commands.Connection.Open("/"), commands.Connection.OpenOk, 0)
        self.ask(commands.Channel.Open(), commands.Channel.OpenOk)
        self.socket.settimeout(SILENCE_S)

    def send(self, method: Any, channel: int = 1) -> None:
        """Send one method."""
        self.socket.sendall(frame.marshal(method, channel))

    def ask(self, method: Any, kind: type, channel: int = 1) -> Any:
        """Send one method and return its answer, which must be of this kind."""
        self.send(method, channel)
        return self._answer(kind)

    def _answer(self, kind: type) -> Any:
        while True:
            if len(self.buffer) >= 7:
                size = 8 + int.from_bytes(self.buffer[3:7], "big")
                if len(self.buffer) >= size:
                    _, _, got = frame.unmarshal(bytes(self.buffer[:size]))
                    del self.buffer[:size]
                    if not isinstance(got, kind):
                        raise AnswersMissing(f"the broker says {got!r} instead of {kind.__name__}")
                    return got
            self.more()

    def more(self) -> None:
        """Read what is there, or wait for something."""
        read = self.socket.recv(1 << 20)
        if not read:
            raise AnswersMissing("the broker hung up")
        self.buffer += read

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Client:
    """Publishes to one queue and takes what comes into another.

    Args:
        url: AMQP URL.
        tasks: The queue to publish to.
        results: The queue to read.
    """

    def __init__(self, url: str, tasks: str, results: str) -> None:
        self._tasks = tasks
        self._out = _Connection(url)
        self._in = _Connection(url)
        self._in.ask(commands.Basic.Consume(queue=results, no_ack=True), commands.Basic.ConsumeOk)
        self.errors = 0  # answers that are errors

    def close(self) -> None:
        """Hang up on both connections."""
        self._out.close()
        self._in.close()

    def frames_of(self, task_id: str, content: bytes, function_id: str) -> bytes:
        """The frames that publish one task message."""
        properties = commands.Basic.Properties(
            delivery_mode=2, headers={"task_uuid": task_id, "function_uuid": function_id}
        )
        most = self._out.frame_max - 8
        pieces = [content[at : at + most] for at in range(0, len(content), most)]
        parts = [
            commands.Basic.Publish(exchange="", routing_key=self._tasks),
            header.ContentHeader(0, len(content), properties),
            *map(body.ContentBody, pieces),
        ]
        return b"".join(frame.marshal(part, 1) for part in parts)

    def waiting(self) -> int:
        """Messages in the task queue that were not delivered yet."""
        question = commands.Queue.Declare(queue=self._tasks, passive=True)
        return int(self._out.ask(question, commands.Queue.DeclareOk).message_count)

    def publish(self, messages: Sequence[bytes]) -> None:
        """Write messages, each made by `frames_of`."""
        for at in range(0, len(messages), CHUNK):
            self._out.socket.sendall(b"".join(messages[at : at + CHUNK]))

    def lay(self, messages: Sequence[bytes]) -> None:
        """Publish messages and wait until all are in the queue, which nobody consumes."""
        self.publish(messages)
        deadline = time.monotonic() + SILENCE_S
        while self.waiting() < len(messages):
            if time.monotonic() > deadline:
                raise AnswersMissing("the broker does not take the messages")
            time.sleep(0.05)

    def burst(self, messages: Sequence[bytes]) -> list[float]:
        """Publish all at once; return the moment (s since the first publish) of each answer."""
        writer = threading.Thread(target=self.publish, args=(messages,))
        began = time.perf_counter()
        writer.start()
        try:
            return [at - began for at in self.take(len(messages))]
        finally:
            writer.join()

    def one_by_one(self, messages: Sequence[bytes]) -> list[float]:
        """Publish each when the one before is answered; return the seconds each took."""
        times = []
        for message in messages:
            began = time.perf_counter()
            self._out.socket.sendall(message)
            times.append(self.take(1)[0] - began)
        return times

    def take(self, wanted: int) -> list[float]:
        """The moments (s, `time.perf_counter`) at which this many distinct tasks were answered.

        Raises:
            AnswersMissing: Nothing came for `SILENCE_S`.
        """
        seen: set[bytes] = set()
        moments = []
        try:
            for content in self._contents():
                at = content.find(ID_KEY)
                if at < 0 or b"ep_status_report" in content[:60]:
                    continue
                task_id = content[at + len(ID_KEY) : at + len(ID_KEY) + ID_LENGTH]
                if task_id in seen:
                    continue
                seen.add(task_id)
                self.errors += b'"error_details":{' in content
                moments.append(time.perf_counter())
                if len(moments) == wanted:
                    return moments
        except TimeoutError:
            pass
        raise AnswersMissing(f"{len(moments)} of {wanted} tasks were answered, then silence")

    def _contents(self) -> Iterator[bytes]:
        """Bodies of deliveries as they come; a whole one is taken from the buffer each time."""
        inbox = self._in
        while True:
            at, left, pieces = 0, -1, []
            while True:
                if len(inbox.buffer) - at < 8:
                    inbox.more()
                    continue
                size = int.from_bytes(inbox.buffer[at + 3 : at + 7], "big")
                if len(inbox.buffer) - at < size + 8:
                    inbox.more()
                    continue
                kind = inbox.buffer[at]
                content = inbox.buffer[at + 7 : at + 7 + size]
                at += size + 8
                if kind == METHOD and not content.startswith(DELIVER):
                    raise AnswersMissing(f"the broker says {bytes(content)!r}")
                if kind == HEADER:
                    left = int.from_bytes(content[4:12], "big")
                elif kind == BODY:
                    pieces.append(content)
                    left -= size
                if left == 0:
                    break
            del inbox.buffer[:at]
            yield bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
