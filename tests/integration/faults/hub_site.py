"""An endpoint at a real hub: the hub relays, so what the client sees is what a user would see.

The hub is a process with its embedded broker and its store; the client submits over REST and
reads its task group's queue, as the official SDK does. The proxy stands between agent and broker.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika

from cep.wire.buffers import pack_buffers
from cep.wire.result import unpack_result
from tests.integration.agent_rig import Bench
from tests.integration.faults.books import Books, Verdict
from tests.integration.faults.client import AGAIN_S, LOST, Parcel
from tests.integration.faults.proxy import Proxy
from tests.integration.faults.schedule import Sitting
from tests.integration.faults.site import Site, configuration, crash_file_of, work
from tests.integration.hub_rig import HubProcess, Rest


class HubBench(Bench):
    """An endpoint's directory and agents, as `Bench`, with a real hub for the stand-in service."""

    def __init__(self, directory: Path, hub: HubBehindProxy) -> None:
        # Not Bench's own: it makes the stand-in and queues of its own.
        self.directory = directory
        self.root = directory / "bench"
        self.root.mkdir(parents=True)
        self.executed = directory / "executed"
        self.executed.touch()
        self._children = []
        self._serializer = self.serializer()
        self.hub = hub
        made = json.loads(hub.cep("client", "add", "faults", "--json").stdout)
        self.credentials = (made["client_id"], made["client_secret"])
        self.rest = Rest(hub.running["url"], *self.credentials)

    @staticmethod
    def serializer() -> Any:
        """The official serializer."""
        from globus_compute_sdk.serialize import ComputeSerializer

        return ComputeSerializer()

    def configure(self, text: str) -> None:
        """Write the configuration; the hub's address is added."""
        (self.root / "config.yaml").write_text(f"service_url: {self.rest.url}\n{text}")

    def close(self) -> None:
        """End the agents."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
                child.wait(60)


class HubBehindProxy(HubProcess):
    """A hub that hands out the proxy's port for its broker's."""

    def __init__(self, state_dir: Path, proxy: Proxy) -> None:
        super().__init__(state_dir)
        self._proxy = proxy

    def start(self) -> None:
        """Serve; again on the same ports after the first time."""
        public = f"amqp://127.0.0.1:{self._proxy.port}/"
        self.cep("serve", "--detach", "--port", self.port, "--public-amqp-url", public)
        self.port = self.running["url"].rpartition(":")[2]
        self._proxy.broker_port = self.status()["amqp_port"]

    def direct(self, url: str) -> str:
        """An AMQP URL that leads past the proxy."""
        return url.replace(f":{self._proxy.port}/", f":{self._proxy.broker_port}/")


class HubClient:
    """Submits over REST and reads the task group's queue, whatever happens. Use it with `with`."""

    def __init__(self, scene: HubBench, endpoint_id: str, function_id: str, books: Books) -> None:
        self._rest = scene.rest
        self._hub = scene.hub
        self._endpoint_id = endpoint_id
        self._function_id = function_id
        self._books = books
        self._group = str(uuid4())
        self._parcels: queue.SimpleQueue[Sequence[Parcel] | None] = queue.SimpleQueue()
        self.asked: list[str] = []  # labels of all that was to be submitted so far
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._submit_all, name="submitter"),
            threading.Thread(target=self._read_all, name="reader"),
        ]

    def __enter__(self) -> HubClient:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._parcels.put(None)
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), f"the {thread.name} did not end"

    def submit(self, parcels: Sequence[Parcel]) -> None:
        """Submit these together, as soon as the hub takes them."""
        self.asked += [parcel.label for parcel in parcels]
        self._parcels.put(parcels)

    def _submit_all(self) -> None:
        while (parcels := self._parcels.get()) is not None:
            content = {
                "create_queue": True,
                "task_group_id": self._group,
                "tasks": {self._function_id: [parcel.body.decode() for parcel in parcels]},
            }
            ids = self._post(content)
            for parcel, task_id in zip(parcels, ids, strict=True):
                self._books.submitted(task_id, parcel.label)

    def _post(self, content: dict[str, Any]) -> list[str]:
        """Submit until the hub answers; the same bytes again are the same submit."""
        while True:
            with contextlib.suppress(http.client.HTTPException, OSError, ValueError):
                path = f"/v3/endpoints/{self._endpoint_id}/submit"
                status, answer = self._rest.send("POST", path, content)
                if status == 200:
                    return list(answer["tasks"][self._function_id])
            if self._ended.wait(AGAIN_S):
                return []

    def _read_all(self) -> None:
        while not self._ended.wait(AGAIN_S):
            with contextlib.suppress(*LOST, http.client.HTTPException, ValueError):
                self._read()

    def _read(self) -> None:
        found = self._rest("GET", "/v2/get_amqp_result_connection_url")
        url = self._hub.direct(found["connection_url"])
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            name = f"{found['queue_prefix']}{self._group}"
            for method, _, body in channel.consume(name, inactivity_timeout=0.2):
                if method is None:
                    if self._ended.is_set():
                        return
                    continue
                self._books.answered(body, unpack_result(body), delivered_before=method.redelivered)
                channel.basic_ack(method.delivery_tag)


