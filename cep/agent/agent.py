"""The agent's life: lease, clean-up, setup, registration, engine, links, main loop, and back.

This is the only place in the room that builds things; everything it builds it takes down again,
in the reverse order, however the life ends.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from cep import __version__
from cep.agent import credentials, hooks, lease, logs, process
from cep.agent.audit import Audit, Unaudited
from cep.agent.control import ControlServer, socket_path
from cep.agent.disk import check_disk
from cep.agent.dispatcher import Dispatcher
from cep.agent.enrolment import Enrolment, stored_endpoint_id
from cep.agent.intake import Intake
from cep.agent.journal_log import JournalHandler, is_journal
from cep.agent.launch import Announcer
from cep.agent.lease_keeper import LeaseKeeper
from cep.agent.links import Links
from cep.agent.loop import START_LIMIT_S, MainLoop
from cep.agent.mailbox import Mailbox, Signalled, Timers
from cep.agent.notify import Notify
from cep.agent.options import StartOptions
from cep.agent.outbox import Outbox
from cep.agent.parts import Desk, Parts
from cep.agent.recovery import recover
from cep.agent.report import Reporter, write_atomically
from cep.agent.retention import Retention
from cep.allocator import keep_freed_memory
from cep.amqp.probe import check_connection
from cep.config.load import load
from cep.config.settings import EndpointSettings
from cep.cycles import look_again
from cep.engines.base import Engine, EngineRun, LoadsAhead
from cep.engines.begun import begin_slots, begun_before, workers_are_local
from cep.engines.build import build_engine
from cep.engines.container_leftovers import end_leftover_containers, warn_of_unknown
from cep.engines.leftovers import end_leftovers
from cep.errors import CepError, EngineError, LeaseLost
from cep.journal.journal import Journal
from cep.model import Registered
from cep.paths import EndpointPaths
from cep.safety.audit import Trail, open_trail
from cep.safety.text import hide

log = logging.getLogger(__name__)

REPORT_FAILURE_S = 5.0
ENGINE_STOP_S = 5.0
# Each step of the start may take so long before the service manager gives up on it: logins and the
# registration try again for some seconds, a large journal and the interchange take a while.
START_STEP_S = 120.0
IDENTIFIER = "globus-compute-endpoint-"  # in the journal, as the units are named
RUNS_AS_ROOT = "This endpoint runs as root: every task it receives will run as root, too."


def run_endpoint(
    root: Path,
    options: StartOptions,
    announcer: Announcer,
    *,
    secrets: Mapping[str, str],
    detached: bool = False,
) -> int:
    """Load the configuration of the endpoint in `root` and run its agent until it stops."""
    settings = load(root / "config.yaml")
    paths = EndpointPaths.of(root, run_dir=settings.run_dir, state_dir=settings.state_dir)
    return run(
        paths,
        settings,
        options,
        announcer.ready,
        note=announcer.note,
        secrets=secrets,
        detached=detached,
    )


def run(
    paths: EndpointPaths,
    settings: EndpointSettings,
    options: StartOptions,
    ready: Callable[[str], None],
    *,
    note: Callable[[str], None] = lambda _text: None,
    secrets: Mapping[str, str] = MappingProxyType({}),
    detached: bool = False,
) -> int:
    """Run the agent in this process, in the main thread, until it stops.

    Args:
        paths: The endpoint's files.
        settings: Its validated configuration.
        options: How it was started.
        ready: Called once, with the endpoint's id, when tasks can be taken.
        note: Takes sentences for the person at the terminal.
        secrets: Environment variables with credentials, beside those of our own environment.
        detached: There is no terminal; the log file takes what the process prints.

    Returns:
        0 after an orderly stop.

    Raises:
        CepError: Why it could not start or had to stop; its exit code is the process's.
    """
    os.umask(0o077)
    keep_freed_memory()
    taken = credentials.take()
    notify = Notify.of(taken)
    secrets = {**credentials.from_directory(taken), **taken, **secrets}
    hide(*credentials.secrets_in(secrets))
    logs.set_up(
        paths.log,
        settings.log,
        debug=options.debug or settings.debug,
        console=options.log_to_console,
        detached=detached,
        journal=_journal(paths.name, detached=detached),
    )
    if options.die_with_parent:
        process.die_with_parent()
    if os.getuid() == 0:
        note(RUNS_AS_ROOT)
    log.info("cep %s starts endpoint %s", __version__, paths.name, extra={"event": "agent.start"})
    try:
        _Life(paths, settings, options, ready, secrets, notify=notify).run()
    except process.StopRequested:
        log.info("stopped before it was ready", extra={"event": "agent.stopped"})
    except LeaseLost as error:
        log.critical("%s", error, extra={"event": "agent.fenced"})
        notify.failed(error)
        note(str(error))
        # An ordinary exit would still close the journal's database, and so write to it.
        logging.shutdown()
        os._exit(error.exit_code)
    except CepError as error:
        log.critical("%s", error, extra={"event": "agent.failed"})
        notify.failed(error)
        raise
    return 0


def _journal(name: str, *, detached: bool) -> JournalHandler | None:
    """The journal, where systemd has started this very process and listens."""
    if detached or not is_journal(os.environ):
        return None
    return JournalHandler(name, IDENTIFIER + name)


class _Life:
    """One life of an agent, from lease to lease; each method is a phase of it."""

    def __init__(
        self,
        paths: EndpointPaths,
        settings: EndpointSettings,
        options: StartOptions,
        ready: Callable[[str], None],
        secrets: Mapping[str, str],
        *,
        notify: Notify,
    ) -> None:
        self._notify = notify
        self._paths = paths
        self._secrets = secrets
        self._settings = settings
        self._options = options
        self._ready = ready
        self._fenced = False
        self._mailbox = Mailbox()
        self._signals = process.Signals(lambda number: self._mailbox.put(Signalled(number)))

    def run(self) -> None:
        """Everything, inside the lease."""
        self._signals.install()
        self._notify.extend(START_STEP_S, "starting")
        check_disk(self._paths)
        held = lease.acquire(
            self._paths,
            period_s=self._settings.heartbeat_period_s,
            control_socket=str(socket_path(self._paths)),
            take_over=self._options.take_over,
        )
        try:
            self._clean_up()
            self._set_up_and_serve(held)
        finally:
            held.release()

    def _clean_up(self) -> None:
        """End what an earlier life left running, and run the teardown it still owes."""
        paths = self._paths
        self._end_containers()  # first: podman removes badly what has lost its monitor process
        ended = end_leftovers(paths.run, stored_endpoint_id(paths) or "", paths.name)
        if ended:
            log.warning(
                "ended %d left-over processes of an earlier life",
                len(ended),
                extra={"event": "recovery.leftovers"},
            )
            warn_of_unknown(self._settings.engine)
        self._tear_down()

    def _end_containers(self) -> None:
        """Containers outlive whoever asked for them; what an unreachable engine keeps, it keeps."""
        try:
            end_leftover_containers(self._settings.engine, stored_endpoint_id(self._paths))
        except EngineError as error:
            log.warning(
                "containers of an earlier life cannot be looked for: %s",
                error,
                extra={"event": "recovery.containers-unknown"},
            )

    def _tear_down(self) -> None:
        if self._paths.teardown_due.exists():
            self._notify.extend(self._settings.endpoint_setup_timeout_s, "endpoint_teardown runs")
            script = self._settings.endpoint_teardown
            hooks.run_teardown(script, self._paths.root, self._paths.teardown_due)

    def _set_up_and_serve(self, held: lease.HeldLease) -> None:
        engine = build_engine(self._settings.engine)
        try:
            if isinstance(engine, LoadsAhead):
                engine.load_ahead(self._paths.run)
            self._register_and_serve(engine, held)
        finally:
            engine.stop(ENGINE_STOP_S)  # has ended with the loop, if it came so far

    def _register_and_serve(self, engine: Engine, held: lease.HeldLease) -> None:
        settings, paths = self._settings, self._paths
        enrolment = self._enrolment()
        if settings.endpoint_setup:
            limit_s = settings.endpoint_setup_timeout_s
            self._notify.extend(limit_s + START_STEP_S, "starting: endpoint_setup runs")
            hooks.run_setup(settings.endpoint_setup, paths.root, paths.teardown_due, limit_s)
        elif settings.endpoint_teardown:
            paths.teardown_due.touch(mode=0o600)
        try:
            with ExitStack() as down:
                loop = self._build(enrolment, engine, held, down)
                look_again()
                self._signals.loop_begins()
                self._run_fenced(loop)
        finally:
            if not self._fenced:
                self._tear_down()
        if loop.error is not None:
            raise loop.error

    def _run_fenced(self, loop: MainLoop) -> None:
        try:
            loop.run()
        except LeaseLost:
            self._fenced = True  # what is on disk belongs to another agent now
            raise

    def _close(self, journal: Journal) -> None:
        if not self._fenced:
            journal.close()

    def _enrolment(self) -> Enrolment:
        """How we register; the service's client in it alone keeps the credentials."""
        from cep.service.address import resolve_service
        from cep.service.client import connect
        from cep.service.identity import client_identity

        secrets, self._secrets = self._secrets, {}
        service = connect(
            resolve_service(self._settings),
            interactive=False,
            base=self._paths.root.parent,
            identity=client_identity(secrets),
        )
        return Enrolment(service, self._paths, self._settings, self._options.endpoint_uuid)

    def _build(
        self, enrolment: Enrolment, engine: Engine, held: lease.HeldLease, down: ExitStack
    ) -> MainLoop:
        """Build every part; `down` takes each one down again, last built first."""
        paths, settings, mailbox = self._paths, self._settings, self._mailbox
        trail = self._trail(down)
        journal = Journal.open(paths.journal, paths.journal_bodies)
        down.callback(self._close, journal)
        self._notify.extend(START_STEP_S, "starting: registering")
        registered = self._registered(enrolment, journal)
        endpoint_id = registered.endpoint_id
        audit = Unaudited() if trail is None else Audit(trail, endpoint_id)
        down.callback(audit.close)
        keeper, agent_links = self._links(registered, enrolment.ca_file, held, down)
        down.callback(engine.stop, ENGINE_STOP_S)
        outbox, dispatcher, intake = self._desk(journal, engine, agent_links, endpoint_id, audit)
        reporter = Reporter(endpoint_id, settings)
        self._recover(journal, dispatcher, outbox, endpoint_id, audit)
        agent_links.start()
        self._notify.extend(START_STEP_S, "starting: the engine starts")
        self._start_engine(engine, endpoint_id, agent_links, reporter, held)
        self._notify.extend(START_LIMIT_S + START_STEP_S, "starting: waiting for the task queue")
        control = ControlServer(socket_path(paths), mailbox.put)
        down.callback(control.stop)
        control.start()
        retention = Retention(paths, settings, mailbox.put)
        down.callback(retention.stop)
        return MainLoop(
            Parts(
                endpoint_id=endpoint_id,
                paths=paths,
                settings=settings,
                lease=keeper,
                mailbox=mailbox,
                timers=Timers(),
                journal=journal,
                links=agent_links,
                engine=engine,
                dispatcher=dispatcher,
                outbox=outbox,
                intake=intake,
                reporter=reporter,
                retention=retention,
                audit=audit,
                enrolment=enrolment,
                ready=self._ready,
                notify=self._notify,
                debug=self._options.debug,
            )
        )

    def _links(
        self, registered: Registered, ca_file: str | None, held: lease.HeldLease, down: ExitStack
    ) -> tuple[LeaseKeeper, Links]:
        """The connections to the broker, not started yet, and who keeps the lease for them."""
        port, put = self._settings.amqp_port, self._mailbox.put
        for url in dict.fromkeys((registered.tasks.url, registered.results.url)):
            check_connection(url, port=port, ssl_ca_file=ca_file)
        keeper = LeaseKeeper(held, put)
        down.callback(keeper.stop)
        keeper.start()
        agent_links = Links(registered, port=port, ca_file=ca_file, put=put, guard=keeper.check)
        down.callback(agent_links.stop, 0.0)
        return keeper, agent_links

    def _desk(
        self,
        journal: Journal,
        engine: Engine,
        agent_links: Links,
        endpoint_id: str,
        audit: Unaudited,
    ) -> tuple[Outbox, Dispatcher, Intake]:
        """Where tasks pass: in, to the engine, and out again."""
        settings = self._settings
        outbox = Outbox(journal, agent_links.publisher)
        dispatcher = Dispatcher(
            journal,
            engine,
            endpoint_id=endpoint_id,
            max_retries=settings.engine.max_retries_on_system_failure,
            audit=audit,
        )
        intake = Intake(
            journal,
            agent_links.consumer,
            Desk(dispatcher, outbox),
            endpoint_id=endpoint_id,
            allowed_functions=settings.allowed_functions,
            task_size_limit=settings.task_size_limit,
            limits=settings.intake,
            audit=audit,
        )
        return outbox, dispatcher, intake

    def _registered(self, enrolment: Enrolment, journal: Journal) -> Registered:
        """Register, and make the id ours in every place."""
        enrolment.check_version()
        registered = enrolment.register()
        endpoint_id, paths = registered.endpoint_id, self._paths
        write_atomically(paths.endpoint_json, {"endpoint_id": endpoint_id})
        journal.claim(endpoint_id)
        process.set_title(endpoint_id, paths.name)
        logs.identify(endpoint_id)
        return registered

    def _trail(self, down: ExitStack) -> Trail | None:
        if self._settings.audit_log is None:
            return None
        trail = open_trail(self._settings.audit_log, self._paths.root)
        down.callback(trail.close)
        return trail

    def _recover(
        self,
        journal: Journal,
        dispatcher: Dispatcher,
        outbox: Outbox,
        endpoint_id: str,
        audit: Unaudited,
    ) -> None:
        """Classify what an earlier life left; its start slots go only once that is committed."""
        settings, start_slots = self._settings, self._paths.start_slots
        recover(
            journal,
            dispatcher,
            outbox,
            endpoint_id=endpoint_id,
            begun=begun_before(start_slots),
            on_restart=settings.on_restart,
            max_retries=settings.engine.max_retries_on_system_failure,
            audit=audit,
        )
        begin_slots(start_slots, settings.engine)

    def _start_engine(
        self,
        engine: Engine,
        endpoint_id: str,
        agent_links: Links,
        reporter: Reporter,
        held: lease.HeldLease,
    ) -> None:
        """Start it; a failure is told to the service, which fails the users' waiting futures."""
        paths = self._paths
        local = workers_are_local(self._settings.engine)
        run = EngineRun(
            endpoint_id=endpoint_id,
            endpoint_name=paths.name,
            run_dir=paths.run,
            start_slots=paths.start_slots if local else None,
            oversized_results=paths.oversized_results,
            life=held.token[:8],
            blocks_file=paths.blocks_file,
            worker_sets=paths.worker_sets,
        )
        try:
            engine.start(run, self._mailbox.put)
        except CepError as error:
            agent_links.report(reporter.failed(str(error)))
            agent_links.stop(REPORT_FAILURE_S)
            raise
