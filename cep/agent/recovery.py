"""What an earlier life of this endpoint left behind, and what becomes of its tasks.

Runs once at start, in this order: left-over processes are ended *before* anything is classified,
so that no old worker can begin a task that we are about to run again.
"""

from __future__ import annotations

import logging
from collections.abc import Set

from cep.agent.audit import Unaudited
from cep.agent.dispatcher import Dispatcher
from cep.agent.lost_body import lost_body
from cep.agent.outbox import Outbox
from cep.config.settings import OnRestart
from cep.journal.journal import Journal
from cep.journal.report import Unfinished
from cep.wire.result import ENDPOINT_RESTARTED, UNKNOWN_TASK_FAILURE, error_result

log = logging.getLogger(__name__)


def recover(
    journal: Journal,
    dispatcher: Dispatcher,
    outbox: Outbox,
    *,
    endpoint_id: str,
    begun: Set[int] | None,
    on_restart: OnRestart,
    max_retries: int,
    audit: Unaudited | None = None,
) -> None:
    """Queue what was certainly not started, answer or retry what possibly was, resend the rest.

    Args:
        journal: Opened, not yet recovered.
        dispatcher: Takes the tasks to run.
        outbox: Takes the results to send.
        endpoint_id: Goes into error results.
        begun: Tasks that local workers of the earlier life had begun, from their start slots;
            None when that cannot be known (another boot, or workers on other hosts): then every
            task handed to the engine counts as possibly started.
        on_restart: What the owner wants for possibly started tasks.
        max_retries: `max_retries_on_system_failure`, which bounds `retry`.
        audit: Told of what is answered here, and of what will run.

    Raises:
        AuditUnwritable: The audit cannot be written; nothing was changed.
    """
    audit = audit or Unaudited()
    recovered = journal.recover()
    rerun = answered = 0
    for task in recovered.unfinished:
        audit.known(task.seq, task.task_id, task.function_id)
        started = _has_begun(task, begun)
        attempts = task.attempts if started or not task.given else task.attempts - 1
        if started and not (on_restart == "retry" and attempts <= max_retries):
            answered += 1
            _answer(journal, outbox, task, endpoint_id)
            audit.ended(task.seq, ENDPOINT_RESTARTED)
            continue
        rerun += 1
        if task.given and not started:
            journal.ungive([task.seq])
        dispatcher.add(task.seq, task.task_id, task.size, attempts)
    for seq, task_id in recovered.damaged:
        audit.known(seq, task_id, None)
        audit.ended(seq, UNKNOWN_TASK_FAILURE)
        result = lost_body(task_id)
        journal.finish(seq, result)
        outbox.add([(seq, len(result))])
    outbox.add(recovered.unsent)
    audit.flush()
    journal.commit()
    audit.committed()
    if recovered.unfinished or recovered.unsent:
        log.warning(
            "from the endpoint's earlier life: %d tasks to run, %d answered with %s because they "
            "may have begun, %d results to send",
            rerun,
            answered,
            ENDPOINT_RESTARTED,
            len(recovered.unsent),
            extra={"event": "recovery.done"},
        )


def _has_begun(task: Unfinished, begun: Set[int] | None) -> bool:
    """Whether a worker of the earlier life may have begun this task."""
    if begun is None:
        return task.given
    # A worker begins only what was given. So a task that was begun and never given shows that the
    # journal has lost its last commits, as a write-ahead log does that somebody cut.
    never_given = not task.given and task.attempts == 0
    return task.seq in begun and (task.given or never_given)


def _answer(journal: Journal, outbox: Outbox, task: Unfinished, endpoint_id: str) -> None:
    result = error_result(
        task.task_id,
        ENDPOINT_RESTARTED,
        "The endpoint was restarted while this task may have been running, so it was not run "
        "again. If running it twice does no harm, submit it again, or set on_restart: retry and "
        "max_retries_on_system_failure in the endpoint's configuration.",
        details={"endpoint_id": endpoint_id},
    )
    journal.finish(task.seq, result)
    outbox.add([(task.seq, len(result))])
