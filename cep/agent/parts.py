"""The parts of a running agent, as `cep.agent.agent` assembles them for the main loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cep.agent.audit import Unaudited
from cep.agent.dispatcher import Dispatcher
from cep.agent.enrolment import Enrolment
from cep.agent.intake import Intake
from cep.agent.lease_keeper import LeaseKeeper
from cep.agent.links import Links
from cep.agent.mailbox import Mailbox, Timers
from cep.agent.notify import Notify
from cep.agent.outbox import Outbox
from cep.agent.report import Reporter
from cep.agent.retention import Retention
from cep.config.settings import EndpointSettings
from cep.engines.base import Engine
from cep.journal.journal import Journal
from cep.paths import EndpointPaths
from cep.wire.headers import TaskHeaders


@dataclass(slots=True)
class Parts:
    """What `cep.agent.agent` assembles for the loop."""

    endpoint_id: str
    paths: EndpointPaths
    settings: EndpointSettings
    lease: LeaseKeeper
    mailbox: Mailbox
    timers: Timers
    journal: Journal
    links: Links
    engine: Engine
    dispatcher: Dispatcher
    outbox: Outbox
    intake: Intake
    reporter: Reporter
    retention: Retention
    audit: Unaudited
    enrolment: Enrolment
    ready: Callable[[str], None]
    notify: Notify
    debug: bool  # asked for on the command line, whatever the configuration says


class Desk:
    """Where intake leaves what it took: tasks to the dispatcher, answers to the outbox."""

    def __init__(self, dispatcher: Dispatcher, outbox: Outbox) -> None:
        self._dispatcher = dispatcher
        self._outbox = outbox

    def accepted(self, seq: int, headers: TaskHeaders, size: int) -> None:
        """A task waits."""
        self._dispatcher.add(seq, headers.task_id, size)

    def answered(self, seq: int, size: int) -> None:
        """A task was answered without being run."""
        self._outbox.add([(seq, size)])
