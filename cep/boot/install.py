"""Unit files and the credentials beside them on disk: put there, found again, taken away.

Only what carries our mark (`cep.boot.unit.Mark`) is ever changed or removed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from cep.boot.unit import CREDENTIALS_SINCE, Mark, is_published, read_mark
from cep.errors import AlreadyRunning, CantCreate, InputMissing

#: Credentials of system units: root's alone; systemd hands them to the service.
CREDENTIALS = Path("/etc/cep/credentials")
CLIENT_ID, CLIENT_SECRET = "GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET"
_FILES = {"client-id": CLIENT_ID, "client-secret": CLIENT_SECRET}
_COPY = ".before-cep"
#: Of a home; made for an account's first unit, and taken away again while they are empty.
_USER_FOLDERS = (".config", "systemd", "user")


def check_place(path: Path, mark: Mark, *, replace: bool) -> None:
    """Make sure that the unit file may be written.

    Raises:
        CantCreate: Another's file is there.
    """
    text = _read(path)
    if text is None:
        return
    there = read_mark(text)
    if there is not None:
        if there.directory == mark.directory and there.user == mark.user:
            return
        raise CantCreate(
            f"{path} is the unit of endpoint {there.endpoint} of user {there.user} "
            f"({there.directory}).",
            hint="Choose another name for yours: --unit-name NAME",
        )
    if not is_published(text):
        raise CantCreate(
            f"{path} was not written by cep, and is left as it is.",
            hint="Remove it yourself, or choose another name: --unit-name NAME",
        )
    if not replace:
        raise CantCreate(
            f"{path} was written by the published endpoint.",
            hint="Take it over with --replace; a copy of it is kept.",
        )


def put(path: Path, text: str) -> bool:
    """Write a unit file unless it has that text already; a file of another is copied first.

    Returns:
        Whether anything was changed.
    """
    there = _read(path)
    if there == text:
        return False
    if there is not None and read_mark(there) is None:
        _write(path.with_name(path.name + _COPY), there, 0o644)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, text, 0o644)
    return True


def installed(directory: Path, folder: Path) -> Iterator[tuple[Path, Mark]]:
    """Unit files of an endpoint's directory in a folder, whatever their names."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob("*.service")):
            mark = None if path.is_symlink() else read_mark(_read(path) or "")
            if mark is not None and mark.directory == str(directory):
                yield path, mark


def mark_at(path: Path) -> Mark | None:
    """The mark of the unit file there, if it is one of ours."""
    return read_mark(_read(path) or "")


def own_text(path: Path) -> str | None:
    """The text of the unit file there, if it is one of ours."""
    text = _read(path)
    return text if text is not None and read_mark(text) is not None else None


class Credentials:
    """A client's id and secret for one unit, where only systemd or the account can read them.

    Args:
        unit: The unit's name.
        user: For a user unit: the endpoint's directory keeps them; else `CREDENTIALS`.
        directory: The endpoint's directory.
        version: Of systemd; older ones and user managers take a file of variables.
    """

    def __init__(self, unit: str, *, user: bool, directory: Path, version: int) -> None:
        self._loads = not user and version >= CREDENTIALS_SINCE
        self._folder = directory if user else CREDENTIALS / unit.removesuffix(".service")
        self._variables = self._folder / ("service.env" if user else "environment")

    @property
    def to_load(self) -> tuple[tuple[str, str], ...]:
        """For LoadCredential=: name and file."""
        if not self._loads:
            return ()
        return tuple((name, str(self._folder / name)) for name in _FILES)

    @property
    def environment_file(self) -> str | None:
        """For EnvironmentFile=, where nothing can be loaded."""
        return None if self._loads else str(self._variables)

    @property
    def files(self) -> tuple[str, ...]:
        """What is written."""
        return tuple(path for _, path in self.to_load) or (str(self._variables),)

    def there(self) -> bool:
        """Whether they were written before."""
        return all(Path(path).exists() for path in self.files)

    def stored(self) -> dict[str, str] | None:
        """The two variables of the client that was written; None without one.

        Raises:
            CantCreate: They cannot be read.
        """
        if not self.there():
            return None
        texts = [_read(Path(path)) or "" for path in self.files]
        if self._loads:
            return dict(zip(_FILES.values(), (text.strip() for text in texts), strict=True))
        words = shlex.split(texts[0])
        return dict(word.split("=", 1) for word in words if "=" in word)

    def put(self, identity: Mapping[str, str]) -> None:
        """Write them, mode 0600.

        Args:
            identity: The two variables of a client.
        """
        if not self._folder.is_dir():
            self._folder.mkdir(mode=0o700, parents=True)
        if self._loads:
            for name, path in self.to_load:
                _write(Path(path), identity[_FILES[name]] + "\n", 0o600)
        else:
            lines = [f'{name}="{_quoted(identity[name])}"\n' for name in _FILES.values()]
            _write(self._variables, "".join(lines), 0o600)


def remove(path: Path) -> list[Path]:
    """Remove a unit file of ours and the credentials written for it; returns what went.

    Raises:
        InputMissing: There is none.
    """
    mark = mark_at(path)
    if mark is None:
        raise InputMissing(f"{path} is no unit file of cep.")
    gone = []
    for name in (str(path), *mark.credentials):
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
            gone.append(Path(name))
    for folder in {Path(name).parent for name in mark.credentials if name}:
        if CREDENTIALS in folder.parents:
            for empty in (folder, CREDENTIALS, CREDENTIALS.parent):
                with contextlib.suppress(OSError):  # it holds other things
                    empty.rmdir()
    if path.parent.parts[-len(_USER_FOLDERS) :] == _USER_FOLDERS:
        for folder in list(path.parents)[: len(_USER_FOLDERS)]:
            with contextlib.suppress(OSError):
                folder.rmdir()
    return gone


def refuse_running(name: str, pid: int, host: str) -> None:
    """Say that a copy runs that somebody started by hand.

    Raises:
        AlreadyRunning: Always.
    """
    raise AlreadyRunning(
        f"Endpoint {name} runs already, started by hand (pid {pid} on {host}); a service would be "
        "a second copy.",
        hint=f"Stop it first: cep stop {name}",
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CantCreate(f"{path} cannot be read: {exc.strerror}.") from exc


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file whole or not at all."""
    import tempfile  # `cep start` looks for a unit, and writes none

    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise CantCreate(f"{path} cannot be written: {exc.strerror}.") from exc


def _quoted(value: str) -> str:
    return "".join("\\" + one if one in '\\"$`' else one for one in value)
