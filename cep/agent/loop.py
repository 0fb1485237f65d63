"""The agent's main loop: one thread that owns all state, one function per event.

Each turn: take what has arrived, choose what the engine gets, commit it all in one transaction,
and only then act on it: settle deliveries, publish results, hand tasks over. Nothing here sleeps,
polls or locks; an idle endpoint waits in `Mailbox.gather` for its next heartbeat. With many tasks
in hand a turn lets events join the first one for a moment, so that they share a commit.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from cep.agent import disk_hold, logs, reregistration, standing, watch
from cep.agent import links as link_names
from cep.agent.connections import Connections
from cep.agent.disk_hold import DiskHold
from cep.agent.idle import IdleWatch
from cep.agent.intake import HOLD_PAUSED, HOLD_STOPPING
from cep.agent.lease_keeper import LeaseGone
from cep.agent.mailbox import (
    AgentEvent,
    ConfigRead,
    ControlRequest,
    RegisteredAgain,
    RegistrationFailed,
    Signalled,
)
from cep.agent.parts import Parts
from cep.agent.reload import Reload
from cep.agent.requests import Requests
from cep.agent.retention import Swept
from cep.agent.standing import Standing
from cep.agent.watch import CameRound
from cep.amqp import events as amqp
from cep.engines.base import EngineDown, Outcomes, SlotsChanged, WaitingRefused
from cep.errors import CepError, DiskUnfit, EngineError, TemporaryFailure
from cep.journal import crash

log = logging.getLogger(__name__)

FLUSH_S = 10.0  # results still unconfirmed after this stay in the journal for the next start
LINKS_CLOSE_S = 5.0
ENGINE_STOP_S = 15.0
# An old connection of ours may hold the task queue until the broker misses two heartbeats (60 s
# each on RabbitMQ), so a start waits longer than that for its turn.
START_LIMIT_S = 180.0
LEASE_CHECK_S = 0.1
# A commit costs as much CPU as ten tasks, so events wait for each other while enough is in hand,
# tasks that the engine has and answers that the broker has not confirmed: a third of the time that
# it takes, were it to go at 10,000 tasks a second.
LINGER_FROM = 64
LINGER_FOR_EACH_S = 0.0001 / 3
LONGEST_LINGER_S = 0.005

STOPPED_WHILE_RUNNING = (
    "The endpoint was stopped while this task was running, and the task was ended with it. "
    "If running it twice does no harm, submit it again."
)


def _joined(events: Iterable[AgentEvent]) -> Iterator[AgentEvent]:
    """The events in order; outcomes that came one after another are one, with less to do for each.

    Threads send each outcome by itself.
    """
    for kind, alike in groupby(events, type):
        if kind is Outcomes:
            batches: Iterator[Any] = alike
            yield Outcomes([outcome for batch in batches for outcome in batch.outcomes])
        else:
            yield from alike


class MainLoop:
    """Runs until an orderly stop; `error` then says whether it was a failure."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._links = Connections(
            parts,
            became_ready=self._became_ready,
            report=self._report,
            give_up=lambda error: self._begin_stop(0.0, error),
        )
        self._stopping = False
        self._drained = False
        self._flushed = False
        self._lease_checked_at = time.monotonic()
        self._moved = 0
        self._standing = Standing(parts, self._word, lambda: self._disk.trouble)
        self._disk = DiskHold(
            journal=parts.journal,
            audit=parts.audit,
            intake=parts.intake,
            dispatcher=parts.dispatcher,
            outbox=parts.outbox,
            timers=parts.timers,
            tell=self._standing.write,
        )
        self._idle = IdleWatch(
            parts.settings.idle_heartbeats_soft, parts.settings.idle_heartbeats_hard
        )
        self._reload = Reload(parts, self._standing, self._idle, self._links.adopt)
        self._requests = Requests(parts, self._standing.picture, self._begin_stop, self._reload.ask)
        self.error: CepError | None = None
        self._on_event: dict[type, Callable[[Any], None]] = {
            amqp.Delivered: lambda event: parts.intake.take(event.deliveries),
            amqp.Consuming: self._links.consuming,
            amqp.ConsumeStopped: lambda event: parts.intake.consuming_stopped(event.epoch),
            amqp.AcksProcessed: lambda e: parts.journal.acks_processed(e.epoch, e.mark),
            amqp.Confirmed: self._links.confirmed,
            amqp.Unroutable: self._links.unroutable,
            amqp.LinkUp: self._links.up,
            amqp.LinkDown: self._links.down,
            amqp.LinkRefused: self._links.refused,
            amqp.LinkBlocked: self._links.blocked,
            amqp.LinkUnblocked: self._links.unblocked,
            Outcomes: lambda event: self._finished(parts.dispatcher.take_outcomes(event.outcomes)),
            SlotsChanged: lambda event: parts.dispatcher.slots_changed(event.slots, event.firm),
            EngineDown: self._on_engine_down,
            WaitingRefused: self._on_waiting_refused,
            Signalled: self._on_signal,
            ControlRequest: self._requests.answer,
            ConfigRead: self._reload.read,
            RegisteredAgain: self._links.registered_again,
            RegistrationFailed: self._links.registration_failed,
            Swept: parts.retention.swept,
            LeaseGone: self._on_lease_gone,
            CameRound: self._standing.watch.came_round,
        }
        self._on_timer: dict[str, Callable[[], None]] = {
            "heartbeat": self._heartbeat,
            "start": self._start_took_too_long,
            "drain": self._drain_ends,
            "flush": self._flush_ends,
            disk_hold.TIMER: self._disk.look,
            "refused": parts.outbox.retry_refused,
            reregistration.TIMER: self._links.reregistration.ask,
            watch.TIMER: self._standing.watch.look,
            standing.TIMER: self._standing.follow,
            standing.STOP_TIMER: self._standing.still_stopping,
        }

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Take tasks until told to stop, then come to an orderly end."""
        parts = self._p
        parts.timers.set("heartbeat", parts.settings.heartbeat_period_s)
        parts.timers.set("start", START_LIMIT_S)
        if parts.paths.paused_mark.exists():
            parts.intake.hold(HOLD_PAUSED)
        parts.intake.begin()
        self._clean_up()
        self._turn()
        while not self._over():
            events = parts.mailbox.gather(parts.timers.next_in_s(), self._linger_s())
            self._guard_lease()
            for event in _joined(events):
                self._on_event[type(event)](event)
            for name in parts.timers.take_due():
                self._on_timer[name]()
            self._turn()
            self._standing.follow()
        self._finish()

    def _linger_s(self) -> float:
        in_hand = self._p.dispatcher.given + self._p.outbox.unconfirmed
        if in_hand < LINGER_FROM:
            return 0.0
        return min(in_hand * LINGER_FOR_EACH_S, LONGEST_LINGER_S)

    def _turn(self) -> None:
        parts = self._p
        if not self._disk.held:
            self._finished(parts.dispatcher.refused())
            parts.dispatcher.choose()
        if not self._disk.commit():
            return
        parts.intake.acknowledge()
        crash.reach("acknowledged")
        try:
            again = parts.outbox.send()
            crash.reach("published")
            unable = parts.dispatcher.hand_over()
        except DiskUnfit as error:  # a body cannot be read for now
            self._disk.hold(error)
            return
        crash.reach("handed-over")
        # An answer that the broker does not take is as much a burden as a task that waits.
        parts.intake.balance(
            parts.dispatcher.unfinished + parts.outbox.unconfirmed,
            parts.dispatcher.unfinished_bytes + parts.outbox.unconfirmed_bytes,
        )
        if unable or again:  # answers that have to be committed before they are sent
            self._finished(unable)
            self._turn()

    def _guard_lease(self) -> None:
        """Before anything is published or consumed after a pause of ours: are we still wanted?

        A process that was suspended, or whose host hung, may find its lease taken over.
        """
        now = time.monotonic()
        if now - self._lease_checked_at >= LEASE_CHECK_S:
            self._p.lease.check()
            self._lease_checked_at = now

    def _on_lease_gone(self, event: LeaseGone) -> None:
        raise event.error

    def _finished(self, results: list[tuple[int, int]]) -> None:
        self._moved += len(results)
        self._p.outbox.add(results)

    # -- the start -----------------------------------------------------------------------------

    def _became_ready(self) -> None:
        self._p.timers.cancel("start")
        log.info("ready to take tasks", extra={"event": "agent.ready"})
        self._report()
        self._standing.ready()
        self._p.ready(self._p.endpoint_id)

    def _start_took_too_long(self) -> None:
        self._begin_stop(
            0.0,
            TemporaryFailure(
                f"The task queue could not be consumed within {START_LIMIT_S:g} s; another "
                "consumer may hold it, or the broker does not answer. The log has the details."
            ),
        )

    # -- engine --------------------------------------------------------------------------------

    def _on_engine_down(self, event: EngineDown) -> None:
        log.error("the engine broke: %s", event.reason, extra={"event": "engine.down"})
        if event.rebuilding:
            # The engine says itself what became of each task; those handed over meanwhile too.
            self._p.dispatcher.slots_changed(0)
            self._p.dispatcher.refuse("")
            return
        self._finished(self._p.dispatcher.engine_down(event.reason))
        reason = f"The engine broke and cannot mend itself: {event.reason}"
        self._begin_stop(0.0, EngineError(reason))

    def _on_waiting_refused(self, event: WaitingRefused) -> None:
        reason = event.reason
        if reason:
            log.error("waiting tasks are refused: %s", reason, extra={"event": "engine.refuses"})
            reason += (
                " Its operator has to mend that and then say: "
                f"cep blocks {self._p.paths.name} resume"
            )
        self._p.dispatcher.refuse(reason)
        self._standing.write()

    # -- heartbeat -----------------------------------------------------------------------------

    def _heartbeat(self) -> None:
        parts = self._p
        parts.timers.set("heartbeat", parts.settings.heartbeat_period_s)
        parts.lease.renew()
        self._report()
        parts.intake.probe()
        self._compact()
        self._clean_up()
        logs.keep_bounded()
        self._standing.write()
        self._perhaps_idle()

    def _compact(self) -> None:
        try:
            self._p.journal.compact()
        except DiskUnfit as error:  # giving space back takes some; the next heartbeat tries again
            log.debug("the journal could not be made smaller: %s", error)

    def _clean_up(self) -> None:
        self._p.retention.beat(self._p.journal.live_keys, self._live_blocks)

    def _live_blocks(self) -> set[str]:
        return {str(block["block"]) for block in self._p.engine.status().blocks}

    def _report(self) -> None:
        self._p.links.report(self._p.reporter.alive(self._p.engine.status()))

    def _perhaps_idle(self) -> None:
        parts = self._p
        movement = parts.intake.counters["received"] + self._moved
        idle = parts.dispatcher.unfinished == 0 and parts.outbox.unconfirmed == 0
        if self._idle.beat(movement, idle=idle):
            log.info("idle for long enough; stopping as configured", extra={"event": "agent.idle"})
            self._begin_stop(0.0)

    # -- signals -------------------------------------------------------------------------------

    def _on_signal(self, event: Signalled) -> None:
        if event.number == signal.SIGHUP:
            log.info("signal SIGHUP: reading the configuration", extra={"event": "agent.signal"})
            self._reload.ask()
            return
        drain_s = self._p.settings.drain_timeout_s
        log.info(
            "signal %s: stopping; running tasks get %g s",
            signal.Signals(event.number).name,
            0 if self._stopping else drain_s,
            extra={"event": "agent.signal"},
        )
        self._begin_stop(drain_s)

    # -- the end -------------------------------------------------------------------------------

    def _begin_stop(self, drain_s: float, error: CepError | None = None) -> None:
        """The first call begins to drain; a further one shortens what is left to nothing."""
        self.error = self.error or error
        if self._stopping:
            self._p.timers.set("drain", 0.0)
            return
        self._stopping = True
        self._p.timers.cancel("start")
        self._p.intake.hold(HOLD_STOPPING)
        self._p.dispatcher.close(keep_lost=self._p.settings.on_restart == "retry")
        self._p.timers.set("drain", drain_s)
        self._reload.end()
        self._standing.stopping()

    def _drain_ends(self) -> None:
        """Time is up for running tasks: the engine goes down, and they are answered."""
        if self._drained:
            return
        parts = self._p
        parts.engine.stop(ENGINE_STOP_S)
        while events := parts.mailbox.gather(0.0):  # every outcome, before the rest counts as lost
            for event in events:
                self._on_event[type(event)](event)
        self._drained = True
        parts.timers.set("flush", FLUSH_S)
        self._finished(parts.dispatcher.engine_down(STOPPED_WHILE_RUNNING))

    def _flush_ends(self) -> None:
        self._flushed = True

    def _over(self) -> bool:
        """Whether nothing is left to do before the links close."""
        if not self._stopping:
            return False
        parts = self._p
        if not self._drained and parts.dispatcher.given:
            return False
        if not self._drained:
            self._drained = True
            parts.timers.cancel("drain")
            parts.timers.set("flush", FLUSH_S)
        can_flush = parts.links.up[link_names.RESULTS] and not self._flushed
        return not (parts.outbox.unconfirmed and can_flush)

    def _finish(self) -> None:
        parts = self._p
        parts.links.report(parts.reporter.last(parts.engine.status()))
        parts.links.stop(LINKS_CLOSE_S)
        parts.engine.stop(ENGINE_STOP_S)
        self._take_late_confirms()
        self._standing.write()
        log.info(
            "stopped; %d tasks and %d results stay in the journal for the next start",
            parts.dispatcher.unfinished,
            parts.outbox.unconfirmed,
            extra={"event": "agent.stopped"},
        )

    def _take_late_confirms(self) -> None:
        while events := self._p.mailbox.gather(0.0):
            for event in events:
                if isinstance(event, amqp.Confirmed | Outcomes):
                    self._on_event[type(event)](event)
        self._disk.commit()

    # -- the picture ---------------------------------------------------------------------------

    def _word(self) -> str:
        if self._stopping:
            return "stopping"
        if not self._links.is_ready:
            return "starting"
        if HOLD_PAUSED in self._p.intake.held():
            return "paused"
        return "running" if all(self._p.links.up.values()) else "disconnected"
