"""The error tree on one page: every error of ours, its exit code, and its hint.

Exit codes are those of BSD's sysexits.h, as the published endpoint uses them, so that systemd,
Ansible and scripts can tell a wrong configuration (do not restart) from a passing trouble (do).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class CepError(Exception):
    """Base of all errors of cep: a full sentence for people, and an exit code for programs.

    Args:
        message: What failed, with which value, and what to do, as a sentence.
        hint: An optional second line: the command to run or the line to change.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class UsageError(CepError):
    """The command line asks for something that does not exist or was refused by rule."""

    exit_code = 64


class DataError(CepError):
    """Data from outside (the service's answer, a message, a journal) cannot be understood."""

    exit_code = 65


class WireError(DataError):
    """Bytes from the wire are not the message they should be.

    Args:
        message: What is wrong, as a sentence.
        hint: As for every error here.
        task_id: The task the message was about (canonical UUID text), when that much was readable.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, task_id: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.task_id = task_id


class JournalError(DataError):
    """The journal is corrupt, foreign, or of a newer schema; it was left untouched."""


class BodyLost(JournalError):
    """The file of one task's body or result is gone or cut; the rest of the journal is whole."""


class InputMissing(CepError):
    """A file or an input that the command needs is not there."""

    exit_code = 66


class Unavailable(CepError):
    """A service refused us for now or is not there: port in use, registration blocked, no hub."""

    exit_code = 69


class SoftwareError(CepError):
    """Something that should not happen inside cep."""

    exit_code = 70


class EngineError(SoftwareError):
    """The engine cannot be started or has broken beyond what it can mend itself."""


class CantCreate(CepError):
    """A file, a lease or a directory cannot be made or belongs to somebody else."""

    exit_code = 73


class AlreadyRunning(CantCreate):
    """Another agent of this endpoint holds the lease."""


class LeaseLost(CantCreate):
    """Another agent took the lease over; this one must stop and touch nothing more."""


class DiskUnfit(CantCreate):
    """A directory's file system cannot be trusted with what we keep there, or is full."""


class AuditUnwritable(DiskUnfit):
    """The audit log takes no more lines, so what it must tell of is not done either.

    Args:
        message: What is wrong, as a sentence.
        hint: As for every error here.
        taken: How many lines of the batch it has taken nevertheless, from the first on.
    """

    def __init__(self, message: str, *, hint: str | None = None, taken: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.taken = taken


class TemporaryFailure(CepError):
    """The network or a remote service does not answer; trying again later may help."""

    exit_code = 75


class NotAllowed(CepError):
    """Credentials are missing, wrong or revoked; trying again without a change will not help."""

    exit_code = 77


class PeerUntrusted(NotAllowed):
    """Whoever answers at an address is not who it must be: a wrong certificate, or a port of this
    host that is somebody else's. No credential was sent. A running agent goes on trying."""


class ConfigError(CepError):
    """The configuration is wrong, or `endpoint_setup` failed; nothing was started."""

    exit_code = 78


def revived(word: Mapping[str, Any], otherwise: type[CepError] = SoftwareError) -> CepError:
    """An error that another process of ours told, as an exception of the same class.

    Args:
        word: `error` (the sentence), `hint` and `kind` (the class's name), where there are any.
        otherwise: The class where none of ours is named.
    """
    kind = globals().get(str(word.get("kind")), otherwise)
    if not (isinstance(kind, type) and issubclass(kind, CepError)):
        kind = otherwise
    hint = word.get("hint")
    return kind(str(word.get("error")), hint=None if hint is None else str(hint))


def told(error: CepError) -> dict[str, Any]:
    """An error as `revived` reads it."""
    return {"error": error.message, "hint": error.hint, "kind": type(error).__name__}
