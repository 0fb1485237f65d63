"""From the endpoints to the SDK: results are stored once and relayed; status reports are noted.

Owns the consumption of the results and heartbeats queues; runs on the event loop. A delivery is
acked only after its results are stored and the task groups' queues have confirmed them, so that
whatever dies in between, the result comes again and is relayed then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cep.errors import CepError, TemporaryFailure, WireError
from cep.hub import ledger, settlement, topology
from cep.hub.directory import Directory, Heartbeat
from cep.hub.records import Endpoint
from cep.hub.settlement import ArrivedResult, RelayDue
from cep.hub.store import Store
from cep.model import Delivery
from cep.wire.result import error_result, unpack_result
from cep.wire.status import unpack_status_report

if TYPE_CHECKING:
    from cep.amqp.consumer import Consumer
    from cep.hub.messaging import Messaging

log = logging.getLogger(__name__)

START_FAILED = "ENDPOINT_START_FAILED"
ENDPOINT_DELETED = "ENDPOINT_DELETED"
RESULT_UNREADABLE = "RESULT_UNREADABLE"

_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 30.0
_BATCH = 1000  # deliveries settled in one transaction at most


@dataclass(slots=True)
class RelayCounts:
    """What has come by since the start.

    Attributes:
        results: Stored results.
        repeats: Results that were known and relayed already.
        dropped: Messages for unknown tasks, of foreign endpoints, or not understood.
        reports: Status reports.
    """

    results: int = 0
    repeats: int = 0
    dropped: int = 0
    reports: int = 0


class Relay:
    """Consumes what endpoints send.

    Args:
        store: The open store.
        directory: The endpoints.
        messaging: The started links.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        directory: Directory,
        messaging: Messaging,
        clock: Callable[[], float],
    ) -> None:
        self.counts = RelayCounts()
        self._store = store
        self._directory = directory
        self._messaging = messaging
        self._clock = clock
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()
        self._reports: asyncio.Queue[Sequence[Delivery]] = asyncio.Queue()
        self._results: Consumer | None = None
        self._heartbeats: Consumer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: By task: whether the relay of its result, which is under way, has come to its end.
        self._under_way: dict[str, asyncio.Future[bool]] = {}

    def start(self) -> None:
        """Begin to consume; the queues must be declared."""
        self._spawn(self._settle_for_ever())
        self._spawn(self._settle_reports_for_ever())
        self._results = self._messaging.consume(topology.RESULTS, self._take_results)
        self._heartbeats = self._messaging.consume(topology.HEARTBEATS, self._take_heartbeats)

    async def stop(self) -> None:
        """Stop settling; what is not settled comes again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error(
                "A part of the relay failed", exc_info=error, extra={"event": "hub.relay_failed"}
            )

    # Results ------------------------------------------------------------------------------

    def _take_results(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            self._arrived.put_nowait(one)

    async def _settle_for_ever(self) -> None:
        while True:
            batch = [await self._arrived.get()]
            while len(batch) < _BATCH and not self._arrived.empty():
                batch.append(self._arrived.get_nowait())
            await self._settle_at_last(batch)

    async def _settle_at_last(self, batch: Sequence[Delivery]) -> None:
        """Settle a batch, trying again while the store cannot take it (a full disk, say).

        The broker keeps the messages meanwhile, and sends no more than a consumer may hold.
        """
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                await self._settle(batch)
                return
            except Exception:  # whatever it is, the results must not be lost over it
                first = delay_s == _FIRST_RETRY_S
                log.log(
                    logging.ERROR if first else logging.DEBUG,
                    "Results cannot be stored; trying again",
                    exc_info=first,
                    extra={"event": "hub.settle_failed"},
                )
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LAST_RETRY_S)

    def _give_back(self, batch: Sequence[Delivery], error: Exception) -> None:
        log.warning(
            "%d results go back to the broker: %s",
            len(batch),
            error,
            extra={"event": "hub.results_given_back"},
        )
        for epoch, tags in _by_epoch(batch).items():
            if self._results is not None:
                self._results.give_back(epoch, tags)

    async def _settle(self, batch: Sequence[Delivery]) -> None:
        arrived: list[ArrivedResult] = []
        beats: list[Heartbeat] = []
        for one in batch:
            self._open(one, arrived, beats)
        due: Sequence[RelayDue] = ()
        if arrived:
            settled = await self._store.call(settlement.settle_results, arrived, self._clock())
            due = settled.due
            self.counts.repeats += settled.repeats
            self.counts.results += len(arrived) - settled.repeats - len(settled.unknown)
            if settled.unknown:
                self._dropped(f"{len(settled.unknown)} results of unknown tasks")
        self._spawn(self._relay_and_ack(due, batch))
        if beats:
            await self._note(beats)

    def _open(
        self, delivery: Delivery, arrived: list[ArrivedResult], beats: list[Heartbeat]
    ) -> None:
        endpoint_id = topology.sender(delivery.routing_key)
        try:
            result = unpack_result(delivery.body)
        except WireError as exc:
            task_id = exc.task_id
            if task_id is not None:
                body = error_result(
                    task_id,
                    RESULT_UNREADABLE,
                    f"The endpoint's answer could not be understood. {exc}",
                    actor="result-processor",
                )
                arrived.append(ArrivedResult(task_id, endpoint_id, True, body))
                return
            # globus-compute-endpoint 2.19 sends its status reports the way of the results.
            try:
                report = unpack_status_report(delivery.body)
            except WireError:
                self._dropped(f"a message of endpoint {endpoint_id} that is no result ({exc})")
                return
            beats.append(Heartbeat(endpoint_id, report.global_state))
            return
        arrived.append(ArrivedResult(result.task_id, endpoint_id, result.is_error, delivery.body))

    def _dropped(self, what: str) -> None:
        level = logging.WARNING if self.counts.dropped == 0 else logging.DEBUG
        self.counts.dropped += 1
        log.log(level, "Dropped %s", what, extra={"event": "hub.result_dropped"})

    async def _relay_and_ack(self, due: Sequence[RelayDue], batch: Sequence[Delivery]) -> None:
        try:
            await self.relay(due)
        except CepError as exc:
            self._give_back(batch, exc)
            return
        for epoch, tags in _by_epoch(batch).items():
            if self._results is not None:
                self._results.ack(epoch, tags)

    async def relay(self, due: Sequence[RelayDue]) -> None:
        """Publish stored results to their task groups' queues and note it.

        A queue that is gone (its group was never used again) is no loss: the result is stored. What
        is being published already, for a message that came before, is only waited for: a repeat
        that is faster than our note of it must not reach the client.

        Raises:
            TemporaryFailure: The broker did not confirm in time.
        """
        others = {self._under_way[one.task_id] for one in due if one.task_id in self._under_way}
        own = [one for one in due if one.task_id not in self._under_way]
        if own:
            await self._relay_own(own)
        for other in others:
            if not await asyncio.shield(other):
                raise TemporaryFailure("The broker did not confirm a result that came twice.")

    async def _relay_own(self, due: Sequence[RelayDue]) -> None:
        done = asyncio.get_running_loop().create_future()
        self._under_way.update((one.task_id, done) for one in due)
        relayed = False
        try:
            await self._publish(due)
            relayed = True
        finally:
            for one in due:
                self._under_way.pop(one.task_id)
            done.set_result(relayed)

    async def _publish(self, due: Sequence[RelayDue]) -> None:
        groups: dict[tuple[str, str], list[bytes]] = {}
        for one in due:
            groups.setdefault((one.owner, one.task_group_id), []).append(one.body)
        now = self._clock()
        refused = await self._messaging.publish(
            [
                topology.Outgoing(topology.result_route(*group, now), bodies)
                for group, bodies in groups.items()
            ]
        )
        if refused:
            log.warning(
                "%d results had no task-group queue to go to; they stay stored",
                len(refused),
                extra={"event": "hub.relay_refused"},
            )
        await self._store.call(settlement.mark_relayed, [one.task_id for one in due])

    # Status reports -----------------------------------------------------------------------

    def _take_heartbeats(self, deliveries: Sequence[Delivery]) -> None:
        self._reports.put_nowait(deliveries)

    async def _settle_reports_for_ever(self) -> None:
        """Note reports one batch after the other: the last one of an endpoint is what counts."""
        while True:
            deliveries = await self._reports.get()
            try:
                await self._settle_heartbeats(deliveries)
            except Exception:  # the store or the broker, for now; they come again
                log.exception(
                    "Status reports cannot be noted", extra={"event": "hub.reports_failed"}
                )
                for epoch, tags in _by_epoch(deliveries).items():
                    if self._heartbeats is not None:
                        self._heartbeats.give_back(epoch, tags)
                await asyncio.sleep(_FIRST_RETRY_S)

    async def _settle_heartbeats(self, deliveries: Sequence[Delivery]) -> None:
        beats = []
        for one in deliveries:
            endpoint_id = topology.sender(one.routing_key)
            try:
                report = unpack_status_report(one.body)
            except WireError as exc:
                self._dropped(f"a message of endpoint {endpoint_id} that is no report ({exc})")
                continue
            beats.append(Heartbeat(endpoint_id, report.global_state))
        await self._note(beats)
        for epoch, tags in _by_epoch(deliveries).items():
            if self._heartbeats is not None:
                self._heartbeats.ack(epoch, tags)

    async def _note(self, beats: Sequence[Heartbeat]) -> None:
        self.counts.reports += len(beats)
        await self._directory.report(beats)
        for beat in beats:
            if beat.error is None:
                continue
            endpoint = await self._directory.known(beat.endpoint_id)
            if endpoint is not None:
                await self.fail_waiting(endpoint, START_FAILED, beat.error)

    async def fail_waiting(self, endpoint: Endpoint, code: str, text: str) -> int:
        """Answer every task of the endpoint that has no result with an error; return how many.

        What still waits in the endpoint's queue is taken away first, so that nothing runs whose
        caller was told that it failed.
        """
        await self._messaging.declare(topology.purge_operations(endpoint.endpoint_id))
        waiting = await self._store.call(ledger.waiting_tasks, endpoint.endpoint_id)
        if not waiting:
            return 0
        details = {"endpoint_id": endpoint.endpoint_id}
        failed = [
            ArrivedResult(
                task_id,
                endpoint.endpoint_id,
                True,
                error_result(task_id, code, text, details=details, actor="web-service"),
            )
            for task_id in waiting
        ]
        settled = await self._store.call(settlement.settle_results, failed, self._clock())
        await self.relay(settled.due)
        log.warning(
            "%d tasks of endpoint %s failed: %s",
            len(waiting),
            endpoint.endpoint_id,
            code,
            extra={"event": "hub.tasks_failed", "endpoint_id": endpoint.endpoint_id},
        )
        return len(waiting)


def _by_epoch(deliveries: Sequence[Delivery]) -> dict[int, list[int]]:
    epochs: dict[int, list[int]] = {}
    for one in deliveries:
        epochs.setdefault(one.epoch, []).append(one.tag)
    return epochs