class HubSite(Site):
    """A site whose client sits behind the hub."""

    hub: HubProcess
    client: HubClient
    _repeats_before = 0
    _hub_was_killed = False

    def parcels(self, labels: Sequence[str], task_ms: int, filling: int) -> list[Parcel]:
        """Packed arguments, one per label; the hub gives the ids."""
        serialize = self.scene._serializer.serialize
        made = []
        for label in labels:
            arguments = (str(self.scene.executed), label, task_ms / 1000, bytes(filling))
            body = pack_buffers([serialize(arguments), serialize({})])
            made.append(Parcel("", label, body.encode(), {}))
        return made

    def repeated_at_hub(self) -> int:
        """Results that came to the hub again and that it dropped, since it was started."""
        return int(self.hub.status()["results_repeated"])

    def judge(self, labels: Sequence[str], *, retries: int, spare: int) -> Verdict:
        """What the agent sends again the hub drops: a repeat at the client counts as duplicated.

        Only a hub that was killed itself, between handing a result to the client's queue and
        noting that, hands it over again; no two systems can do both in one step. The official SDK
        keeps the first answer to a task id, as the books do, and these are counted as repeats.
        """
        verdict = super().judge(labels, retries=retries, spare=spare)
        if verdict.repeats and not self._hub_was_killed:
            verdict.contradicted.append(f"{verdict.repeats} repeats at the client")
        now = self.repeated_at_hub()
        if self._hub_was_killed:
            verdict.repeats += now  # counted from its start
        else:
            verdict.repeats = now - self._repeats_before
        self._repeats_before = now
        self._hub_was_killed = False
        return verdict

    def kill_hub(self) -> float:
        """kill -9 of the hub, and another on the same state; returns when that one was started."""
        self._hub_was_killed = True
        self.hub.kill()
        began = time.monotonic()
        self.hub.start()
        return began


@contextlib.contextmanager
def hub_site(directory: Path, sitting: Sitting) -> Iterator[HubSite]:
    """A hub, and an endpoint that runs at it, with its client."""
    with Proxy() as proxy, HubBehindProxy(directory / "hub", proxy) as hub:
        scene = HubBench(directory, hub)
        try:
            scene.configure(configuration(sitting.engine, sitting.retries))
            books = Books(scene.executed)
            function_id = _register(scene)
            agent = scene.start(crash_file=crash_file_of(scene))
            endpoint_id = scene.words[-1]["ready"]
            with HubClient(scene, endpoint_id, function_id, books) as client:
                made = HubSite(scene, proxy, client, books, "")
                made.hub, made.agent = hub, agent
                yield made
                assert scene.stop(made.agent) == 0, scene.log()
        finally:
            scene.close()


def _register(scene: HubBench) -> str:
    code = scene._serializer.serialize(work)
    content = {
        "function_name": "work",
        "function_code": pack_buffers([code]),
        "serialized": True,
    }
    return str(scene.rest("POST", "/v3/functions", content)["function_uuid"])
