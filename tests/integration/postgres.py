"""A real PostgreSQL in a container; each hub gets a database of its own, owned by a plain user.

Ready means: a login succeeds. Everybody needs a password, the administrator included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from tests.integration.docker_engine import (
    ANSWER_S,
    ensure_image,
    free_port,
    remove_container,
    session_labels,
)
from tests.integration.scene import until

ADMIN, ADMIN_PASSWORD = "admin", "admin-secret"
USER, PASSWORD = "hub", "hub p@ss/word"
START_S = 150.0


class Postgres:
    """One server: where it is, and fresh databases on it.

    Args:
        own_network: Give the container a network of its own with nothing but loopback, instead of
            a port of this machine; it is then reached from inside that network only.
        call: Runs a function where the server can be reached.
    """

    def __init__(
        self, *, own_network: bool = False, call: Callable[[Callable[[], Any]], Any] | None = None
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 5432 if own_network else free_port()
        self._own_network = own_network
        self._call = call or (lambda work: work())
        self._databases = 0
        self._engine: Any = None
        self.container: Any = None

    def create(self) -> None:
        """Start the container; `wait_ready` waits for the server."""
        from testcontainers.core.container import DockerContainer

        patience = {"timeout": ANSWER_S}
        container = DockerContainer(ensure_image("postgres"), docker_client_kw=patience)
        if self._own_network:
            container.with_kwargs(labels=session_labels(), network_mode="none")
        else:
            container.with_kwargs(labels=session_labels())
            container.ports = {5432: (self.host, self.port)}
        container.start()
        self._engine = container.get_docker_client().client
        self.container = container.get_wrapped_container()

    def wait_ready(self) -> None:
        """Wait until the administrator can log in, and make the hubs' user."""
        until(self._answers, within_s=START_S, what=f"PostgreSQL answers:\n{self.logs()}")
        self._execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def database(self) -> str:
        """Make a database that the hubs' user owns; return its name."""
        self._databases += 1
        name = f"hub_{self._databases}"
        self._execute(f"CREATE DATABASE {name} OWNER {USER}")
        return name

    def url(self, database: str, user: str = USER, password: str = PASSWORD) -> str:
        """The address for `--database-url`."""
        from urllib.parse import quote

        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"postgresql+psycopg://{login}@{self.host}:{self.port}/{database}"

    def query(self, database: str, text: str, *, returns: bool = True) -> list[tuple[Any, ...]]:
        """Rows of a statement on a hub's database, run as the administrator."""

        def ask() -> list[tuple[Any, ...]]:
            with self._connection(database) as connection:
                cursor = connection.execute(text)  # type: ignore[call-overload]
                return list(cursor.fetchall()) if returns else []

        return list(self._call(ask))

    def end_sessions(self) -> None:
        """End every session of the hubs' user, as a server's restart would."""
        self._execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'"
        )

    def remove(self) -> None:
        """Remove the container with its volumes."""
        if self.container is not None:
            remove_container(self.container)
            self._engine.close()

    def logs(self, lines: int = 30) -> str:
        """The end of the server's log."""
        return str(self.container.logs(tail=lines).decode(errors="replace"))

    def _execute(self, text: str) -> None:
        def run() -> None:
            with self._connection("postgres") as connection:
                connection.execute(text)  # type: ignore[call-overload]

        self._call(run)

    @contextlib.contextmanager
    def _connection(self, database: str) -> Iterator[psycopg.Connection[Any]]:
        connection = psycopg.connect(
            host=self.host,
            port=self.port,
            dbname=database,
            user=ADMIN,
            password=ADMIN_PASSWORD,
            autocommit=True,
            connect_timeout=60,
        )
        try:
            yield connection
        finally:
            connection.close()
