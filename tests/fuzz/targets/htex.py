"""What comes from the interchange and, through it, from workers: messages, frames, events."""

from __future__ import annotations

import contextlib
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cep.engines.base import EngineEvent
from cep.engines.blocks import ScalingRules
from cep.engines.breaker import BlockBreaker
from cep.engines.htex_executor import read_message
from cep.engines.htex_session import Session
from cep.engines.htex_task import Answer, pack_answers, unpack_answers
from cep.engines.plain_pickle import loads
from cep.model import Outcome, Task
from tests.fuzz.target import Source, Target

TASK = Task(3, "11111111-2222-3333-4444-555555555555", "f" * 8, b"body")


def _session(deliver: Callable[[EngineEvent], None]) -> Session:
    """A session that only hears, with one task under way as message 9."""
    executor: Any = SimpleNamespace(
        provider=SimpleNamespace(cancel=None), job_words=None, refusal_of=None
    )
    session = Session(
        executor,
        ScalingRules(0, 0, 1, 1.0, 1, "simple", 60.0, 60.0),
        BlockBreaker(),
        provider_type="LocalProvider",
        expected_workers_per_node=1,
        context=(),
        slots_directory=None,
        coalesce=True,
        deliver=deliver,
        died=lambda _session: None,
    )
    session._flights[9] = (TASK,)
    session._flight_of[TASK.seq] = 9
    return session


def plain(data: bytes) -> None:
    """Only plain values come out, as the real unpickler would read them."""
    with contextlib.suppress(pickle.UnpicklingError):
        value = loads(data)
        with contextlib.suppress(ValueError, RecursionError):  # a list that holds itself
            assert len(repr(value)) < 10_000_000


def frame(data: bytes) -> None:
    """A worker's answer."""
    with contextlib.suppress(ValueError):
        answers = unpack_answers(data)
        assert pack_answers(answers) == data or any(data)


def message(data: bytes) -> None:
    """A message on the results channel, taken as the session's thread takes it."""
    try:
        received = read_message(data)
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError):
        return
    outcomes: list[Outcome] = []

    def deliver(event: EngineEvent) -> None:
        outcomes.extend(getattr(event, "outcomes", ()))

    session = _session(deliver)
    session._take([received])
    assert all(outcome.seq == TASK.seq for outcome in outcomes)
    assert len(outcomes) <= 1


PARSERS = (plain, frame, message)


def one(data: bytes) -> None:
    """The first byte chooses who reads."""
    source = Source(data)
    source.pick(PARSERS)(source.rest())


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    yield one


def seeds() -> Iterator[bytes]:
    """Messages of each kind, and pickles that ask for memory, classes and depth."""
    done = pack_answers([Answer(True, 0.5, b"result")])
    yield b"\x01" + done
    yield b"\x01" + pack_answers([Answer(True, 1.0, b"x"), Answer(False, 0.0, b"")])
    yield b"\x01" + struct.pack("<I", 2**32 - 1)
    messages: list[Any] = [
        {"type": "result", "task_id": 9, "result": b"02\n" + pickle.dumps(done)},
        {"type": "result", "task_id": 9, "result": b"02\n" + pickle.dumps(5)},
        {"type": "result", "task_id": 9, "result": 5},
        {"type": "result", "task_id": 1e999, "result": b""},
        {"type": "result", "task_id": 9, "exception": b"x"},
        {"type": "result", "task_id": 9, "cep_lost": "gone"},
        {
            "type": "cep",
            "event": "registered",
            "manager": "m",
            "block": "0",
            "workers": 2,
            "host": "h",
            "parsl_version": "1",
            "python_version": "3",
            "endpoint_version": None,
            "sdk_version": None,
            "dill_version": None,
        },
        {"type": "cep", "event": "draining", "manager": "m"},
        {"type": "cep", "event": "gone", "manager": "m", "block": "0", "ids": [9]},
        {"type": "cep", "event": "retired", "blocks": ["0"]},
        {"type": "cep", "event": "cancelled", "ids": [9]},
        {"type": "cep", "event": "unreachable", "manager": "m", "block": "0"},
        {"type": "cep", "event": "gone", "manager": [], "block": 0, "ids": None},
    ]
    for each in messages:
        for protocol in (2, 4, 5):
            yield b"\x00" + pickle.dumps(each, protocol)
            yield b"\x02" + pickle.dumps(each, protocol)
    yield b"\x00Nr\xff\xff\xff\x3f0N."
    yield b"\x00\x80\x04" + b"(" * 200
    yield b"\x00\x80\x04\x8e" + b"\xff" * 8
    yield b"\x00\x80\x04]\x94h\x00a."
    yield b"\x00" + pickle.dumps(Path("x"))


TARGET = Target("htex", "messages of the interchange and of workers", _open, seeds)
