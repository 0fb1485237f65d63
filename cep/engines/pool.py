"""The endpoint's worker pool: Parsl's manager with fast, separate, well-behaved workers.

Owns the worker processes of one node. Runs on the threads of Parsl's manager, in a process of its
own that a block's script starts. Beyond Parsl's manager

* workers are forked from a server that has the codec loaded already, and share no lock;
* a dead worker is noticed and replaced at once, unless it never came up: then ever more slowly;
* workers end with the pool, however it ends, and the pool leaves no temporary files;
* on the endpoint's own host it reaches the interchange by a Unix socket (`cep.engines.local_door`);
* log files are bounded.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import platform
import queue
import shutil
import signal
import sys
import threading
import types
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any

from cep.allocator import keep_freed_memory
from cep.engines import ahead, local_door, parsl_parts
from cep.engines.lanes import Lanes
from cep.engines.steady import SteadyTime
from cep.engines.worker_logs import bounded_file_logger
from cep.engines.worker_output import bounded_output
from cep.worker import lend

parsl_pool: Any = parsl_parts.load("parsl.executors.high_throughput.process_worker_pool")
parsl_pool.time = SteadyTime()
_tcp_url, _probe = parsl_pool.tcp_url, parsl_pool.probe_addresses

import cep.engines.htex_task  # noqa: E402, F401  the forkserver loads it for all workers

log = logging.getLogger("parsl.executors.high_throughput.process_worker_pool")

#: Parsl's names that this module uses beyond its documented ones; a test keeps watch over them.
PARSL_NAMES = ("_start_worker", "_stop_event", "_mp_manager", "create_reg_message")
PARSL_GLOBALS = (
    "SpawnContext",
    "curvezmq",
    "distributions",
    "get_arg_parser",
    "probe_addresses",
    "set_file_logger",
    "tcp_url",
    "worker",
)
#: Packages whose versions a manager reports.
REPORTED_PACKAGES = ("cep-endpoint", "dill", "globus-compute-sdk", "parsl")
#: One is set in each job of Slurm and of PBS, which signal all processes of a job within this time.
_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID")
KILLED_TOGETHER_S = 1.0
_killed = threading.Event()  # by SIGTERM
#: Workers that die before they come up are replaced ever more slowly.
LONGEST_DELAY_S = 60.0


def url_of(address: str, port: str | int | None = None) -> str:
    """As Parsl's `tcp_url`; the door of the endpoint's own host has no port."""
    return address if local_door.is_door(address) else str(_tcp_url(address, port))


class _Sockets(parsl_pool.curvezmq.ClientContext):  # type: ignore[misc]
    """Parsl's maker of encrypted sockets; plain ones once the door is chosen."""

    by_door = False

    def socket(self, socket_type: int) -> Any:
        made = super().socket(socket_type)
        return local_door.unencrypted(made) if self.by_door else made


def _choose(context: _Sockets, urls: set[str], **probing: Any) -> str:
    """As Parsl's `probe_addresses`; by the door where it is open."""
    door = local_door.open_one(urls)
    if door is not None:
        context.by_door = True
        return door
    return str(_probe(context, {url for url in urls if not local_door.is_door(url)}, **probing))


parsl_pool.tcp_url = url_of
parsl_pool.probe_addresses = _choose
parsl_pool.curvezmq = types.SimpleNamespace(ClientContext=_Sockets)


class _NoServer:
    """Stands in for the process that Parsl's manager keeps its shared dictionary in."""

    def dict(self) -> dict[Any, Any]:
        return {}

    def Queue(self) -> queue.SimpleQueue[Any]:
        return queue.SimpleQueue()


class _Uncounted:
    """Stands in for the shared count of ready workers, which only a debug line reads."""

    value = 0

    @contextlib.contextmanager
    def get_lock(self) -> Any:
        yield self


class _Context(ForkServerContext):
    """What Parsl's manager makes its processes with."""

    def Manager(self) -> Any:
        return _NoServer()

    def Queue(self, maxsize: int = 0) -> Any:
        del maxsize
        return None  # the lanes take the place of both queues

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        del typecode_or_type, args, lock
        return _Uncounted()


