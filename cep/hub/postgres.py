"""The hub's database on a PostgreSQL server, for one hub or for several side by side.

What several hubs must agree on is agreed here with PostgreSQL's advisory locks, which end with the
session that took them and therefore with the hub that dies: who may make the schema, who keeps
house, and which hub processes live. A hub with the embedded broker uses a database alone, since
its queues are known to it only.
"""

from __future__ import annotations

import secrets
import threading
from importlib.util import find_spec
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy import exc as errors

from cep.errors import (
    CepError,
    ConfigError,
    DataError,
    InputMissing,
    NotAllowed,
    TemporaryFailure,
    Unavailable,
)
from cep.hub import migrations, schema
from cep.hub.locks import HUBS, SCHEMA, SPACE

_SHARED_THREADS = 4
_CONNECT_S = 10
# For how long the session of a hub that was just killed may still be there.
_SUCCESSION_S = 3
_STATEMENT_S = 60  # as long as the SDK waits for an answer at most
_DEADLOCK, _SERIALIZATION, _NOT_PRIVILEGED = "40P01", "40001", "42501"
# A hub whose machine vanished is noticed within half a minute, by both sides (libpq's and the
# server's own settings; the server's are for this session only).
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_SESSION = (
    f"-c statement_timeout={_STATEMENT_S}s -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 "
    "-c tcp_keepalives_count=3"
)


