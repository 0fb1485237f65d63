"""The agent's log in the journal of systemd: fields, priorities, a journal that takes nothing."""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cep.agent.journal_log import LONGEST, JournalHandler, is_journal


class Journal:
    """The receiving end, as journald has it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(60)

    def hears(self) -> dict[str, str]:
        """The fields of the next entry, read as the protocol has them."""
        rest, fields = self.socket.recv(1 << 20), {}
        while rest:
            line, _, rest = rest.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack("<Q", rest[:8])
                value, rest = rest[8 : 8 + length], rest[9 + length :]
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "socket")
    yield made
    made.socket.close()


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[JournalHandler]:
    made = JournalHandler("lab", "globus-compute-endpoint-lab", tmp_path / "socket")
    yield made
    made.close()


def record(text: str, *arguments: object, level: int = logging.INFO, **extra: object) -> object:
    made = logging.LogRecord("cep.x", level, "/f.py", 7, text, arguments, None, "act")
    vars(made).update(extra)
    return made


def emit(handler: JournalHandler, *arguments: object, **words: object) -> None:
    handler.emit(record(*arguments, **words))  # type: ignore[arg-type]


def test_a_record_is_one_entry_with_fields(handler: JournalHandler, journal: Journal) -> None:
    handler.endpoint_id = "the-id"
    emit(handler, "block %s came", 3, event="blocks.came", block="3", job="77", task_id="t-1")
    entry = journal.hears()
    assert entry["MESSAGE"] == "block 3 came"
    assert entry["PRIORITY"] == "6"
    assert entry["SYSLOG_IDENTIFIER"] == "globus-compute-endpoint-lab"
    assert (entry["CEP_ENDPOINT"], entry["CEP_ENDPOINT_ID"]) == ("lab", "the-id")
    assert (entry["CEP_BLOCK"], entry["CEP_JOB"], entry["CEP_TASK"]) == ("3", "77", "t-1")
    assert entry["CEP_EVENT"] == "blocks.came"
    assert (entry["CODE_FILE"], entry["CODE_LINE"], entry["CODE_FUNC"]) == ("/f.py", "7", "act")


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, "7"), (logging.WARNING, "4"), (logging.ERROR, "3"), (logging.CRITICAL, "2")],
)
def test_levels_are_those_of_syslog(
    handler: JournalHandler, journal: Journal, level: int, priority: str
) -> None:
    emit(handler, "x", level=level)
    assert journal.hears()["PRIORITY"] == priority


def test_no_value_can_make_a_field_of_its_own(handler: JournalHandler, journal: Journal) -> None:
    emit(handler, "a\nPRIORITY=0\x1b[2J", block="1\nCEP_ENDPOINT=other", **{"no name": 1})
    entry = journal.hears()
    assert entry["MESSAGE"].startswith("a\nPRIORITY=0")
    assert "\x1b" not in entry["MESSAGE"]
    assert entry["PRIORITY"] == "6"
    assert entry["CEP_ENDPOINT"] == "lab"
    assert entry["CEP_BLOCK"] == "1\nCEP_ENDPOINT=other"
    assert not [name for name in entry if " " in name]


def test_no_secret_is_sent_and_a_traceback_is_part_of_the_text(
    handler: JournalHandler, journal: Journal
) -> None:
    try:
        raise ValueError("client_secret=hunter2")
    except ValueError:
        emit(handler, "it failed", exc_info=sys.exc_info(), event="password: hunter2")
    entry = journal.hears()
    assert "Traceback" in entry["MESSAGE"]
    assert "hunter2" not in str(entry)


def test_a_long_text_is_cut(handler: JournalHandler, journal: Journal) -> None:
    emit(handler, "x" * (2 * LONGEST))
    assert len(journal.hears()["MESSAGE"]) == LONGEST


def test_what_a_journal_that_is_away_has_lost_is_counted(
    handler: JournalHandler, tmp_path: Path
) -> None:
    for _ in range(3):
        emit(handler, "lost")
    journal = Journal(tmp_path / "socket")
    emit(handler, "heard")
    assert journal.hears()["MESSAGE"] == "3 lines are missing here: the journal did not take them"
    assert journal.hears()["MESSAGE"] == "heard"
    journal.socket.close()


def test_a_journal_that_reads_nothing_stops_nobody(
    handler: JournalHandler, journal: Journal
) -> None:
    for _ in range(5000):  # far more than a socket holds
        emit(handler, "x" * 1000)
    heard = 0
    while journal.hears()["MESSAGE"].startswith("x"):
        heard += 1
        emit(handler, "y")
    assert 0 < heard < 5000


def test_only_the_stream_that_systemd_made_counts_as_its_journal(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        found = os.fstat(file.fileno())
        stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(stream, file.fileno())
        assert not is_journal({"JOURNAL_STREAM": "1:2"}, file.fileno())
        assert not is_journal({}, file.fileno())
