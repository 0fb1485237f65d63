"""Credentials leave the agent's environment before anything else is started.

What the agent starts (workers, batch jobs, containers, `endpoint_setup`) inherits its environment,
and any program of the same user can read the environment a process was started with in
/proc/PID/environ. So what carries a credential is taken out of both, and only the login keeps it.
Runs in the main thread at the very start.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

from cep.errors import NotAllowed

#: Beside the secrets, the ids that are of no use (and an error in the SDK) without them, and what
#: systemd means for the service's main process only (systemd.exec(5), sd_notify(3)).
NAMES = frozenset(
    (
        "GLOBUS_COMPUTE_CLIENT_ID",
        "GLOBUS_COMPUTE_CLIENT_SECRET",
        "FUNCX_SDK_CLIENT_ID",
        "FUNCX_SDK_CLIENT_SECRET",
        "CREDENTIALS_DIRECTORY",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
    )
)
#: Names of the files in `CREDENTIALS_DIRECTORY` that stand for variables.
FILES = {
    "client-id": "GLOBUS_COMPUTE_CLIENT_ID",
    "client-secret": "GLOBUS_COMPUTE_CLIENT_SECRET",
}
#: Others of the service's and our own that are named as credentials. What other programs use (a
#: user's cloud keys, say) is the user's to hand to tasks, or not.
_PATTERN = re.compile(r"(GLOBUS|FUNCX|CEP)_\w*(SECRET|TOKEN|PASSWORD|PASSPHRASE|CREDENTIAL)\w*")
# Places in /proc/PID/stat of where the first environment lies, counted after the name: proc(5).
_ENV_START, _ENV_END = 50 - 3, 51 - 3


def is_credential(name: str) -> bool:
    """Whether a variable must not be inherited by what the agent starts."""
    return name in NAMES or _PATTERN.fullmatch(name) is not None


def secrets_in(taken: Mapping[str, str]) -> list[str]:
    """The values among taken variables that must never be written anywhere."""
    return [value for name, value in taken.items() if _PATTERN.fullmatch(name) and value]


def split(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the environment without the credentials, and the credentials."""
    plain = {name: value for name, value in environ.items() if not is_credential(name)}
    return plain, {name: value for name, value in environ.items() if name not in plain}


def from_directory(taken: Mapping[str, str]) -> dict[str, str]:
    """What the service manager laid out in `CREDENTIALS_DIRECTORY` (systemd's LoadCredential=).

    Args:
        taken: The variables that were taken out of the environment.

    Returns:
        The same as environment variables would have said.

    Raises:
        NotAllowed: A credential is there and cannot be read.
    """
    directory = taken.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    found = {}
    for name, variable in FILES.items():
        path = Path(directory) / name
        try:
            # Who may read it is systemd's care: it may be root's, with an access list for us.
            found[variable] = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise NotAllowed(f"The credential {path} cannot be read: {error}.") from error
    return found


def take(environ: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Take the credentials out of this process's environment, and return them.

    The block that /proc/PID/environ shows is overwritten too, where the system lets us.
    """
    _, taken = split(environ)
    for name in taken:
        del environ[name]
    with contextlib.suppress(OSError, ValueError, IndexError):
        _wipe(taken)
    return taken


def _wipe(names: Iterable[str]) -> None:
    """Overwrite these variables where the kernel put them when the program was started.

    Nothing points there any more: they were unset before.
    """
    import ctypes  # `cep start` only splits, and waits for what it loads

    words = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    numbers = words.rpartition(")")[2].split()
    start, end = int(numbers[_ENV_START]), int(numbers[_ENV_END])
    if not 0 < start < end:
        return
    wanted = {os.fsencode(name) for name in names}
    at = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        if entry.partition(b"=")[0] in wanted:
            ctypes.memset(at, 0, len(entry))
        at += len(entry) + 1
