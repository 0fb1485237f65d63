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

import uvicorn
from starlette.applications import Starlette

from cep.errors import CantCreate, Unavailable
from cep.hub import ledger, topology
from cep.hub.audit import HubAudit
from cep.hub.auth import Access, new_secret
from cep.hub.broker.broker import Broker
from cep.hub.directory import Directory
from cep.hub.messaging import Messaging
from cep.hub.options import HubFiles, HubOptions, is_loopback
from cep.hub.relay import Relay
from cep.hub.rest.application import application
from cep.hub.running import RunningHub, forget_running, write_running
from cep.hub.services import Addresses, Services
from cep.hub.sockets import in_use, listen
from cep.hub.store import Store
from cep.hub.submit import Submitter
from cep.hub.users import BrokerUsers
from cep.safety.audit import open_trail
from cep.safety.files import make_directory, open_private

log = logging.getLogger(__name__)

Ready = Callable[[RunningHub], None]

_KEY_BYTES = 32
_GRACE_S = 5  # for requests under way at the stop
_KEEP_ALIVE_S = 75  # idle connections; above the pauses of a polling SDK
# How long results and empty task groups are kept; the hosted service says two weeks.
RETENTION_S = 14 * 24 * 3600.0
_HOUSEKEEPING_S = 6 * 3600.0


def serve(options: HubOptions, ready: Ready = lambda _running: None) -> None:
    """Serve until a signal ends it; blocking, the calling thread must be the main thread.

    Args:
        options: How to serve.
        ready: Called once when REST and AMQP are answered.

    Raises:
        Unavailable: A port is in use, or another hub has the state directory.
        CantCreate: The state directory or a file in it cannot be made.
        DataError: A database in it is damaged or of a newer version.
    """
    os.umask(0o077)  # the hub starts no program of anybody's
    files = HubFiles(options.state_dir)
    make_directory(files.root)
    with _state_lock(files):
        asyncio.run(_serve(options, files, ready))


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


async def _serve(options: HubOptions, files: HubFiles, ready: Ready) -> None:
    async with AsyncExitStack() as stack:
        sockets = listen(options.host, options.port)
        for one in sockets:
            stack.callback(one.close)
        port = int(sockets[0].getsockname()[1])
        services = await stack.enter_async_context(_running_services(options, files, port))
        server = _Server(application(services, files))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.end)
        stack.callback(forget_running, files)

        def tell() -> None:
            running = RunningHub.of_this_process(
                url=_admin_url(sockets[0]),
                public_url=services.addresses.url,
                admin_secret=services.admin_secret,
            )
            write_running(files, running)
            log.info("The hub serves %s", services.addresses.url, extra={"event": "hub.ready"})
            ready(running)

        await server.run(sockets, tell)
        log.info("The hub stops", extra={"event": "hub.stopping"})


class _Server(uvicorn.Server):
    """uvicorn in our loop, with our signals."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                date_header=False,  # uvicorn renews it by polling
                lifespan="off",
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._tell: Callable[[], None] = lambda: None
        self._ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The hub has its own handlers; uvicorn's would end the process before our own end."""
        yield

    async def run(self, sockets: list[socket.socket], tell: Callable[[], None]) -> None:  # type: ignore[override]
        """Serve on the sockets; `tell` is called once connections are taken."""
        self._tell = tell
        await self.serve(sockets=sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections, then say so."""
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self._tell()

    async def main_loop(self) -> None:
        """Wait for the end, where uvicorn would look ten times a second whether it has come."""
        await self._ended.wait()

    def end(self) -> None:
        """Stop serving."""
        self.should_exit = True
        self._ended.set()


def _admin_url(listening: socket.socket) -> str:
    """The address under which programs of this machine reach the admin routes."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def _running_services(
    options: HubOptions, files: HubFiles, port: int
) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        clock = time.time
        audit = HubAudit(open_trail(options.audit_log or str(files.audit), files.root))
        stack.callback(audit.close)
        store = Store(files.database)
        stack.callback(store.close)
        store.open()
        access = Access(store, _hub_key(files.key), clock)
        directory = Directory(store, clock)
        await access.load()
        await directory.load()

        hub_password = new_secret()
        broker = Broker(
            files.broker,
            host=_bindable(options.host),
            port=_amqp_port(options, files),
            authenticate=BrokerUsers(access, directory, hub_password).authenticate,
        )
        amqp_port = await _start_broker(broker, options, files)
        stack.push_async_callback(broker.stop)

        addresses = _addresses(options, port, amqp_port)
        messaging = Messaging(_own_amqp_url(options, amqp_port, hub_password))
        await messaging.start()
        stack.push_async_callback(messaging.stop)
        await _declare_all(messaging, directory)

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
            addresses=addresses,
            drop_connections=broker.drop_connections,
            clock=clock,
            admin_secret=new_secret(),
            started_at=clock(),
            audit=audit,
        )
        housekeeping = asyncio.get_running_loop().create_task(_keep_house(services))
        stack.push_async_callback(_cancelled, housekeeping)
        yield services


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


def _amqp_port(options: HubOptions, files: HubFiles) -> int:
    """The broker's port: the given one, the remembered one, or 0 for a new one."""
    if options.amqp_port:
        return options.amqp_port
    try:
        return int(files.amqp_port.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        return 0


async def _start_broker(broker: Broker, options: HubOptions, files: HubFiles) -> int:
    wanted = _amqp_port(options, files)
    try:
        port = await broker.start()
    except Unavailable as exc:
        if not wanted or "use" not in exc.message:
            raise
        conflict = in_use(options.host, wanted)
        raise Unavailable(
            f"The broker's port, to which endpoints come back, is taken. {conflict.message}",
            hint=f"Free the port, or remove {files.amqp_port} to let the hub choose another one "
            "and restart the endpoints.",
        ) from exc
    files.amqp_port.write_text(f"{port}\n", "ascii")
    return port


def _bindable(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _own_amqp_url(options: HubOptions, amqp_port: int, password: str) -> str:
    host = _bindable(options.host)
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return Addresses("", own, amqp_port).amqp_url(topology.HUB_USER, password, None)


def _addresses(options: HubOptions, port: int, amqp_port: int) -> Addresses:
    host = options.host
    everywhere = host in ("0.0.0.0", "::")
    shown = "localhost" if is_loopback(host) or everywhere else host
    if ":" in shown:
        shown = f"[{shown}]"
    return Addresses(
        url=(options.public_url or f"http://{shown}:{port}").rstrip("/"),
        amqp_host=None if everywhere else _bindable(host),
        amqp_port=amqp_port,
        public_amqp_url=options.public_amqp_url,
    )


async def _declare_all(messaging: Messaging, directory: Directory) -> None:
    operations = topology.base_operations()
    for endpoint_id in directory.ids():
        operations.extend(topology.endpoint_operations(endpoint_id))
    await messaging.declare(operations)


async def _keep_house(services: Services) -> None:
    """Forget old tasks and results now and then, and take idle task-group queues away."""
    while True:
        try:
            before = services.clock() - RETENTION_S
            gone = await services.store.call(ledger.forget_before, before)
            for owner, group in gone.queues:
                await services.messaging.declare(topology.group_removal_operations(owner, group))
                services.submitter.forget_queue(group)
            if gone.tasks:
                log.info("%d old tasks forgotten", gone.tasks, extra={"event": "hub.forgotten"})
        except Exception:  # housekeeping must not end the hub; it comes again
            log.exception("Housekeeping failed", extra={"event": "hub.housekeeping_failed"})
        await asyncio.sleep(_HOUSEKEEPING_S)
