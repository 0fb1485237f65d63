"""Take over a changed configuration without a restart: all that can be, or nothing.

Owned by the main thread. The file lies on a disk that may hang, and the service may have to be
told: both are done by a thread of its own, one at a time, whose answer (`ConfigRead`) comes back
through the mailbox. Whatever is wrong is found there, so that nothing is changed before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from cep.agent import live, logs
from cep.agent.idle import IdleWatch
from cep.agent.live import Change
from cep.agent.mailbox import ConfigRead
from cep.agent.parts import Parts
from cep.agent.standing import Standing
from cep.amqp.parameters import connection_parameters
from cep.config.load import read_here
from cep.config.settings import EndpointSettings, HtexSettings
from cep.engines.base import HasBlocks
from cep.errors import CepError, SoftwareError, Unavailable, told
from cep.model import Registered
from cep.safety.audit import Trail, open_trail

log = logging.getLogger(__name__)

#: Takes what came of a reload: `changed`, `restart_needed` and `warnings`; or `error` (`hint`,
#: `kind`), after which everything is as it was.
Reply: TypeAlias = Callable[[dict[str, Any]], None]

MOST_WAITING = 16
STOPPING = "The endpoint is stopping, so its configuration is not read again."
TOO_MANY = "Too many reloads wait already; the last of them reads the newest configuration."


class Reload:
    """See the module.

    Args:
        parts: The agent.
        standing: Tells the service manager, and `status.json`.
        idle: Has limits of the configuration.
        adopt: Uses the addresses of a new registration.
    """

    def __init__(
        self,
        parts: Parts,
        standing: Standing,
        idle: IdleWatch,
        adopt: Callable[[Registered], None],
    ) -> None:
        self._p = parts
        self._standing = standing
        self._idle = idle
        self._adopt = adopt
        self._ended = False
        self._asking: list[Reply] | None = None  # those whom the reading under way is for
        self._next: list[Reply] = []  # they asked after it had begun, and want a newer one

    def ask(self, reply: Reply = lambda _outcome: None) -> None:
        """Read the configuration again; `reply` is called once, when all is done."""
        if self._ended:
            reply(told(Unavailable(STOPPING)))
        elif len(self._next) >= MOST_WAITING:
            reply(told(Unavailable(TOO_MANY)))
        elif self._asking is not None:
            self._next.append(reply)
        else:
            self._begin([reply])

    def end(self) -> None:
        """The agent stops: nobody is kept waiting, and no reading that comes late is used."""
        if self._ended:
            return
        self._ended = True
        for reply in (*(self._asking or ()), *self._next):
            reply(told(Unavailable(STOPPING)))
        self._asking, self._next = None, []

    def read(self, event: ConfigRead) -> None:
        """The reading is over: use it, tell everybody, and begin the next one if it is wanted."""
        if self._ended:
            if event.trail is not None:
                event.trail.close()
            return
        outcome = self._use(event)
        self._standing.reloaded(outcome)
        for reply in self._asking or ():
            reply(outcome)
        waiting, self._asking, self._next = self._next, None, []
        if waiting:
            self._begin(waiting)

    def _begin(self, replies: list[Reply]) -> None:
        self._asking = replies
        self._standing.reloading()
        # A daemon: a file system that hangs must not keep the agent from ending.
        threading.Thread(
            target=self._work, args=(self._p.settings,), name="reload", daemon=True
        ).start()

    # -- on the thread -------------------------------------------------------------------------

    def _work(self, now: EndpointSettings) -> None:
        try:
            event = self._prepare(now)
        except CepError as error:
            event = ConfigRead(error=error)
        except Exception as exc:  # a thread's top: the loop must hear of it
            log.exception("the reload failed", extra={"event": "reload.broken"})
            event = ConfigRead(error=SoftwareError(f"The configuration was not read: {exc!r}."))
        self._p.mailbox.put(event)

    def _prepare(self, now: EndpointSettings) -> ConfigRead:
        loaded = read_here(self._p.paths.root / "config.yaml")
        change = live.compare(now, loaded.settings)
        trail = self._new_trail(now, change.settings)
        try:
            registered = self._register(change) if change.registers else None
        except BaseException:
            if trail is not None:
                trail.close()
            raise
        return ConfigRead(change, None, loaded.warnings, registered, trail)

    def _new_trail(self, now: EndpointSettings, wanted: EndpointSettings) -> Trail | None:
        if wanted.audit_log is None or wanted.audit_log == now.audit_log:
            return None
        return open_trail(wanted.audit_log, self._p.paths.root)

    def _register(self, change: Change) -> Registered:
        """Tell the service; its answer may hold new addresses, which must be good ones."""
        settings, enrolment = change.settings, self._p.enrolment
        registered = enrolment.register(settings)
        for address in (registered.tasks, registered.results):
            connection_parameters(
                address.url, port=settings.amqp_port, ssl_ca_file=enrolment.ca_file
            )
        return registered

    # -- in the main thread --------------------------------------------------------------------

    def _use(self, event: ConfigRead) -> dict[str, Any]:
        change = event.change
        if change is None:
            error = event.error or SoftwareError("The configuration was not read.")
            log.error("the reload failed: %s", error, extra={"event": "reload.failed"})
            return told(error)
        self._take_over(change.settings)
        if event.trail is not None:
            self._p.audit.move(event.trail)
        if event.registered is not None:
            self._adopt(event.registered)
        for warning in event.warnings:
            log.warning("%s", warning, extra={"event": "config.old-key"})
        log.info(
            "configuration reloaded; changed: %s; needs a restart: %s",
            ", ".join(change.taken) or "nothing",
            ", ".join(change.restart) or "nothing",
            extra={"event": "reload.done"},
        )
        return {
            "changed": list(change.taken),
            "restart_needed": list(change.restart),
            "warnings": list(event.warnings),
        }

    def _take_over(self, settings: EndpointSettings) -> None:
        parts = self._p
        parts.settings = parts.enrolment.settings = settings
        parts.intake.change(
            allowed_functions=settings.allowed_functions,
            task_size_limit=settings.task_size_limit,
            limits=settings.intake,
        )
        parts.dispatcher.retry_at_most(settings.engine.max_retries_on_system_failure)
        parts.reporter.change(settings)
        parts.retention.change(settings)
        self._idle.change(settings.idle_heartbeats_soft, settings.idle_heartbeats_hard)
        logs.change(settings.log, debug=parts.debug or settings.debug)
        if isinstance(settings.engine, HtexSettings) and isinstance(parts.engine, HasBlocks):
            parts.engine.rescale(settings.engine)
