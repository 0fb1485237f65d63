"""The agent's log: a bounded file, the journal of systemd or a console, and no secret in any.

The file also takes what the process itself writes to standard output and error (a detached agent
has no terminal), and takes it with it when it is rotated.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cep.agent.journal_log import JournalHandler
from cep.agent.log_writer import LogWriter, missing
from cep.config.settings import LogSettings
from cep.safety.files import append_text
from cep.safety.logs import SafeFormatter

log = logging.getLogger(__name__)

FORMAT = "%(asctime)sZ %(levelname)s %(process)d %(threadName)s %(name)s: %(message)s"


class RedactingFormatter(SafeFormatter):
    """The format of the agent's log: UTC, no secret, nothing that a terminal obeys."""

    def __init__(self) -> None:
        super().__init__(FORMAT, "%Y-%m-%dT%H:%M:%S")


def copy_and_empty(source: Path, target: Path, most_bytes: int) -> None:
    """Move the end of a log's content, and leave the file itself where it is.

    What is written between the two steps is lost. On a full disk the copy is given up: the old
    content goes, which makes room.
    """
    try:
        target.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with source.open("rb") as old, os.fdopen(os.open(target, flags, 0o600), "wb") as new:
            old.seek(max(0, source.stat().st_size - most_bytes))
            shutil.copyfileobj(old, new)
    except OSError:
        with suppress(OSError):
            target.unlink()
    os.truncate(source, 0)


class LogFile(logging.handlers.RotatingFileHandler):
    """A rotating file of mode 0600 that can also carry the process's own output.

    It is emptied after a copy, and not renamed: workers hold it open as their own output, and what
    they print would go on into a file that nobody sees and nobody bounds.

    After a line that could not be written (a full disk, a stale handle) the file is opened anew
    for the next one; the first that succeeds is followed by the number of those that are missing.
    """

    def __init__(self, path: Path, settings: LogSettings, *, take_output: bool) -> None:
        self._take_output = take_output
        self._failed = False
        self._lost = 0
        super().__init__(
            path, maxBytes=settings.max_bytes, backupCount=settings.backups, encoding="utf-8"
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or only see to the file's size."""
        self._failed = False
        if hasattr(record, "size_only"):
            try:
                if self.shouldRollover(record):
                    self.doRollover()
            except OSError:
                self._let_go()
            return
        super().emit(record)
        if self._lost and not self._failed:
            super().emit(missing(self._lost, "they could not be written"))
            self._lost = 0

    def handleError(self, record: logging.LogRecord) -> None:
        """Count the line as lost, and let go of the file."""
        del record
        self._failed = True
        self._lost += 1
        self._let_go()

    def _let_go(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            with suppress(OSError):
                stream.close()

    def rotate(self, source: str, dest: str) -> None:
        """Move the content of the present file into the newest of the older ones."""
        if source == self.baseFilename:
            copy_and_empty(Path(source), Path(dest), self.maxBytes)
        else:
            super().rotate(source, dest)

    def doRollover(self) -> None:
        """Rotate; the file itself stays, so that standard output and error need not follow."""
        if not self.backupCount:
            os.truncate(self.baseFilename, 0)
        super().doRollover()

    def _open(self) -> io.TextIOWrapper:
        """Open the file, and let standard output and error follow to it."""
        stream = append_text(self.baseFilename)
        assert isinstance(stream, io.TextIOWrapper)
        if self._take_output:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        return stream


def keep_bounded() -> None:
    """See to the size of the log file also when it is not the log that fills it.

    Workers print into it. Cheap; any thread.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFile) or not isinstance(handler, logging.StreamHandler):
            handler.handle(logging.makeLogRecord({"size_only": True, "levelno": logging.INFO}))


def change(settings: LogSettings, *, debug: bool) -> None:
    """Other bounds and another level, from the next line on; any thread.

    Older files beyond a smaller number stay.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    for handler in root.handlers:
        if isinstance(handler, LogWriter) and isinstance(handler.target, LogFile):
            handler.target.maxBytes = settings.max_bytes
            handler.target.backupCount = settings.backups


def set_up(
    path: Path,
    settings: LogSettings,
    *,
    debug: bool,
    console: bool,
    detached: bool,
    journal: JournalHandler | None = None,
) -> None:
    """Send the log of the whole process to `path`, and to the journal or to standard error.

    Args:
        path: The log file.
        settings: Its bounds.
        debug: Log more.
        console: Log to standard error too; where a journal is, that would be everything twice.
        detached: There is no standard error; the file takes what the process prints.
        journal: Of a service that systemd has started.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    file = LogFile(path, settings, take_output=detached)
    file.setFormatter(RedactingFormatter())
    root.addHandler(LogWriter(file))
    if journal is not None:
        root.addHandler(journal)
    elif console and not detached:
        terminal = logging.StreamHandler()
        terminal.setFormatter(RedactingFormatter())
        root.addHandler(terminal)
    _free_own_logger(keep=not detached and not console and journal is None)
    # Libraries speak of their own matters at info; ours are what an operator reads.
    for library in ("parsl", "urllib3", "globus_sdk"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _unexpected
    threading.excepthook = _unexpected_in_thread


def _unexpected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An error that nobody caught goes to the log, where no secret in it is shown."""
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("unexpected error", exc_info=(kind, error, trace), extra={"event": "agent.fault"})


def _unexpected_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or args.exc_type is SystemExit:
        return
    log.critical(
        "unexpected error in thread %s",
        args.thread.name if args.thread is not None else "?",
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        extra={"event": "agent.fault"},
    )


def _free_own_logger(*, keep: bool) -> None:
    """Undo what a command has set up for itself, which would hide everything below a warning.

    Args:
        keep: Its handler goes on to show warnings at the terminal, where nothing else does.
    """
    own = logging.getLogger("cep")
    level = own.level
    own.setLevel(logging.NOTSET)
    for handler in list(own.handlers):
        if keep:
            handler.setLevel(level)
        else:
            own.removeHandler(handler)


def identify(endpoint_id: str) -> None:
    """Tell the system's journal from now on which endpoint this is."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, JournalHandler):
            handler.endpoint_id = endpoint_id
