"""`start --foreground` by a service manager: what may fail before the agent speaks for itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cep.errors import CepError, TemporaryFailure

_SOCKET = "NOTIFY_SOCKET"


@contextmanager
def reasons_told() -> Iterator[None]:
    """Leave the reason of a failure in `systemctl status`, where a service manager started us."""
    try:
        yield
    except CepError as error:
        if _SOCKET in os.environ:  # the agent takes it away, and tells what fails from then on
            from cep.agent.notify import Notify

            Notify.of(os.environ).failed(error)
        raise


def check_reachable(base: Path, name: str) -> None:
    """Make sure that the endpoint's directory can be looked at, when nobody is there to ask.

    At boot a home may not be mounted yet, or need a ticket that only a login brings.

    Raises:
        TemporaryFailure: It cannot be looked at now; the service manager tries again.
    """
    if _SOCKET not in os.environ:
        return
    try:
        (base / name / "config.yaml").stat()
    except FileNotFoundError as error:
        if base.is_dir():
            return  # the endpoint is missing, which is another sentence
        raise TemporaryFailure(
            f"The directory {base} is not there; its file system may not be mounted yet."
        ) from error
    except OSError as error:
        raise TemporaryFailure(
            f"The directory {base} cannot be read now: {error.strerror}. If it needs a ticket or a "
            "login, there is none yet."
        ) from error


def service_environment() -> Mapping[str, str]:
    """The environment, with the credentials that a service manager laid out."""
    from cep.agent.credentials import from_directory

    return {**from_directory(os.environ), **os.environ}
