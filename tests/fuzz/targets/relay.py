"""What endpoints send to the hub: results and status reports, and what a user may then ask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from cep.hub import topology
from cep.wire.result import error_result, pack_result
from cep.wire.status import pack_status_report
from tests.fuzz.target import Source, Target
from tests.fuzz.targets.hub import LivingHub
from tests.unit.hub_rig import Answer, Hub

ID = "00000000-0000-0000-0000-00000000000"


class Rig:
    """One living hub."""

    def __init__(self) -> None:
        self._living = LivingHub()

    def one(self, data: bytes) -> None:
        """Let a message arrive; it must be settled, and the hub must answer about it."""
        living = self._living
        living.renew()
        source = Source(data)
        flags = source.number()
        queue = topology.HEARTBEATS if flags & 1 else topology.RESULTS
        key = (topology.heartbeat_key if flags & 1 else topology.result_key)(living.endpoint_id)
        if flags & 2:
            key = source.piece().decode("utf-8", "replace")
        body = living.filled(source.rest())

        async def arrive(hub: Hub) -> Answer:
            self._tag = living.messaging.arrive(queue, key, body)
            return await hub.call("GET", "/v2/endpoints")

        living.ask(arrive)
        consumer = living.messaging.consumers[queue][0]
        living.wait(lambda: self._tag in consumer.acked)
        consumer.acked.clear()
        for path in (
            f"/v2/tasks/{living.task_id}",
            f"/v2/endpoints/{living.endpoint_id}/status",
            f"/v2/endpoints/{living.endpoint_id}",
        ):
            living.ask(_get(path))

    def close(self) -> None:
        """End the hub."""
        self._living.close()


def _get(path: str) -> Callable[[Hub], object]:
    async def get(hub: Hub) -> Answer:
        return await hub.call("GET", path)

    return get


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    rig = Rig()
    try:
        yield rig.one
    finally:
        rig.close()


def seeds() -> Iterator[bytes]:
    """Results and reports, well formed and with values that only JSON can name."""
    task = ID + "1"

    def message(body: bytes) -> bytes:
        return body.replace(task.encode(), b"$TASK")

    odd = (b"1e999", b"NaN", b"9" * 400, b'"\\ud800"', b"-5", b"null", b"[" * 900 + b"]" * 900)
    for start in (b"\x00", b"\x01", b"\x02\x03a.b"):
        yield start + message(pack_result(task, "00\nx\n", details={"host": "$X"}))
        yield start + message(error_result(task, "WORKER_LOST", "gone"))
        yield start + pack_status_report(task, {"heartbeat_period": 30, "active": True})
        yield start + pack_status_report(task, {"error": "cannot start"})
        yield start + b"\x01{}"
        for value in odd:
            state = pack_status_report(task, {"heartbeat_period": "$V", "info": {"a": "$V"}})
            yield start + state.replace(b'"$V"', value)
            result = message(pack_result(task, "00\nx\n", details={"a": "$V"}))
            yield start + result.replace(b'"$V"', value)
            yield start + result.replace(b'"00\\nx\\n"', value)


TARGET = Target("relay", "results and status reports at the hub", _open, seeds)
