"""Starting a detached hub and stopping one; used by `cep hub`, blocking, in the calling thread."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from cep.errors import (
    CantCreate,
    CepError,
    ConfigError,
    DataError,
    NotAllowed,
    SoftwareError,
    TemporaryFailure,
    Unavailable,
    UsageError,
)
from cep.hub.options import SECRET_VARIABLES, HubFiles, HubOptions
from cep.hub.running import RunningHub, read_running
from cep.safety.files import make_directory, open_private

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0
_LAST_LINES = 20

_ERRORS: dict[int, type[CepError]] = {
    kind.exit_code: kind
    for kind in (
        CantCreate,
        ConfigError,
        DataError,
        NotAllowed,
        SoftwareError,
        TemporaryFailure,
        Unavailable,
        UsageError,
    )
}


def start_detached(options: HubOptions) -> RunningHub:
    """Start a hub in a session of its own and wait until it serves.

    Raises:
        CepError: The hub's own sentence and exit code; SoftwareError (70) with the last lines of
            its log when it ended without a word.
    """
    files = HubFiles(options.state_dir)
    try:
        make_directory(files.root)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        output = os.fdopen(open_private(files.log, flags), "ab")
    except OSError as exc:
        raise CantCreate(f"The state directory {files.root} cannot be used: {exc}.") from exc
    values = {**asdict(options), "state_dir": str(options.state_dir)}
    reading, writing = os.pipe()
    with output, os.fdopen(reading, "rb") as news:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "cep.hub", str(writing)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
                cwd=files.root,
                # Addresses with passwords go through the pipe only.
                env={key: one for key, one in os.environ.items() if key not in SECRET_VARIABLES},
                start_new_session=True,
            )
        finally:
            os.close(writing)
        assert child.stdin is not None
        with suppress(BrokenPipeError), child.stdin:
            child.stdin.write(json.dumps(values).encode())
        answer = _read_news(news.fileno())
    if "ready" in answer:
        running = read_running(files)
        if running is not None:
            # The hub outlives us; it is not ours to wait for.
            child.returncode = 0
            return running
    child.kill()
    child.wait()
    if "error" in answer:
        kind = _ERRORS.get(int(answer["exit_code"]), SoftwareError)
        raise kind(str(answer["error"]), hint=answer.get("hint"))
    raise SoftwareError(
        "The hub ended before it served.", hint=f"The end of {files.log}:\n{_tail(files)}"
    )


def _read_news(descriptor: int) -> dict[str, Any]:
    """Read until the other side closes the pipe; nothing after the deadline."""
    raw = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], START_DEADLINE_S)
        chunk = os.read(descriptor, 65536) if ready else b""
        if not chunk:
            break
        raw += chunk
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _tail(files: HubFiles) -> str:
    with suppress(OSError):
        lines = files.log.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:])
    return ""


def stop(files: HubFiles) -> bool:
    """Stop the hub that serves from this directory and wait until it is gone.

    Returns:
        False when none serves.

    Raises:
        TemporaryFailure: It has not ended in time.
        NotAllowed: It belongs to another account.
    """
    running = read_running(files)
    if running is None:
        return False
    try:
        descriptor = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return False
    try:
        if not running.is_alive():  # the pid was given anew between the two looks
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        ended, _, _ = select.select([descriptor], [], [], STOP_DEADLINE_S)
    except ProcessLookupError:
        return True
    except PermissionError as exc:
        raise NotAllowed(f"The hub (process {running.pid}) belongs to another account.") from exc
    finally:
        os.close(descriptor)
    if not ended:
        raise TemporaryFailure(
            f"The hub (process {running.pid}) has not ended within {STOP_DEADLINE_S:g} s.",
            hint=f"Its log is {files.log}.",
        )
    return True
