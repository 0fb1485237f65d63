"""A hub in memory that lives for many inputs; used by the targets `rest` and `relay`."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.unit import hub_rig
from tests.unit.hub_rig import Answer, FakeMessaging, Hub

RENEW_EVERY = 300  # inputs; what they leave in the hub must not add up
_GIVE_UP_S = 4.0


class LivingHub:
    """The hub's application on the in-memory broker, with a user, an endpoint and a task.

    Attributes:
        endpoint_id: An endpoint of alice's.
        function_id: A function of hers.
        task_id: A task of hers that waits.
    """

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._tries = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        logging.getLogger("cep.hub").addHandler(self._Failures(self.failures))

    class _Failures(logging.Handler):
        def __init__(self, into: list[str]) -> None:
            super().__init__(logging.ERROR)
            self._into = into

        def emit(self, record: logging.LogRecord) -> None:
            self._into.append(logging.Formatter().format(record))

    def renew(self) -> None:
        """Be a fresh hub, now and then."""
        if self._folder is not None and self._tries % RENEW_EVERY:
            self._tries += 1
            return
        self.end()
        self._tries = 1
        self._folder = tempfile.TemporaryDirectory()
        ready: asyncio.Future[Hub] = self._loop.create_future()
        self._over = asyncio.Event()

        async def live(hub: Hub) -> None:
            ready.set_result(hub)
            await self._over.wait()

        self.messaging = FakeMessaging()
        self._life = self._loop.create_task(
            hub_rig._run(live, Path(self._folder.name), self.messaging, deadline_s=None)
        )
        self.hub = self._loop.run_until_complete(ready)
        self._loop.run_until_complete(self._furnish())

    async def _furnish(self) -> None:
        hub = self.hub
        self.endpoint_id = await hub.endpoint()
        self.function_id = await hub.function()
        submitted = await hub.call(
            "POST",
            f"/v3/endpoints/{self.endpoint_id}/submit",
            hub_rig.submit_body(self.function_id),
        )
        self.task_group_id = submitted.json["task_group_id"]
        (self.task_id,) = submitted.json["tasks"][self.function_id]
        await hub.login("bob")

    def filled(self, data: bytes) -> bytes:
        """Put the ids of this hub into an input that names them."""
        for word, value in (
            (b"$ENDPOINT", self.endpoint_id),
            (b"$FUNCTION", self.function_id),
            (b"$TASK", self.task_id),
            (b"$GROUP", self.task_group_id),
        ):
            data = data.replace(word, value.encode())
        return data

    def ask(self, request: Callable[[Hub], object]) -> Answer:
        """Send one request; a hang is a failure."""
        answer = self._loop.run_until_complete(
            asyncio.wait_for(request(self.hub), _GIVE_UP_S)  # type: ignore[arg-type]
        )
        assert isinstance(answer, Answer)
        self.check(answer)
        return answer

    def wait(self, done: Callable[[], bool]) -> None:
        """Let the hub work until something is so."""

        async def look() -> None:
            while not done() and not self.failures:
                await self.hub.services.store.call(lambda _connection: None)

        self._loop.run_until_complete(asyncio.wait_for(look(), _GIVE_UP_S))

    def check(self, answer: Answer) -> None:
        """No failure of the hub's own, and every refusal in the one error shape."""
        failures, self.failures[:] = list(self.failures), []
        assert not failures, failures[0]
        assert answer.status < 500, (answer.status, answer.raw)
        if answer.status >= 400:
            assert isinstance(answer.json["code"], str)

    def end(self) -> None:
        """End the present hub."""
        if self._folder is not None:
            self._over.set()
            self._loop.run_until_complete(self._life)
            self._folder.cleanup()
            self._folder = None

    def close(self) -> None:
        """End it for good."""
        self.end()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
