"""What a fuzz target is, and how it reads its choices from the bytes it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

CORPUS = Path(__file__).parent / "corpus"
INPUT_LIMIT_S = 5  # of one input; what takes longer counts as a hang
MEMORY_LIMIT_MB = 1024  # resident memory of a whole target; more counts as unbounded

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """One parser under test.

    Attributes:
        name: As in `make fuzz TARGET=name`; also the corpus's directory.
        about: What is fuzzed, for the table.
        open: Prepares the target; yields the function that takes one input, and raises whatever
            the code under test must not raise.
        seeds: Valid inputs to begin with.
        longest: Bytes of an input.
    """

    name: str
    about: str
    open: Callable[[], AbstractContextManager[Callable[[bytes], None]]]
    seeds: Callable[[], Iterable[bytes]]
    longest: int = 4096


def kept(name: str) -> dict[str, bytes]:
    """The corpus of a target: file name -> input."""
    folder = CORPUS / name
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def name_of(data: bytes) -> str:
    """What an input's file is called when nobody gave it a better name."""
    return hashlib.sha256(data).hexdigest()[:16]


class Source:
    """Choices out of bytes; zeros once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not used yet."""
        return len(self._data) - self._at

    def number(self) -> int:
        """A number from 0 to 255."""
        taken = self.take(1)
        return taken[0] if taken else 0

    def take(self, count: int) -> bytes:
        """So many bytes, or what is left of them."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def piece(self) -> bytes:
        """Some bytes, with their number in front."""
        return self.take(self.number())

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.number() % len(options)]


def piece(data: bytes) -> bytes:
    """Bytes as `Source.piece` reads them."""
    return bytes((len(data),)) + data


def lines(*texts: str) -> Iterator[bytes]:
    """Texts as seeds."""
    for text in texts:
        yield text.encode("utf-8")
