"""Blocks on the endpoint's own host: Parsl's LocalProvider with the scripts as our children.

Parsl starts a block's script in the background of a shell that ends, so nobody is told of its end
and `ps` shows it below init. Here the script is a child of the agent in a session of its own: its
end is noticed at once, cancelling reaches all of its processes and waits until they are gone, and
its environment carries the mark of this endpoint. A container is no child of its block's command,
so those of a block that is cancelled are removed by their labels.

`submit`, `status`, `cancel` and `end_workers` belong to the block thread; each script has a thread
that waits for its end, ends what it has left, and calls `ended`.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parsl.jobs.states import JobState, JobStatus
from parsl.providers import LocalProvider

from cep.engines.container_leftovers import Containers
from cep.errors import EngineError

log = logging.getLogger(__name__)

CANCEL_TERM_S = 5.0  # time between SIGTERM and SIGKILL
WORKERS_END_S = 5.0  # until what was killed is gone; the kernel takes longer only when it waits
_PROC = Path("/proc")


@dataclass(slots=True)
class _Script:
    """One running script. `life` reads as ended when the last process of the block is gone."""

    process: subprocess.Popen[bytes]
    block: str
    path: Path
    life: int
    waiter: threading.Thread = field(init=False)
    cancelled: bool = False


class LocalBlocks(LocalProvider):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        mark: Environment variables for the scripts.
        run_dir: The directory that they run in.
        containers: The containers that the scripts may start, or None.
        workers_note: The workers are processes of this host that note what they begin, so none may
            be left when it is judged what has begun. (Of a container something may have to clean
            up, and nobody knows what its workers have begun.)
        arguments: What LocalProvider takes.
    """

    def __init__(
        self,
        *,
        mark: Mapping[str, str],
        run_dir: Path,
        containers: Containers | None = None,
        workers_note: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._mark = mark
        self._run_dir = run_dir
        self._containers = containers
        self._workers_note = workers_note
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
        script = _Script(process, _block_of(job_name), path, life)
        script.waiter = threading.Thread(target=self._wait, args=(job, script), name=f"block-{job}")
        self._scripts[job] = script
        script.waiter.start()
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

    def _wait(self, job: str, script: _Script) -> None:
        # While its end is not collected nobody else gets its number, which is that of the group.
        os.waitid(os.P_PID, script.process.pid, os.WEXITED | os.WNOWAIT)
        if self._workers_note and not script.cancelled:  # `cancel` gives them time
            _end_members(script.process.pid)
        script.process.wait()
        self.ended(job)

    def end_workers(self, job: str) -> None:
        """Kill what the script of a block has started, and wait until it is gone.

        For a block that has lost its pool: its workers end by themselves, but a moment later, in
        which one could begin another task after somebody has looked which have begun.
        """
        script = self._scripts.get(job)
        if self._workers_note and script is not None and script.process.returncode is None:
            _end_members(script.process.pid)

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


def _end_members(group: int) -> None:
    """Kill the processes of a group but its leader, and wait until they are gone."""
    until = time.monotonic() + WORKERS_END_S
    # Again until none is found: one may have started another while it was looked for.
    while members := _members(group):
        for pid in members:
            _end(pid, group, until)
        if time.monotonic() > until:
            log.warning("processes of block job %s do not end: %s", group, members)
            return


def _members(group: int) -> list[int]:
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid != group and _runs_in(pid, group)]


def _runs_in(pid: int, group: int) -> bool:
    """Whether it is of the group and no zombie (proc(5), `stat`)."""
    try:
        state, _parent, its = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return state not in "ZX" and int(its) == group


def _end(pid: int, group: int, until: float) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _runs_in(pid, group):  # the number may have passed to another process before
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            _over(handle, until - time.monotonic())
    finally:
        os.close(handle)


def _over(life: int, timeout_s: float) -> bool:
    """Whether nobody holds the pipe's other end any more, or the process has ended; waits."""
    ready, _, _ = select.select([life], [], [], max(0.0, timeout_s))
    return bool(ready)