def read_database_url(given: str) -> URL:
    """Read `--database-url`.

    Raises:
        ConfigError: It is not the address of a PostgreSQL; the text does not repeat it.
        InputMissing: The driver is not installed.
    """
    try:
        url = make_url(given)
    except (errors.ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise ConfigError(
            "The value of --database-url is not "
            "postgresql+psycopg://USER:PASSWORD@HOST[:PORT]/DATABASE."
        )
    if find_spec("psycopg") is None:
        raise InputMissing(
            "PostgreSQL needs a driver that cannot be found: psycopg.",
            hint="Install it: pip install 'cep-endpoint[postgres]'",
        )
    return url.set(drivername="postgresql+psycopg")


class PostgresDatabase:
    """A database of a PostgreSQL server.

    Args:
        url: Where it is, with the login.
        shared: Whether other hubs may serve from it at the same time.
        may_migrate: A dump was taken, and tables of an older schema may be changed.
    """

    repeats = 3

    def __init__(self, url: URL, *, shared: bool, may_migrate: bool = False) -> None:
        self._url = url
        self._shared = shared
        self._may_migrate = may_migrate
        self.threads = _SHARED_THREADS if shared else 1
        self.key: bytes | None = None
        # Zero is the lock on the database itself.
        self.hub_number = secrets.randbelow(2**31 - 1) + 1 if shared else None
        self._engine: Engine | None = None
        self._presence: Connection | None = None
        self._presence_lock = threading.Lock()  # the store has several threads

    @property
    def _where(self) -> str:
        host, port = self._url.host or "localhost", self._url.port or 5432
        return f"The database {self._url.database} at {host}:{port}"

    def open(self) -> Engine:
        """Open the database, make its tables when there are none, and say that a hub is here.

        Raises:
            TemporaryFailure: The server does not answer.
            NotAllowed: It refuses the login, or the user may not make tables.
            ConfigError: There is no such database, or its schema is older and nobody has allowed
                to change it.
            DataError: What is in it is not a hub's, or has a newer schema; it is untouched.
            Unavailable: Another hub uses it, and not both can.
        """
        engine = create_engine(
            self._url,
            hide_parameters=True,  # errors end up in the log, and parameters are users' payloads
            isolation_level="READ COMMITTED",
            pool_size=self.threads,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _CONNECT_S,
                "application_name": "cep-hub",
                "options": _SESSION,
                **_KEEPALIVE,
            },
        )
        try:
            self._presence = self._be_present(engine)
            with engine.begin() as connection:
                self._check_schema(connection)
        except BaseException as exc:
            self.close()
            engine.dispose()
            if isinstance(exc, errors.DBAPIError):
                # Without its chain: nothing of the driver's own words is needed beside the first.
                raise self._refusal(exc) from None
            raise
        self._engine = engine
        return engine

    def close(self) -> None:
        """Take the hub's presence back."""
        with self._presence_lock:
            presence, self._presence = self._presence, None
        if presence is not None:
            presence.close()

    # --- who is here ------------------------------------------------------------------------------

    def _be_present(self, engine: Engine) -> Connection:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.detach()  # a session for as long as the hub lives, none of the pool's
            connection.execute(select(func.set_config("lock_timeout", f"{_SUCCESSION_S}s", False)))
            lock = func.pg_advisory_lock_shared if self._shared else func.pg_advisory_lock
            connection.execute(select(lock(SPACE, HUBS)))
            if self.hub_number is not None:
                connection.execute(select(func.pg_advisory_lock_shared(SPACE, self.hub_number)))
        except BaseException:
            connection.close()
            raise
        return connection

    def confirm_presence(self) -> None:
        """Make sure that other hubs see this one, also after the server was away; blocking."""
        if self.hub_number is None or self._engine is None:
            return
        with self._presence_lock:
            if self._presence is not None:
                try:
                    self._presence.execute(text("SELECT 1"))
                    return
                except errors.DBAPIError:
                    self._presence.close()
                    self._presence = None
            try:
                self._presence = self._be_present(self._engine)
            except errors.DBAPIError as exc:
                raise self._refusal(exc) from exc

    # --- the schema -------------------------------------------------------------------------------

    def _check_schema(self, connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(SPACE, SCHEMA)))
        names = set(inspect(connection).get_table_names())
        if not names:
            schema.metadata.create_all(connection)
            schema.shared_metadata.create_all(connection)
            for name, value in (
                ("schema", str(schema.SCHEMA_VERSION)),
                ("key", secrets.token_hex(32)),
            ):
                connection.execute(insert(schema.meta).values(name=name, value=value))
        found: dict[str, str] = {}
        if "meta" in names or not names:
            try:
                rows = connection.execute(select(schema.meta.c.name, schema.meta.c.value))
                found = {row[0]: row[1] for row in rows}
            except errors.ProgrammingError:
                found = {}
        version = found.get("schema", "")
        if not version.isdigit() or "key" not in found:
            raise DataError(
                f"{self._where} has tables, but not those of a hub of cep.",
                hint="Give the hub a database of its own.",
            )
        migrations.migrate_server(connection, int(version), self._where, allowed=self._may_migrate)
        self.key = bytes.fromhex(found["key"])

    # --- errors -----------------------------------------------------------------------------------

    def _refusal(self, error: errors.DBAPIError) -> CepError:
        """What an error at the start means."""
        said = str(error.orig).strip().partition("\n")[0]
        state = _state(error)
        if state == "55P03":  # lock_not_available: the only lock waited for is the hubs'
            return Unavailable(
                f"{self._where} is in use by another hub.",
                hint="Several hubs can serve from one database when each has --amqp-url and "
                "--database-url.",
            )
        if state == _NOT_PRIVILEGED:
            return NotAllowed(
                f"{self._where} refuses the user {self._url.username}: {said}.",
                hint="The hub makes its tables itself: let its user own the database, or grant it "
                "CREATE on the schema.",
            )
        if "authentication failed" in said or "pg_hba.conf" in said or "no password" in said:
            return NotAllowed(f"{self._where} refuses the login of user {self._url.username}.")
        if "does not exist" in said and "database" in said:
            return ConfigError(
                f"{self._where} does not exist.",
                hint=f"createdb --owner={self._url.username} {self._url.database}",
            )
        if "certificate" in said:
            return ConfigError(f"{self._where} has a certificate that is not trusted: {said}.")
        return TemporaryFailure(f"{self._where} does not answer: {said}.")

    def explain(self, error: Exception) -> CepError | None:
        """Return what an error of a transaction means to a client; None for a surprise."""
        if isinstance(error, errors.TimeoutError | errors.OperationalError) or (
            isinstance(error, errors.DBAPIError) and error.connection_invalidated
        ):
            return TemporaryFailure("The hub's database does not answer.")
        if isinstance(error, errors.DataError | UnicodeEncodeError):
            return DataError(
                "The request holds a value that the hub's database cannot keep (a NUL character or "
                "half of a surrogate pair in a text, or a number out of range)."
            )
        return None

    def gave_up(self, error: Exception) -> bool:
        """Whether the transaction lost against another one, which one of them always does."""
        return isinstance(error, errors.DBAPIError) and _state(error) in (
            _DEADLOCK,
            _SERIALIZATION,
        )


def _state(error: errors.DBAPIError) -> Any:
    return getattr(error.orig, "sqlstate", None)