class _NoMonitoring:
    """Takes monitoring messages and drops them: the endpoint does not monitor tasks."""

    def put(self, message: object) -> None:
        del message


class Pool(parsl_pool.Manager):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        log_directory: Where the pool and its workers write their logs.
        debug: Log more.
        config: What Parsl's manager takes.
    """

    def __init__(self, *, log_directory: str, debug: bool, **config: Any) -> None:
        super().__init__(**config)
        self._log_directory = log_directory
        self._debug = debug
        self._lanes = Lanes(self._lose, self._replace)
        self.task_scheduler = self._lanes
        self.pending_task_queue = self._lanes
        self.pending_result_queue = self._lanes
        self._procs: dict[int, Any] = {}
        self._stillborn: dict[int, int] = {}

    def create_reg_message(self) -> dict[str, Any]:
        """As Parsl's; says as well how many tasks may be sent ahead."""
        message: dict[str, Any] = super().create_reg_message()
        return {**message, ahead.TAKES: ahead.takes(self.worker_count)}

    def _start_worker(self, worker_id: int) -> Any:
        lane = self._lanes.open(worker_id)
        process = parsl_pool.SpawnContext.Process(
            target=run_worker,
            args=(
                worker_id,
                self.uid,
                self.worker_count,
                lane,
                lane,
                _NoMonitoring(),
                _Uncounted(),
                {},
                self.cpu_affinity,
                self.available_accelerators[worker_id] if self.accelerators_available else None,
                self.block_id,
                self.heartbeat_period,
                os.getpid(),
                self._log_directory,
                self.log_config,
                self._debug,
                self.mpi_launcher,
            ),
            name=f"HTEX-Worker-{worker_id}",
        )
        try:
            process.start()
        finally:
            lane.close()
        self._procs[worker_id] = process
        return process

    def worker_watchdog(self, procs: dict[int, Any]) -> None:
        """Nothing to watch: a broken lane tells of a dead worker (`_replace`)."""
        self._procs = procs

    def _lose(self, task_id: int, worker_id: int) -> bytes:
        """Tell of a task whose worker died, unless the whole job is being killed.

        A batch system kills the processes of a job in any order; a worker that dies a moment
        before its pool is lost with the block, for the reason that the scheduler knows.
        """
        if any(name in os.environ for name in _JOB_VARIABLES) and _killed.wait(KILLED_TOGETHER_S):
            threading.Event().wait()  # the process is about to end, and says nothing
        return _lost_message(task_id, worker_id)

    def _replace(self, worker_id: int, came_up: bool) -> None:
        """Start another worker in the place of one that died. Runs on the result thread."""
        if self._stop_event.is_set():
            return
        dead = self._procs[worker_id]
        dead.join(timeout=5)
        log.error("Worker %s has died (exit code %s)", worker_id, dead.exitcode)
        count = 0 if came_up else self._stillborn.get(worker_id, 0) + 1
        self._stillborn[worker_id] = count
        if count < 2:
            self._start_again(worker_id)
            return
        delay_s = min(2.0 ** (count - 2), LONGEST_DELAY_S)
        timer = threading.Timer(delay_s, self._start_again, (worker_id,))
        timer.daemon = True
        timer.start()

    def _start_again(self, worker_id: int) -> None:
        """Start a worker; when that fails, its broken lane leads to the next try."""
        if self._stop_event.is_set():
            return
        try:
            self._start_worker(worker_id)
        except (EOFError, OSError) as error:
            log.error("Worker %s could not be started: %r", worker_id, error)


def _lost_message(task_id: int, worker_id: int) -> bytes:
    reason = (
        f"The worker process that ran the task ended without an answer "
        f"(worker {worker_id} on host {platform.node()}, Python {platform.python_version()}). "
        "Too little memory ends workers so, a fault in compiled code, and functions that were made "
        "by another minor version of Python than the worker's."
    )
    lost = {"type": "result", "task_id": task_id, "cep_lost": reason}
    return pickle.dumps(lost)


