"""Blocks on the endpoint's own host: Parsl's LocalProvider with the scripts as our children.

Parsl starts a block's script in the background of a shell that ends, so nobody is told of its end
and `ps` shows it below init. Here the script is a child of the agent in a session of its own: its
end is noticed at once, cancelling reaches all of its processes and waits until they are gone, and
its environment carries the mark of this endpoint. A container is no child of its block's command,
so those of a block that is cancelled are removed by their labels.

`submit`, `status` and `cancel` belong to the block thread; each script has a thread that waits for
its end and calls `ended`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parsl.jobs.states import JobState, JobStatus
from parsl.providers import LocalProvider

from cep.engines.container_leftovers import Containers
from cep.errors import EngineError

log = logging.getLogger(__name__)

CANCEL_TERM_S = 5.0  # time between SIGTERM and SIGKILL


@dataclass(slots=True)
class _Script:
    """One running script. `life` reads as ended when the last process of the block is gone."""

    process: subprocess.Popen[bytes]
    block: str
    path: Path
    life: int
    waiter: threading.Thread
    cancelled: bool = False


class LocalBlocks(LocalProvider):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        mark: Environment variables for the scripts.
        run_dir: The directory that they run in.
        containers: The containers that the scripts may start, or None.
        arguments: What LocalProvider takes.
    """

    def __init__(
        self,
        *,
        mark: Mapping[str, str],
        run_dir: Path,
        containers: Containers | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._mark = mark
        self._run_dir = run_dir
        self._containers = containers
        self._scripts: dict[str, _Script] = {}
        self.ended: Callable[[str], None] = _nothing

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Start a block's script.

        Returns:
            The job's id: the process id of the script.
        """
        name = f"{job_name}.{time.time()}"
        path = Path(self.script_dir) / f"{name}.sh"
        path.write_text(self.script(command, tasks_per_node, name))
        life, theirs = os.pipe()
        try:
            with Path(f"{path}.out").open("wb") as out, Path(f"{path}.err").open("wb") as err:
                process = subprocess.Popen(
                    ["/bin/bash", str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=self._run_dir,
                    env={**os.environ, **self._mark},
                    start_new_session=True,
                    pass_fds=(theirs,),
                )
        except OSError:
            os.close(life)
            raise
        finally:
            os.close(theirs)
        job = str(process.pid)
        waiter = threading.Thread(target=self._wait, args=(job, process), name=f"block-{job}")
        self._scripts[job] = _Script(process, _block_of(job_name), path, life, waiter)
        waiter.start()
        return job

    def script(self, command: str, tasks_per_node: int, name: str) -> str:
        """The text of a block's script.

        Args:
            command: What starts the workers.
            tasks_per_node: How often on each node.
            name: The block's name, which the script exports.
        """
        launched = self.launcher(command, tasks_per_node, self.nodes_per_block, self.script_dir)
        return f"{self.worker_init}\nexport JOBNAME={name}\n{launched}"

    def _wait(self, job: str, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self.ended(job)

    def status(self, job_ids: Sequence[str]) -> list[JobStatus]:
        """The states of these jobs, without asking anybody."""
        return [self._status(self._scripts[job]) for job in job_ids]

    def _status(self, script: _Script) -> JobStatus:
        code = script.process.returncode
        if code is None:
            return JobStatus(JobState.RUNNING)
        if script.cancelled:
            return JobStatus(JobState.CANCELLED)
        state = JobState.COMPLETED if code == 0 else JobState.FAILED
        return JobStatus(
            state,
            exit_code=code,
            stdout_path=f"{script.path}.out",
            stderr_path=f"{script.path}.err",
        )

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """End these jobs and wait until their processes are gone."""
        scripts = [self._scripts[job] for job in job_ids]
        for script in scripts:
            script.cancelled = script.process.returncode is None
            self._signal(script, signal.SIGTERM)
        deadline = time.monotonic() + CANCEL_TERM_S
        for script in scripts:
            if not _over(script.life, deadline - time.monotonic()):
                self._signal(script, signal.SIGKILL)
                if not _over(script.life, 1.0):
                    log.warning("a process of block job %s does not end", script.process.pid)
        self._end_containers(*(script.block for script in scripts))
        return [True for _ in job_ids]

    def _end_containers(self, *blocks: str) -> None:
        """Remove what these blocks' scripts could not; they have ended."""
        if self._containers is None:
            return
        try:
            for block in blocks:
                self._containers.end(block)
        except EngineError as error:
            log.warning(
                "containers of cancelled blocks cannot be looked for: %s",
                error,
                extra={"event": "blocks.containers-unknown"},
            )

    def forget(self, job: str) -> None:
        """Close what is kept for a job that has ended."""
        script = self._scripts.pop(job, None)
        if script is not None:
            script.waiter.join()
            os.close(script.life)

    def close(self) -> None:
        """Cancel and forget everything."""
        self.cancel(list(self._scripts))
        for job in list(self._scripts):
            self.forget(job)

    @staticmethod
    def _signal(script: _Script, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(script.process.pid, number)


def _block_of(job_name: str) -> str:
    """The block in the name that Parsl gives its job."""
    return job_name.rpartition("block-")[2]


def _nothing(job: str) -> None:
    del job


def _over(life: int, timeout_s: float) -> bool:
    """Whether nobody holds the other end of the pipe any more, waiting for it."""
    ready, _, _ = select.select([life], [], [], max(0.0, timeout_s))
    return bool(ready)
