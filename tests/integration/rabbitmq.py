"""A real RabbitMQ in a container, with the means to disturb it.

The container keeps its host ports over `stop()` and `start()`, so a client that retries finds the
broker where it was. Ready means: an AMQP connection opens. All ports are on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from cep.amqp.loop import quieten_pika
from tests.integration.docker_engine import (
    ANSWER_S,
    ensure_image,
    free_ports,
    remove_container,
    session_labels,
)

USER = "admin"
PASSWORD = "admin-secret"
HUB_PASSWORD = "hub p@ss/word"
HUB_PERMISSION = r"^(tasks|results|heartbeats|amq\.default|[0-9a-f-]{36}\.tasks|tg\..*)$"
START_S = 150.0
RETRY_S = 0.1


class RabbitMq:
    """One broker: where it is, and how to stop, start and disturb it.

    Args:
        ca_file: Where to write the certificate authority of the TLS listener.
        network_of: A container whose network, loopback only, the broker is to share instead of
            taking ports of this machine; it is then reached from inside that network only.
        call: Runs a function where the broker can be reached.
    """

    user = USER
    password = PASSWORD

    def __init__(
        self,
        ca_file: Path,
        *,
        network_of: Any = None,
        call: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self._network_of = network_of
        self._call = call or (lambda work: work())
        self._hubs = 0
        if network_of is None:
            self.port, self.tls_port, self.management_port = free_ports(3)
        else:
            self.port, self.tls_port, self.management_port = 5672, 5671, 15672
        self.ca_file = ca_file
        self._container: Any = None
        self._engine: Any = None

    @property
    def url(self) -> str:
        """AMQP URL of the administrator; the virtual host is `/`."""
        return self.url_for(self.user, self.password)

    @property
    def tls_url(self) -> str:
        """The same over TLS; the certificate is for `localhost`, signed by `ca_file`."""
        return f"amqps://{self.user}:{self.password}@localhost:{self.tls_port}/"

    @property
    def management_url(self) -> str:
        """Base of the management API, without a path."""
        return f"http://{self.host}:{self.management_port}"

    @property
    def direct_url(self) -> str:
        """The administrator's URL at the container's own address, past the engine's port proxy."""
        self._container.reload()
        (network,) = self._container.attrs["NetworkSettings"]["Networks"].values()
        return f"amqp://{self.user}:{self.password}@{network['IPAddress']}:5672/"

    def url_for(self, user: str, password: str) -> str:
        """AMQP URL of another user."""
        return f"amqp://{user}:{password}@{self.host}:{self.port}/"

    # --- life -----------------------------------------------------------------------------------

    def create(self) -> None:
        """Make the container and wait until the broker answers."""
        from testcontainers.core.container import DockerContainer

        patience = {"timeout": ANSWER_S}
        container = DockerContainer(ensure_image("rabbitmq"), docker_client_kw=patience)
        if self._network_of is None:
            container.with_kwargs(labels=session_labels(), hostname="rabbit")
            container.ports = {
                5672: (self.host, self.port),
                5671: (self.host, self.tls_port),
                15672: (self.host, self.management_port),
            }
        else:
            shared = f"container:{self._network_of.id}"
            # Where a hub reaches it on loopback, its port must belong to the hub's account or root.
            container.with_kwargs(labels=session_labels(), network_mode=shared, user="root")
            container.with_env("RABBITMQ_NODENAME", "rabbit@localhost")
        container.start()
        self._engine = container.get_docker_client().client
        self._container = container.get_wrapped_container()
        self._wait_ready()
        stream, _ = self._container.get_archive("/etc/rabbitmq/tls/ca.pem")
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            member = archive.extractfile("ca.pem")
            assert member is not None
            self.ca_file.write_bytes(member.read())

    def stop(self) -> None:
        """End the broker in good order (its clients are told); its port refuses from then on."""
        self._container.stop(timeout=120)  # then it would be killed, without good order

    def kill(self) -> None:
        """End the broker as a power cut would: no word to its clients."""
        self._container.kill()
        self._container.wait()

    def start(self) -> None:
        """Start the stopped broker, with its durable queues, and wait until it answers."""
        self._container.start()
        self._wait_ready()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the broker: its connections stay and nothing answers."""
        self._container.pause()

    def unpause(self) -> None:
        """Let a frozen broker go on."""
        self._container.unpause()

    def remove(self) -> None:
        """Remove the container with its volumes."""
        if self._container is not None:
            remove_container(self._container)
            self._engine.close()

    def logs(self, lines: int = 50) -> str:
        """The end of the broker's log."""
        return str(self._container.logs(tail=lines).decode(errors="replace"))

    def _wait_ready(self) -> None:
        # The port proxy accepts before the broker does; an open AMQP connection is the proof.
        again = f"connection_attempts={int(START_S / RETRY_S)}&retry_delay={RETRY_S}"
        quieten_pika()

        def connect() -> None:
            pika.BlockingConnection(pika.URLParameters(f"{self.url}?{again}")).close()

        try:
            self._call(connect)
        except (pika.exceptions.AMQPError, AMQPConnectorException) as exc:
            raise RuntimeError(f"RabbitMQ does not answer ({exc!r}):\n{self.logs()}") from exc

    # --- what tests need of a broker --------------------------------------------------------------

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A blocking channel of the administrator, to declare, publish and count."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def add_user(
        self, name: str, password: str, *, configure: str = "", write: str = "", read: str = ""
    ) -> str:
        """Make a user with permissions (regular expressions) on `/`; return its AMQP URL."""
        self.management("PUT", f"users/{quote(name)}", {"password": password, "tags": ""})
        permissions = {"configure": configure, "write": write, "read": read}
        self.management("PUT", f"permissions/%2F/{quote(name)}", permissions)
        return self.url_for(name, password)

    def hub_url(self) -> str:
        """Make a virtual host, and a user with what docs/hub.md says a hub needs; its AMQP URL."""
        self._hubs += 1
        name, vhost = f"hub-{self._hubs}", f"site/{self._hubs}"
        self.management("PUT", f"vhosts/{quote(vhost, safe='')}", {})
        content = {"password": HUB_PASSWORD, "tags": "administrator"}
        self.management("PUT", f"users/{name}", content)
        names = dict.fromkeys(("configure", "write", "read"), HUB_PERMISSION)
        self.management("PUT", f"permissions/{quote(vhost, safe='')}/{name}", names)
        password = quote(HUB_PASSWORD, safe="")
        return f"amqp://{name}:{password}@{self.host}:{self.port}/{quote(vhost, safe='')}"

    def remove_user(self, name: str) -> None:
        """Delete a user; its open connections are closed by the broker."""
        self.management("DELETE", f"users/{quote(name)}")

    def connections(self) -> list[dict[str, Any]]:
        """Open client connections as the management API shows them (up to a second late)."""
        listed = self.management("GET", "connections")
        assert isinstance(listed, list)
        return listed

    def connections_of(self, user: str) -> list[str]:
        """Names of a user's open connections as they are now, which `connections()` is not."""
        listed = self.management("GET", f"connections/username/{quote(user)}")
        return [one["name"] for one in listed]

    def close_connections(self, user: str = USER) -> None:
        """Close all connections of a user now, with a connection.close from the broker."""
        self.management("DELETE", f"connections/username/{quote(user)}")

    def kill_connection(self, name: str) -> None:
        """Close one connection by its name in `connections()`."""
        self.management("DELETE", f"connections/{quote(name, safe='')}")

    def control(self, *words: str) -> str:
        """Run `rabbitmqctl` in the container; takes a second or two.

        Raises:
            RuntimeError: It fails.
        """
        code, output = self._container.exec_run(["rabbitmqctl", "-q", *words])
        if code != 0:
            raise RuntimeError(f"rabbitmqctl {' '.join(words)} fails: {output.decode()}")
        return str(output.decode())

    def management(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management API and return its JSON answer, None when it has none.

        Raises:
            urllib.error.HTTPError: The API refuses.
        """
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, self.management_url, self.user, self.password)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(manager)
        )
        request = urllib.request.Request(
            f"{self.management_url}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"content-type": "application/json"},
        )

        def ask() -> bytes:
            with opener.open(request, timeout=60) as answer:
                return bytes(answer.read())

        text = self._call(ask)
        return json.loads(text) if text else None
