"""Where audit lines go: a file that is only ever appended to, or the system's journal.

One writer per process, used by one thread. A batch is one `write`, and no line is flushed to the
disk one by one: a crash of the process loses nothing that was written, a crash of the host may
lose the last seconds, as with every log. A line is a JSON object; the values that the caller puts
into it are ids, codes, names and numbers, never arguments or results.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from cep.errors import AuditUnwritable, CantCreate, ConfigError
from cep.safety.files import open_private
from cep.safety.text import printable

JOURNALD = "journald"
#: Source: systemd.journal-fields(7), "Native Journal Protocol".
JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
MAX_BYTES = 64 * 1024 * 1024  # of one file
BACKUPS = 9  # older files of that size: 640 MiB in all, about 800,000 tasks
_SEND_TIMEOUT_S = 2.0  # journald that takes nothing for so long counts as gone
_INFO = "6"  # syslog(3)

Line: TypeAlias = Mapping[str, Any]
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Trail(Protocol):
    """What takes audit lines."""

    @property
    def where(self) -> str:
        """Where they go, for people."""

    def append(self, lines: Sequence[Line]) -> None:
        """Take all lines, in order.

        Raises:
            AuditUnwritable: Some could not be taken; `taken` says how many were.
        """

    def close(self) -> None:
        """Let go of what was opened. Idempotent."""


def now_text() -> str:
    """The time as audit lines have it: UTC, ISO 8601, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def open_trail(target: str, base: Path) -> Trail:
    """Open what `audit_log:` or `--audit-log` names.

    Args:
        target: `journald`, or a file; a relative one lies in `base`.
        base: The directory for a relative file.

    Raises:
        ConfigError: There is no journal to write to.
        CantCreate: The file cannot be opened.
    """
    if target == JOURNALD:
        return JournalTrail(JOURNAL_SOCKET)
    return FileTrail(base / Path(target).expanduser())


def check_target(target: str) -> None:
    """See that a target can be had on this host, and open nothing.

    Raises:
        ConfigError: There is no journal to write to.
    """
    if target == JOURNALD:
        JournalTrail(JOURNAL_SOCKET).close()


class FileTrail:
    """A file of mode 0600, opened to append, followed through `logrotate` and bounded.

    Args:
        path: The file. When somebody moves it away, the next batch begins a new one.
        max_bytes: Size at which it is moved to `PATH.1` (and that to `PATH.2`, and so on).
        backups: How many such older files are kept.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, backups: int = BACKUPS) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._torn = False
        self._descriptor = -1
        try:
            self._open()
        except OSError as exc:
            raise CantCreate(
                f"The audit log {path} cannot be opened: {exc.strerror or exc}."
            ) from exc

    @property
    def where(self) -> str:
        """The file."""
        return str(self._path)

    def append(self, lines: Sequence[Line]) -> None:
        """Write all lines at once; see `Trail.append`."""
        encoded = [_encode(line).encode() + b"\n" for line in lines]
        try:
            self._follow()
        except OSError as exc:
            raise self._unwritable(exc, 0) from exc
        # What a full disk cut off and would not let us take back stays a line of its own.
        data = (b"\n" if self._torn else b"") + b"".join(encoded)
        start = self._size
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as exc:
            raise self._unwritable(exc, self._keep_whole(encoded, start, written)) from exc
        self._torn = False
        self._size += written

    def _keep_whole(self, encoded: Sequence[bytes], start: int, written: int) -> int:
        """Cut the file after its last whole line; returns how many lines of the batch it has."""
        whole = 1 if self._torn and written else 0
        taken = 0
        for line in encoded:
            if whole + len(line) > written:
                break
            whole += len(line)
            taken += 1
        try:
            os.ftruncate(self._descriptor, start + whole)
            self._torn = self._torn and not written
        except OSError:  # a file with the attribute `append only` refuses this
            self._torn = self._torn or written > whole
        return taken

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = open_private(self._path, flags)
        found = os.fstat(self._descriptor)
        self._place = (found.st_dev, found.st_ino)
        self._size = found.st_size

    def _follow(self) -> None:
        """Begin a new file when this one was moved away, removed, or is full."""
        if self._descriptor < 0:
            self._open()
            return
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            found = None
        if found is not None and (found.st_dev, found.st_ino) == self._place:
            self._size = found.st_size  # `copytruncate` makes it smaller
            if self._size < self._max_bytes or not self._size:
                return
            self._rotate()
        self.close()
        self._open()
        self._torn = False

    def _rotate(self) -> None:
        for number in range(self._backups - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _unwritable(self, exc: OSError, taken: int) -> AuditUnwritable:
        return AuditUnwritable(
            f"The audit log {self._path} cannot be written: {exc.strerror or exc}. "
            "Nothing that it must tell of is done until it can be.",
            taken=taken,
        )


class JournalTrail:
    """The system's journal, each line an entry with fields `CEP_...` and the JSON as its message.

    Args:
        path: journald's socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_SEND_TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except OSError as exc:
            self._socket.close()
            raise ConfigError(
                f"The audit log is to go to journald, and its socket {path} cannot be reached: "
                f"{exc.strerror or exc}.",
                hint="Give a file in place of journald, or start on a host with systemd-journald.",
            ) from exc

    @property
    def where(self) -> str:
        """The journal."""
        return JOURNALD

    def append(self, lines: Sequence[Line]) -> None:
        """Send one datagram for each line; see `Trail.append`."""
        for taken, line in enumerate(lines):
            try:
                self._send(_entry(line))
            except OSError as exc:
                raise AuditUnwritable(
                    f"The journal does not take audit entries: {exc.strerror or exc}. "
                    "Nothing that they must tell of is done until it does.",
                    taken=taken,
                ) from exc

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.send(entry)
        except TimeoutError:
            raise
        except OSError:  # refused or not connected any more: journald was restarted
            self._socket.connect(str(self._path))
            self._socket.send(entry)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _entry(line: Line) -> bytes:
    """The line in the native protocol: `FIELD=value` lines, no value with a line break."""
    fields = [f"MESSAGE={_encode(line)}", f"PRIORITY={_INFO}", "SYSLOG_IDENTIFIER=cep-audit"]
    for key, value in line.items():
        if value is not None:
            text = value if isinstance(value, str) else _encode(value)
            fields.append(f"CEP_{key.upper()}={printable(text)}")
    return ("\n".join(fields) + "\n").encode("utf-8", "backslashreplace")
