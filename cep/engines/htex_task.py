"""What a worker of a block runs, and the frames that tasks and answers travel in.

`run` is the entry that the agent names in each message; it takes bytes and returns bytes. Runs on
the main thread of a worker process; `pack_answers`/`unpack_answers` on both sides. Standard
library only, so that the agent reads answers without unpickling anything.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cep.engines.pace import DISPATCH_S
from cep.worker.context import WorkerContext
from cep.worker.execute import execute
from cep.worker.slots import SlotWriter

#: Import path of `run`, as it goes into each message.
ENTRY = "cep.engines.htex_task.run"

_COUNT = struct.Struct("<IH")  # answers, length of the place
_HEAD = struct.Struct("<BdQ")  # begun?, run time in seconds, length of the answer
_LENGTH = struct.Struct("<Q")
_LONGEST_PLACE = 0xFFFF


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one task of a message.

    Attributes:
        begun: False when the worker handed the task back untouched.
        run_time_s: How long it took, deserialization included.
        result: The packed result message; empty when not begun.
    """

    begun: bool
    run_time_s: float
    result: bytes


def pack_bodies(bodies: Sequence[bytes]) -> bytes:
    """Join task messages to one buffer; a single one travels as it is."""
    if len(bodies) == 1:
        return bodies[0]
    return b"".join(part for body in bodies for part in (_LENGTH.pack(len(body)), body))


def _unpack_bodies(buffer: bytes, count: int) -> list[bytes]:
    if count == 1:
        return [buffer]
    bodies = []
    at = 0
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(buffer, at)
        at += _LENGTH.size
        bodies.append(buffer[at : at + length])
        at += length
    return bodies


def pack_answers(answers: Sequence[Answer], place: bytes = b"") -> bytes:
    """Join the answers to the tasks of one message, in their order.

    Args:
        answers: In the order of the tasks.
        place: Where they ran, as `_here` says it.
    """
    parts = [_COUNT.pack(len(answers), len(place)), place]
    for answer in answers:
        parts.append(_HEAD.pack(answer.begun, answer.run_time_s, len(answer.result)))
        parts.append(answer.result)
    return b"".join(parts)


def unpack_answers(frame: bytes) -> list[Answer]:
    """The inverse of `pack_answers`.

    Raises:
        ValueError: This is no such frame.
    """
    try:
        count, place_length = _COUNT.unpack_from(frame)
        at = _COUNT.size + place_length
        answers = []
        for _ in range(count):
            begun, run_time_s, length = _HEAD.unpack_from(frame, at)
            at += _HEAD.size
            if not 0 <= run_time_s < math.inf:
                raise ValueError(f"The worker's answer says that a run took {run_time_s} seconds.")
            if length > len(frame) - at:
                raise ValueError(
                    f"The worker's answer has {len(frame)} bytes instead of {at + length}."
                )
            answers.append(Answer(bool(begun), run_time_s, frame[at : at + length]))
            at += length
    except struct.error as error:
        raise ValueError(f"The worker's answer cannot be read: {error}.") from error
    if at != len(frame):
        raise ValueError(f"The worker's answer has {len(frame)} bytes instead of {at}.")
    return answers


def place_of(frame: bytes) -> tuple[str, str, str]:
    """Block, host and process id of the worker that packed these answers.

    Raises:
        ValueError: It does not say.
    """
    try:
        _, length = _COUNT.unpack_from(frame)
    except struct.error as error:
        raise ValueError(f"The worker's answer cannot be read: {error}.") from error
    words = frame[_COUNT.size : _COUNT.size + length].decode("utf-8", "replace").split("\n")
    if len(words) != 3:
        raise ValueError("The worker's answer does not say where it comes from.")
    return words[0], words[1], words[2]


@functools.cache
def _here() -> bytes:
    """Block (as Parsl's pool names it to its workers), host and process id of this worker."""
    block = os.environ.get("PARSL_WORKER_BLOCK_ID", "")
    return "\n".join((block, platform.node(), str(os.getpid()))).encode()[:_LONGEST_PLACE]


_slots: dict[str, SlotWriter] = {}


def run(
    buffer: bytes,
    tasks: Sequence[tuple[int, str, tuple[str, ...]]],
    context: tuple[Any, ...],
    slots_directory: str | None,
) -> bytes:
    """Run the tasks of one message.

    Args:
        buffer: Their task messages, as `pack_bodies` joined them.
        tasks: For each its sequence number, task id and result serializers; after `DISPATCH_S` no
            further one is begun, and the rest goes back.
        context: The fields of `WorkerContext`, in order.
        slots_directory: Where to mark begun tasks, or None.

    Returns:
        The packed answers; `execute` answers every outcome, so this does not raise.
    """
    worker = WorkerContext(*context)
    marks = _writer(slots_directory)
    began = time.perf_counter()
    answers: list[Answer] = []
    for (seq, task_id, serializers), body in zip(
        tasks, _unpack_bodies(buffer, len(tasks)), strict=True
    ):
        start = time.perf_counter()
        if answers and start - began > DISPATCH_S:
            answers.append(Answer(False, 0.0, b""))
            continue
        if marks is not None:
            marks.begin(seq)
        result = execute(body, task_id, worker, serializers)
        answers.append(Answer(True, time.perf_counter() - start, result))
    return pack_answers(answers, _here())


def _writer(directory: str | None) -> SlotWriter | None:
    if directory is None:
        return None
    writer = _slots.get(directory)
    if writer is None:
        writer = _slots[directory] = SlotWriter(Path(directory))
    return writer