def run_worker(*arguments: Any) -> None:
    """The body of a worker process: Parsl's, and it ends when the pool ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    lend.settle()
    keep_freed_memory()
    watcher = threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True)
    watcher.start()
    _use_bounded_logs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parsl_pool.worker(*arguments)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _use_bounded_logs() -> None:
    parsl_pool.set_file_logger = bounded_file_logger


def _known_distributions() -> list[Any]:
    from importlib.metadata import PackageNotFoundError, distribution

    found = []
    for name in REPORTED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(distribution(name))
    return found


def _prepare_parsl() -> None:
    context = _Context()
    # What was lent to this interpreter is lent to the fork server as well, before it loads us.
    lent = [lend.MODULE] if lend.CARRY in os.environ else []
    context.set_forkserver_preload([*lent, __name__])
    parsl_pool.SpawnContext = context
    parsl_pool.distributions = _known_distributions
    _use_bounded_logs()


def _end_at_once(pool: list[Pool], signal_number: int, frame: FrameType | None) -> None:
    """SIGTERM: the block is being cancelled, nobody waits for results."""
    del frame
    _killed.set()
    for child in multiprocessing.active_children():
        child.kill()
    if pool:
        pool[0]._stop_event.set()
    _remove_temporary_files()
    os._exit(128 + signal_number)


def _remove_temporary_files() -> None:
    shutil.rmtree(multiprocessing.util.get_temp_dir(), ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    """Run a pool until the interchange tells it to end or is gone."""
    _prepare_parsl()
    keep_freed_memory()
    args = parsl_pool.get_arg_parser().parse_args(argv)
    made: list[Pool] = []
    signal.signal(signal.SIGTERM, lambda number, frame: _end_at_once(made, number, frame))
    directory = Path(args.logdir) / f"block-{args.block_id}" / args.uid
    for place in (directory.parent, directory):  # whatever the job's umask
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    level = logging.DEBUG if args.debug else logging.INFO
    bounded_file_logger(str(directory / "manager.log"), level=level)
    log.info("Python %s, arguments %s", sys.version, vars(args))
    try:
        try:
            made.append(_build(args))
        except ConnectionError:
            sys.exit(_unreachable(args))
        with bounded_output(directory / "output.log"):
            forkserver.ensure_running()
        made[0].start()
    except Exception:
        log.critical("The worker pool ends with an error", exc_info=True)
        raise
    log.info("The worker pool ends")


def _unreachable(args: Any) -> str:
    """What is wrong when no address of the endpoint answers; it ends the error output."""
    told = (
        f"The endpoint cannot be reached from node {platform.node()} at {args.addresses}, port "
        f"{args.port}, within {args.address_probe_timeout} s. Set engine.address in its "
        "configuration to an address or interface of its host that the nodes can reach."
    )
    log.critical("%s", told)
    return told


def _build(args: Any) -> Pool:
    limit = args.max_workers_per_node
    return Pool(
        log_directory=args.logdir,
        debug=args.debug,
        port=args.port,
        addresses=args.addresses,
        address_probe_timeout=int(args.address_probe_timeout),
        uid=args.uid,
        block_id=args.block_id,
        cores_per_worker=float(args.cores_per_worker),
        mem_per_worker=_none_or(float, args.mem_per_worker),
        max_workers_per_node=limit if limit == float("inf") else int(limit),
        prefetch_capacity=int(args.prefetch_capacity),
        heartbeat_threshold=int(args.hb_threshold),
        heartbeat_period=int(args.hb_period),
        drain_period=_none_or(int, args.drain_period),
        poll_period=int(args.poll),
        cpu_affinity=args.cpu_affinity,
        enable_mpi_mode=args.enable_mpi_mode,
        mpi_launcher=args.mpi_launcher,
        available_accelerators=args.available_accelerators,
        cert_dir=_none_or(str, args.cert_dir),
        log_config=None,
    )


def _none_or(kind: type[Any], text: str | None) -> Any:
    return None if text is None or text == "None" else kind(text)
