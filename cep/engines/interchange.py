"""The endpoint's interchange: Parsl's, which also tells the agent who came and who went.

Owns the sockets between the agent and the managers of all blocks. Runs on the main thread of a
process of its own. Beyond Parsl's own messages it

* reports each manager that registers, drains or is lost on the results channel, so that nobody
  has to ask (`{"type": "cep", "event": ...}`, see `Event`);
* takes requests on the tasks channel (`{"cep": ...}`, see `_obey`), in order with the tasks;
* sends short tasks to the only manager ahead of a free worker (`cep.engines.ahead`);
* notices a broken connection to a manager at once, where Parsl waits for missed heartbeats;
* waits without a time-out while no manager is connected;
* ends by itself when the agent dies, and tells the managers to end before it goes.

Its three sockets to the agent are Unix sockets (`cep.engines.interchange_link`); the one to the
managers is TCP, encrypted unless the configuration says otherwise, and a Unix socket as well where
managers run on this host (`cep.engines.local_door`).
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from cep.allocator import keep_freed_memory
from cep.cycles import look_again
from cep.engines import ahead, local_door, parsl_parts
from cep.engines.steady import SteadyTime
from cep.engines.worker_logs import bounded_file_logger

parsl_interchange: Any = parsl_parts.load("parsl.executors.high_throughput.interchange")

parsl_interchange.set_file_logger = bounded_file_logger
_tcp_url = parsl_interchange.tcp_url
time = parsl_interchange.time = SteadyTime()  # one clock for what Parsl and what we compare
log = logging.getLogger("parsl.executors.high_throughput.interchange")

#: Parsl's names that this module uses beyond its documented ones; a test keeps watch over them.
PARSL_NAMES = ("_ready_managers",)
_STDIN = 0
#: When to look for the manager whose connection broke, in seconds after the news: libzmq tells of
#: a broken connection before its socket forgets it (stream_engine_base.cpp, `error`).
_LOOK_AFTER_S = (0.0, 0.05, 1.0)


def url_of(address: str, port: str | int | None = None) -> str:
    """As Parsl's `tcp_url`; of an address of Unix sockets the `port` is one's name."""
    return f"{address}/{port}" if address.startswith("ipc://") else str(_tcp_url(address, port))


class _Sockets(parsl_interchange.curvezmq.ServerContext):  # type: ignore[misc]
    """Parsl's maker of encrypted sockets; those to the agent (a DEALER or REP) are plain."""

    def socket(self, socket_type: int) -> Any:
        made = super().socket(socket_type)
        agents = socket_type in (zmq.DEALER, zmq.REP)
        return local_door.unencrypted(made) if agents else made


parsl_interchange.tcp_url = url_of
parsl_interchange.curvezmq = types.SimpleNamespace(ServerContext=_Sockets)


