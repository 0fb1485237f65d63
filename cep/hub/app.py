"""The running hub: assembles store, broker, links, relay and REST in one event loop.

`serve` is the whole life of a hub: it takes the state directory, opens the ports, serves until
SIGTERM or SIGINT, and leaves in order: REST first, then the relay, the links, the broker, the
store.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cep.errors import CantCreate, Unavailable
from cep.hub import housekeeping, topology
from cep.hub.audit import HubAudit
from cep.hub.auth import Access, new_secret
from cep.hub.broker_in_use import rabbitmq
from cep.hub.directory import Directory
from cep.hub.door import raise_file_limit
from cep.hub.embedded import EmbeddedBroker
from cep.hub.exposure import check_exposure
from cep.hub.messaging import Messaging
from cep.hub.options import HubFiles, HubOptions
from cep.hub.relay import Relay
from cep.hub.rest.application import application
from cep.hub.running import RunningHub, forget_running, write_running
from cep.hub.server import Server
from cep.hub.services import Services, addresses_of, host_of
from cep.hub.sockets import listen
from cep.hub.store import Database, Store
from cep.hub.submit import Submitter
from cep.hub.tls import Certificate, load_certificate
from cep.hub.users import BrokerUsers
from cep.safety.audit import open_trail
from cep.safety.files import make_directory, open_private

log = logging.getLogger(__name__)

Ready = Callable[[RunningHub], None]

_KEY_BYTES = 32


def serve(options: HubOptions, ready: Ready = lambda _running: None) -> None:
    """Serve until a signal ends it; blocking, the calling thread must be the main thread.

    Args:
        options: How to serve.
        ready: Called once when REST and AMQP are answered.

    Raises:
        UsageError: The options go too far, or not far enough (cep.hub.exposure).
        ConfigError: The certificate cannot be used.
        Unavailable: A port is in use, or another hub has the state directory.
        CantCreate: The state directory or a file in it cannot be made.
        DataError: The database is damaged or of a newer version.
        TemporaryFailure: RabbitMQ or PostgreSQL, which the hub was told to use, does not answer.
        NotAllowed: One of them refuses the hub's login, or it may not do there what it must.
        ConfigError: Their addresses are wrong.
    """
    check_exposure(options, embedded_broker=options.amqp_url is None)
    tls = load_certificate(options)
    raise_file_limit()
    os.umask(0o077)  # the hub starts no program of anybody's
    files = HubFiles(options.state_dir)
    make_directory(files.root)
    with _state_lock(files):
        asyncio.run(_serve(options, files, tls, ready))


@contextlib.contextmanager
def _state_lock(files: HubFiles) -> Iterator[None]:
    with files.lock.open("a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Unavailable(
                f"Another hub serves from {files.root}.",
                hint="`cep hub status` shows it, `cep hub stop` stops it.",
            ) from exc
        yield


async def _serve(
    options: HubOptions, files: HubFiles, tls: Certificate | None, ready: Ready
) -> None:
    async with AsyncExitStack() as stack:
        sockets = listen(options.host, options.port)
        for one in sockets:
            stack.callback(one.close)
        port = int(sockets[0].getsockname()[1])
        services = await stack.enter_async_context(_running_services(options, files, tls, port))
        server = Server(application(services, files), None if tls is None else tls.context)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.end)
        stack.callback(forget_running, files)

        def announced() -> RunningHub:
            running = RunningHub.of_this_process(
                url=_admin_url(sockets[0], tls),
                public_url=services.addresses.url,
                admin_secret=services.admin_secret,
                certificate=None if tls is None else tls.fingerprint(),
                ca_file=None if tls is None else tls.trust_file(host_of(services.addresses.url)),
            )
            write_running(files, running)
            return running

        if tls is not None:
            loop.add_signal_handler(signal.SIGHUP, lambda: tls.reload() and announced())

        def tell() -> None:
            running = announced()
            log.info("The hub serves %s", services.addresses.url, extra={"event": "hub.ready"})
            ready(running)

        await server.run(sockets, tell)
        log.info("The hub stops", extra={"event": "hub.stopping"})


def _admin_url(listening: socket.socket, tls: Certificate | None) -> str:
    """The address under which programs of this machine reach the admin routes."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@asynccontextmanager
async def _running_services(
    options: HubOptions, files: HubFiles, tls: Certificate | None, port: int
) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        if tls is not None:
            tls.check(host_of(addresses_of(options, port, 0).url))
        clock = time.time
        audit = HubAudit(open_trail(options.audit_log or str(files.audit), files.root))
        stack.callback(audit.close)
        store = Store(_database(options, files))
        stack.callback(store.close)
        await asyncio.to_thread(store.open)
        access = Access(store, store.key or _hub_key(files.key), clock, shared=options.shared)
        directory = Directory(store, clock, shared=options.shared)
        await access.load()
        await directory.load()

        if options.amqp_url is None:
            users = BrokerUsers(access, directory, new_secret())
            embedded = EmbeddedBroker(options, files, tls)
            broker = await embedded.start(stack, port, users)
        else:
            broker = await rabbitmq(stack, options, addresses_of(options, port, 0))
        messaging = Messaging(broker.own_url, exclusive=not broker.layout.topics)
        await messaging.start()
        stack.push_async_callback(messaging.stop)
        await _declare_all(messaging, broker.layout, directory)

        relay = Relay(store, directory, messaging, clock)
        submitter = Submitter(store, messaging, relay, clock)
        await submitter.load()
        relay.start()
        stack.push_async_callback(relay.stop)
        stack.push_async_callback(submitter.stop)
        services = Services(
            store=store,
            access=access,
            directory=directory,
            messaging=messaging,
            relay=relay,
            submitter=submitter,
            addresses=broker.addresses,
            accounts=broker.accounts,
            layout=broker.layout,
            clock=clock,
            admin_secret=new_secret(),
            started_at=clock(),
            shared=options.shared,
            audit=audit,
        )
        cleaning = asyncio.get_running_loop().create_task(
            housekeeping.keep_house(services, housekeeping.Keeping.of(options))
        )
        stack.push_async_callback(_cancelled, cleaning)
        yield services


def _database(options: HubOptions, files: HubFiles) -> Path | Database:
    if options.database_url is None:
        return files.database
    from cep.hub.postgres import PostgresDatabase, read_database_url

    return PostgresDatabase(
        read_database_url(options.database_url),
        shared=options.shared,
        may_migrate=options.migrate_database,
    )


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _hub_key(path: Path) -> bytes:
    """Return the hub's key, made at the first start."""
    try:
        found = path.read_bytes()
        if len(found) >= _KEY_BYTES:
            return found
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise CantCreate(f"The hub's key {path} cannot be read: {exc}.") from exc
    key = secrets.token_bytes(_KEY_BYTES)
    fresh = path.with_name(f"{path.name}.new")
    try:
        descriptor = open_private(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as exc:
        raise CantCreate(f"The hub's key {path} cannot be made: {exc}.") from exc
    return key


async def _declare_all(messaging: Messaging, layout: topology.Layout, directory: Directory) -> None:
    operations = layout.base()
    for endpoint_id in await directory.ids():
        operations.extend(layout.endpoint(endpoint_id))
    await messaging.declare(operations)
