"""What the main loop does about its connections: up, down, refused, and ready for the first time.

Owned by the main thread; `cep.agent.links` builds the connections, this judges what they say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cep.agent import links as link_names
from cep.agent.mailbox import RegisteredAgain, RegistrationFailed
from cep.agent.parts import Parts
from cep.agent.reregistration import TIMER, Reregistration
from cep.amqp import events as amqp
from cep.errors import (
    CepError,
    ConfigError,
    LeaseLost,
    PeerUntrusted,
    TemporaryFailure,
)
from cep.model import Registered

log = logging.getLogger(__name__)

REFUSED_RETRY_S = 5.0


class Connections:
    """See the module.

    Args:
        parts: The agent.
        became_ready: Called once, when tasks can be taken for the first time.
        report: Sends a status report.
        give_up: Begins the end of the agent, for this reason.

    Attributes:
        is_ready: Tasks could be taken at least once.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        became_ready: Callable[[], None],
        report: Callable[[], None],
        give_up: Callable[[CepError], None],
    ) -> None:
        self._p = parts
        self._became_ready = became_ready
        self._report = report
        self._give_up = give_up
        self._consuming = False
        self.is_ready = False
        self.reregistration = Reregistration(
            parts.enrolment.register, parts.mailbox.put, parts.timers
        )

    def consuming(self, event: amqp.Consuming) -> None:
        """The broker delivers on a new channel."""
        self._p.intake.channel(event.epoch)
        self._consuming = True
        self._perhaps_ready()

    def confirmed(self, event: amqp.Confirmed) -> None:
        """The broker has these results."""
        self._p.outbox.confirmed(event.tokens)

    def unroutable(self, event: amqp.Unroutable) -> None:
        """The broker has no queue for these results; they are sent again a little later."""
        log.error(
            "the broker did not take %d results: %s",
            len(event.tokens),
            event.reason,
            extra={"event": "outbox.refused"},
        )
        self._p.outbox.refused(event.tokens)
        self._p.timers.set_if_unset("refused", REFUSED_RETRY_S)

    def blocked(self, event: amqp.LinkBlocked) -> None:
        """The broker is short of memory or disk."""
        log.warning(
            "the broker takes no results for now: %s",
            event.reason,
            extra={"event": "link.blocked"},
        )

    def unblocked(self, _event: amqp.LinkUnblocked) -> None:
        """It takes results again."""
        log.info("the broker takes results again", extra={"event": "link.unblocked"})

    def up(self, event: amqp.LinkUp) -> None:
        """A link works."""
        self._p.links.went_up(event.link)
        if self.is_ready:
            log.info("link %s is up again", event.link, extra={"event": "link.up"})
        if event.link != link_names.TASKS and self.is_ready:
            self._report()
        self._perhaps_ready()

    def down(self, event: amqp.LinkDown) -> None:
        """A link broke, and will be tried again."""
        news = self._p.links.went_down(event.link, event.reason)
        if event.link == link_names.TASKS:
            self._consuming = False
        log.log(
            logging.WARNING if news or not self.is_ready else logging.DEBUG,
            "link %s is down: %s; next try in %.1f s",
            event.link,
            event.reason,
            event.retry_in_s,
            extra={"event": "link.down"},
        )

    def refused(self, event: amqp.LinkRefused) -> None:
        """The credentials do not hold any more; perhaps the service has newer ones for us.

        Raises:
            LeaseLost: Another agent has taken the endpoint over.
        """
        if isinstance(event.error, LeaseLost):
            raise event.error
        self._p.links.went_down(event.link, event.error.message)
        if not self.is_ready:
            self._give_up(event.error)
            return
        log.warning(
            "link %s was refused: %s", event.link, event.error, extra={"event": "link.refused"}
        )
        self.reregistration.wanted()

    def registered_again(self, event: RegisteredAgain) -> None:
        """The service gave newer addresses."""
        log.info("registered again", extra={"event": "service.registered"})
        self.reregistration.succeeded()
        self._p.links.readdress(event.registered)

    def adopt(self, registered: Registered) -> None:
        """Use the addresses of a registration that a reload has asked for.

        With them the service may have withdrawn the old credentials, so what a refused link has
        asked for meanwhile is here.
        """
        if not self._p.links.are_at(registered):
            self._p.timers.cancel(TIMER)
            self.reregistration.succeeded()
            self._p.links.readdress(registered)

    def registration_failed(self, event: RegistrationFailed) -> None:
        """It did not; what passes is tried again, the rest ends the agent."""
        if isinstance(event.error, TemporaryFailure | PeerUntrusted | ConfigError):
            log.warning("%s", event.error, extra={"event": "service.unreachable"})
            self.reregistration.try_later()
        else:
            self._give_up(event.error)

    def _perhaps_ready(self) -> None:
        up = self._p.links.up
        consuming = self._consuming or bool(self._p.intake.held())
        if self.is_ready or not (consuming and up[link_names.TASKS] and up[link_names.RESULTS]):
            return
        self.is_ready = True
        self._became_ready()