class NotedManagers(dict[bytes, dict[str, Any]]):
    """Parsl's table of managers, telling of each one that comes or goes."""

    def __init__(
        self,
        came: Callable[[bytes, dict[str, Any]], None],
        went: Callable[[bytes, dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self._came = came
        self._went = went

    def __setitem__(self, manager_id: bytes, record: dict[str, Any]) -> None:
        super().__setitem__(manager_id, record)
        self._came(manager_id, record)

    def pop(self, manager_id: bytes, *default: Any) -> Any:
        """Remove a manager and tell of it."""
        known = manager_id in self
        record = super().pop(manager_id, *default)
        if known:
            self._went(manager_id, record)
        return record


class EndpointInterchange(parsl_interchange.Interchange):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        disconnect_grace_s: How long the connection to a manager may be broken before the manager
            counts as lost; 0 when all managers run on this host, where only death breaks it.
        silence_s: A manager of an ended block that was silent for so long is lost.
        door: Where to listen for managers of this host beside the network; None for nowhere.
        config: What Parsl's interchange takes.
    """

    def __init__(
        self,
        *,
        disconnect_grace_s: float,
        silence_s: float,
        door: str | None = None,
        **config: Any,
    ) -> None:
        super().__init__(**config)
        self._door = door
        self._ready_managers = NotedManagers(self._came, self._went)
        self._grace_s = disconnect_grace_s
        self._silence_s = silence_s
        self._cut_since: dict[bytes, float] = {}
        self._looks: list[float] = []
        self._ended_blocks: set[str] = set()
        self._retired: set[str] = set()
        self._told_draining: set[bytes] = set()
        # A manager that reconnects while its broken connection still counts here would be ignored
        # for ever (zmq_setsockopt(3), ROUTER_HANDOVER): the newer connection is the living one.
        self.manager_sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if door is not None:
            local_door.bind(self.manager_sock, door)
        self._disconnects = self.manager_sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._interesting: set[bytes] = set()
        self._agent_gone = False

    # -- the loop ------------------------------------------------------------------------------

    def start(self) -> None:
        """Serve until the agent is gone."""
        log.info("Endpoint interchange starts")
        kill_event = threading.Event()
        poller = self._poller()
        poller.register(_STDIN, zmq.POLLIN)
        while not (kill_event.is_set() or self._agent_gone):
            self._turn(poller, self._patience_ms(), kill_event)
        self._farewell()

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        for source in (
            self.manager_sock,
            self.task_incoming,
            self.command_channel,
            self._disconnects,
        ):
            poller.register(source, zmq.POLLIN)
        return poller

    def _turn(self, poller: zmq.Poller, timeout_ms: int | None, kill: threading.Event) -> None:
        self.socks = dict(poller.poll(timeout_ms))
        self._agent_gone = _STDIN in self.socks
        interesting = self._interesting
        self._note_disconnects()
        self.process_command(None)
        self.process_task_incoming()
        self.process_manager_socket_message(interesting, None, kill)
        self.expire_bad_managers(interesting, None)
        self.expire_drained_managers(interesting, None)
        interesting.intersection_update(self._ready_managers)
        self.process_tasks_to_send(interesting, None)

    def _patience_ms(self) -> int | None:
        if not self._ready_managers:
            return None
        period = int(self.poll_period)
        if not self._looks:
            return period
        return min(period, max(1, round(1000 * (self._looks[0] - time.time()))))

    def _farewell(self) -> None:
        """The agent is gone: nobody wants results, so the blocks may end."""
        for manager_id in list(self._ready_managers):
            self.manager_sock.send_multipart([manager_id, parsl_interchange.PKL_SHUTDOWN_CODE])
        log.info("The agent is gone; told %d managers to end", len(self._ready_managers))
        self.manager_sock.disable_monitor()
        self.zmq_context.destroy(linger=500)
        if self._door is not None:  # the agent may have been killed
            local_door.remove(self._door)

    # -- what the agent asks for ---------------------------------------------------------------

    def process_task_incoming(self) -> None:
        """Take tasks and requests, all that have arrived."""
        if self.socks.get(self.task_incoming) != zmq.POLLIN:
            return
        while True:
            try:
                message = pickle.loads(self.task_incoming.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            if "cep" in message:
                self._obey(message)
                continue
            specification = message["context"].get("resource_spec", {})
            if "priority" in specification:
                self._call_back()  # what was sent ahead would begin before it
            priority = specification.get("priority", float("inf"))
            self.pending_task_queue.add((-priority, -message["task_id"], message))

    def _obey(self, request: dict[str, Any]) -> None:
        """Do what the agent asks.

        `cancel` (`ids`): give back those of these tasks that still wait here, or were sent ahead.
        `retire` (`blocks`): hold the blocks that have no tasks, and say which.
        `ended` (`block`): the provider says that this block is over.
        """
        verb = request["cep"]
        if verb == "cancel":
            wanted = set(request["ids"])
            waiting = [entry for entry in self.pending_task_queue if entry[2]["task_id"] in wanted]
            for entry in waiting:
                self.pending_task_queue.remove(entry)
            if len(waiting) < len(wanted):
                self._call_back()
            self._tell("cancelled", ids=[entry[2]["task_id"] for entry in waiting])
        elif verb == "retire":
            self._retire(request["blocks"])
        elif verb == "ended":
            self._ended_blocks.add(request["block"])
            self._lose_dead(time.time())

    def _retire(self, blocks: Sequence[str]) -> None:
        retired: list[str] = []
        for block in blocks:
            managers = [m for m in self._ready_managers.values() if m["block_id"] == block]
            if self.pending_task_queue or any(m["tasks"] for m in managers):
                continue
            for manager in managers:
                manager["active"] = False
            retired.append(block)
        self._retired.update(retired)
        self._tell("retired", blocks=retired)

    # -- tasks ahead of a free worker ----------------------------------------------------------

    def process_tasks_to_send(self, interesting_managers: set[bytes], radio: Any) -> None:
        """As Parsl's; when all workers have a task, the only manager gets short ones ahead."""
        # Parsl's arithmetic knows no manager that has more than its capacity.
        full = [m for m in interesting_managers if _is_full(self._ready_managers[m])]
        interesting_managers.difference_update(full)
        super().process_tasks_to_send(interesting_managers, radio)
        if self.pending_task_queue and len(self._ready_managers) == 1:
            ((manager_id, record),) = self._ready_managers.items()
            if _is_full(record) and record["active"] and not record["draining"]:
                self._send_ahead(manager_id, record)

    def _send_ahead(self, manager_id: bytes, record: dict[str, Any]) -> None:
        room = record["max_capacity"] + record.get(ahead.TAKES, 0) - len(record["tasks"])
        tasks: list[dict[str, Any]] = []
        while len(tasks) < room and self.pending_task_queue:
            if ahead.SHORT not in self.pending_task_queue[-1][2]["context"]:
                break
            tasks.append(ahead.sent_ahead(self.pending_task_queue.pop()[2]))
        if tasks:
            self.manager_sock.send_multipart([manager_id, pickle.dumps(tasks)])
            record["tasks"].extend(task["task_id"] for task in tasks)
            self.count += len(tasks)

    def _call_back(self) -> None:
        """Have managers hand back what was sent ahead and has not begun."""
        for manager_id, record in self._ready_managers.items():
            if len(record["tasks"]) > record["max_capacity"]:
                self.manager_sock.send_multipart([manager_id, ahead.GIVE_BACK])

    # -- who comes and who goes ----------------------------------------------------------------

    def _tell(self, event: str, **what: Any) -> None:
        self.results_outgoing.send(pickle.dumps({"type": "cep", "event": event, **what}))

    def _came(self, manager_id: bytes, record: dict[str, Any]) -> None:
        if record["block_id"] in self._retired:
            record["active"] = False  # it came too late, its block is being cancelled
            return
        self._call_back()
        packages = record.get("packages") or {}
        self._tell(
            "registered",
            manager=manager_id.decode(),
            block=str(record["block_id"]),
            workers=int(record["worker_count"]),
            host=str(record.get("hostname", "")),
            parsl_version=str(record.get("parsl_version", "")),
            python_version=str(record.get("python_version", "")),
            endpoint_version=packages.get("cep-endpoint"),
            sdk_version=packages.get("globus-compute-sdk"),
            dill_version=packages.get("dill"),
        )

    def _went(self, manager_id: bytes, record: dict[str, Any]) -> None:
        self._cut_since.pop(manager_id, None)
        self._told_draining.discard(manager_id)
        block = str(record["block_id"])
        self._tell("gone", manager=manager_id.decode(), block=block, ids=list(record["tasks"]))

    def expire_drained_managers(self, interesting_managers: set[bytes], radio: Any) -> None:
        """As Parsl's; tells the agent when a manager begins to drain."""
        super().expire_drained_managers(interesting_managers, radio)
        for manager_id, record in self._ready_managers.items():
            if record["draining"] and manager_id not in self._told_draining:
                self._told_draining.add(manager_id)
                self._call_back()
                self._tell("draining", manager=manager_id.decode())

    def expire_bad_managers(self, interesting_managers: set[bytes], radio: Any) -> None:
        """Lose managers that are silent for too long or whose connection stays broken."""
        del interesting_managers, radio
        now = time.time()
        for manager_id, record in list(self._ready_managers.items()):
            if now - record["last_heartbeat"] > self.heartbeat_threshold:
                log.warning("Manager %r missed too many heartbeats", manager_id)
                self._ready_managers.pop(manager_id)
        if self._cut_since or self._ended_blocks:
            self._lose_dead(now)

    def _note_disconnects(self) -> None:
        now = time.time()
        if self.socks.get(self._disconnects) == zmq.POLLIN:
            while self._disconnects.poll(0):
                self._disconnects.recv_multipart()
            self._looks = [now + after for after in _LOOK_AFTER_S]
        due = [at for at in self._looks if at <= now]
        if not due:
            return
        del self._looks[: len(due)]
        for manager_id, record in self._ready_managers.items():
            if manager_id not in self._cut_since and not self._reachable(manager_id):
                self._cut_since[manager_id] = now
                block = str(record["block_id"])
                self._tell("unreachable", manager=manager_id.decode(), block=block)

    def _reachable(self, manager_id: bytes) -> bool:
        """Whether there is a connection to this manager now (zmq_setsockopt(3), ROUTER_MANDATORY).

        What is sent is an answer to a heartbeat, which managers take at any time.
        """
        self.manager_sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        try:
            self.manager_sock.send_multipart(
                [manager_id, parsl_interchange.PKL_HEARTBEAT_CODE], flags=zmq.NOBLOCK
            )
        except zmq.ZMQError:
            return False
        finally:
            self.manager_sock.setsockopt(zmq.ROUTER_MANDATORY, 0)
        return True

    def _lose_dead(self, now: float) -> None:
        """Lose the managers that are certainly gone, after reading all they have sent."""
        for manager_id, record in list(self._ready_managers.items()):
            ended = record["block_id"] in self._ended_blocks
            cut_since = self._cut_since.get(manager_id)
            if not ended and cut_since is None:
                continue
            if self._reachable(manager_id):
                self._cut_since.pop(manager_id, None)
                if not ended or now - record["last_heartbeat"] < self._silence_s:
                    continue
            elif not ended and cut_since is not None and now - cut_since < self._grace_s:
                continue
            self._read_last_words()
            log.warning("Manager %r is gone", manager_id)
            self._ready_managers.pop(manager_id, None)
        left = {record["block_id"] for record in self._ready_managers.values()}
        self._ended_blocks &= left

    def _read_last_words(self) -> None:
        saved, self.socks = self.socks, {self.manager_sock: zmq.POLLIN}
        never = threading.Event()
        while self.manager_sock.poll(0):
            self.process_manager_socket_message(self._interesting, None, never)
        saved.pop(self.manager_sock, None)  # nothing is left to read there in this turn
        self.socks = saved


def _is_full(record: dict[str, Any]) -> bool:
    return len(record["tasks"]) >= int(record["max_capacity"])


def main() -> None:
    """Read the configuration from standard input, which stays open as long as the agent lives."""
    from parsl.utils import setproctitle

    setproctitle("parsl: HTEX interchange")
    keep_freed_memory()
    look_again()
    # Signals to the whole group are for the agent, whose end this process notices.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        config = pickle.load(sys.stdin.buffer)
    except EOFError:
        return  # the agent has ended before it needed us
    try:
        EndpointInterchange(**config).start()
    except BaseException:
        # Parsl's authentication thread would keep the process alive, and the agent waiting.
        log.critical("The interchange fails", exc_info=True)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
