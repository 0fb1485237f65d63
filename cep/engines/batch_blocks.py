"""What blocks of every batch system have in common: names, words, and no job left behind.

Parsl knows a job's state and no more, and takes a job that it is told nothing of for a completed
one. Here the scheduler's reason, exit status and times come along, and no answer means nothing.
Jobs are called `cep.ENDPOINT_ID.LIFE.BLOCK`, so those that an earlier life left, or a submission
that was given up, are found and cancelled.

Belongs to the block thread.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cep.engines.batch_queue import NAME_PREFIX, BatchQueue
from cep.engines.job_words import JobWord
from cep.engines.scheduler_command import SchedulerSilent

log = logging.getLogger(__name__)

_BLOCK = re.compile(r"block-(\d+)$")
#: So long after a submission without an answer its job may still turn up in the queue.
SEEK_S = 600.0


class BatchBlocks:
    """To be mixed into one of Parsl's providers, which has to call `_take_over` when it is made.

    Attributes:
        resources: Parsl's: what is kept of each submitted job, by id.
    """

    resources: dict[str, dict[str, Any]]

    def _take_over(
        self, queue: BatchQueue, tag: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin a life.

        Args:
            queue: Asks the scheduler.
            tag: Marks the jobs of this life of this endpoint: `ENDPOINT_ID.LIFE`; empty for none.
            clock: Seconds, monotonic.
        """
        self._queue = queue
        self._tag = tag
        self._clock = clock
        self._cleaned = not tag
        self._seek_until = clock()

    def _name_of(self, job_name: str) -> str:
        """The name for a block's job in place of Parsl's; empty without a tag."""
        block = _BLOCK.search(job_name)
        return f"{NAME_PREFIX}.{self._tag}.{block[1]}" if self._tag and block else ""

    def _note_unanswered(self) -> None:
        """A submission got no answer: if its job came to be nevertheless, it is looked for."""
        self._seek_until = self._clock() + SEEK_S

    # -- questions -----------------------------------------------------------------------------

    def words(self, jobs: Sequence[str]) -> list[JobWord]:
        """What the scheduler says of these jobs.

        Raises:
            SchedulerSilent: It says nothing, or nothing that can be understood.
        """
        found = self._queue.look(jobs)
        self._seek()
        return [self._with_output(job, word) for job, word in zip(jobs, found, strict=True)]

    def _seek(self) -> None:
        """Look for the job of a submission that was given up; blocks are known without that."""
        try:
            if self._queue.listed is None and self._clock() < self._seek_until:
                self._queue.refresh()
            self._end_strays()
        except SchedulerSilent as error:
            log.warning(
                "jobs that are no blocks cannot be looked for: %s",
                error,
                extra={"event": "blocks.strays-unknown"},
            )

    def end_leftovers(self) -> None:
        """Cancel the jobs that earlier lives of this endpoint have left.

        Raises:
            SchedulerSilent: They could not be found or cancelled now.
        """
        if not self._cleaned:
            self._queue.refresh()
            self._end_strays()

    def _end_strays(self) -> None:
        """Cancel jobs of this endpoint that are no block: of others' lives at first, then of ours.

        Later on a job of another life belongs to an agent that has taken the endpoint over.
        """
        if not self._tag or self._queue.listed is None:
            return
        endpoint_id = self._tag.partition(".")[0]
        ours = f"{NAME_PREFIX}.{self._tag}."
        blocks = {self._queue.key(job) for job in self.resources}
        strays = [
            job
            for job, word in self._queue.of_endpoint(endpoint_id).items()
            if self._queue.key(job) not in blocks
            and (not self._cleaned or word.name.startswith(ours))
        ]
        if strays:
            log.warning(
                "cancelling jobs that are no blocks of this endpoint (any more): %s",
                ", ".join(strays),
                extra={"event": "blocks.strays"},
            )
            self._queue.cancel(strays)
        self._cleaned = True

    def _with_output(self, job: str, word: JobWord) -> JobWord:
        kept: Mapping[str, Any] | None = self.resources.get(job)
        return word if kept is None else replace(word, stderr_path=kept["job_stderr_path"])

    # -- fewer ---------------------------------------------------------------------------------

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """Cancel blocks.

        Raises:
            SchedulerSilent: The scheduler did not do it.
        """
        self._queue.cancel(job_ids)
        return [True for _ in job_ids]
