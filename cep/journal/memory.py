"""What the journal knows without asking the disk: every id, and the state of every live task.

Ids are held as 16 bytes. Owns no file; runs on the agent's main thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from cep.errors import DataError, SoftwareError


@dataclass(slots=True)
class Live:
    """A task that is unfinished or unsent.

    Attributes:
        key: Its id.
        size: Bytes of its body, and from `finish` on of its result.
        committed: A row of it stands on disk, in whichever state.
        attempts: How often it was handed to an engine and not handed back untouched.
        given: It is, or was at the crash, in an engine's hands.
        finished: It has a result.
        ack_on_its_way: Its ack was sent on a channel that still stands.
        ack_proven: The broker has processed its ack.
        damaged: The file of its body or result is gone.
    """

    key: bytes
    size: int
    committed: bool = False
    attempts: int = 0
    given: bool = False
    finished: bool = False
    ack_on_its_way: bool = False
    ack_proven: bool = False
    damaged: bool = False


class Memory:
    """Every task the journal knows.

    Attributes:
        ids: id -> sequence number, of live tasks and tombstones.
        live: sequence number -> live task, in order of acceptance.
        next_seq: The number of the next task.
        unfinished: How many live tasks have no result.
        unfinished_bytes: The bytes of their bodies.
    """

    def __init__(self, next_seq: int) -> None:
        self.ids: dict[bytes, int] = {}
        self.live: dict[int, Live] = {}
        self.next_seq = next_seq
        self.unfinished = 0
        self.unfinished_bytes = 0

    def enter(
        self, task_id: str, size: int, *, finished: bool, key: bytes | None = None
    ) -> tuple[int, Live]:
        """Give a new task its sequence number.

        Args:
            task_id: UUID text.
            size: Bytes of its body or result.
            finished: It comes with its result.
            key: The 16 bytes of its id, from who has them already.

        Raises:
            DataError: The task id is not a UUID.
            SoftwareError: The task is known already.
        """
        key = key or key_of(task_id)
        if key is None:
            raise DataError(f"The task id {task_id!r} is not a UUID.")
        if key in self.ids:
            raise SoftwareError(f"Task {task_id} is in the journal already.")
        seq = self.next_seq
        self.next_seq = seq + 1
        live = Live(key, size, finished=finished)
        self.ids[key] = seq
        self.live[seq] = live
        if not finished:
            self.unfinished += 1
            self.unfinished_bytes += size
        return seq, live

    def restore(self, seq: int, live: Live) -> None:
        """Take in a task that an earlier life left on disk."""
        self.ids[live.key] = seq
        self.live[seq] = live
        if not live.finished:
            self.unfinished += 1
            self.unfinished_bytes += live.size

    def finish(self, live: Live, result_size: int) -> None:
        """Turn an unfinished task into an unsent result."""
        if not live.finished:
            self.unfinished -= 1
            self.unfinished_bytes -= live.size
        live.finished = True
        live.damaged = False
        live.size = result_size

    def forget(self, seq: int, live: Live) -> None:
        """Drop a live task and its id."""
        if not live.finished:
            self.unfinished -= 1
            self.unfinished_bytes -= live.size
        del self.live[seq]
        del self.ids[live.key]

    def unfinished_task(self, seq: int) -> Live:
        """Return a task without a result.

        Raises:
            SoftwareError: There is none of this number.
        """
        live = self.live.get(seq)
        if live is None or live.finished:
            raise SoftwareError(f"The journal has no unfinished task of number {seq}.")
        return live

    def is_unfinished(self, seq: int) -> bool:
        """Whether a task of this number has no result yet."""
        live = self.live.get(seq)
        return live is not None and not live.finished

    def is_unsent(self, seq: int) -> bool:
        """Whether a task of this number has a result that is not settled."""
        live = self.live.get(seq)
        return live is not None and live.finished

    @property
    def tombstones(self) -> int:
        """How many answered tasks are remembered."""
        return len(self.ids) - len(self.live)


def key_of(task_id: str) -> bytes | None:
    """Return the 16 bytes of a UUID, or None when the text is not one."""
    try:
        key = bytes.fromhex(task_id.replace("-", ""))
    except ValueError:
        return None
    return key if len(key) == 16 else None


def text_of(key: bytes) -> str:
    """Return the canonical text of 16 bytes: the opposite of `key_of`."""
    digits = key.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
