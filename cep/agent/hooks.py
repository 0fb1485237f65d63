"""`endpoint_setup` and `endpoint_teardown`: the user's shell scripts around the agent's life.

Each is one `/bin/sh` script, run as a child in its own process group, so that it can neither
change the endpoint's environment nor outlive a stop.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from pathlib import Path

from cep.errors import ConfigError

log = logging.getLogger(__name__)

# How many lines of a failed script's output go into the message.
SHOWN_LINES = 20


def run_setup(script: str, cwd: Path, due_mark: Path, limit_s: float | None = None) -> None:
    """Run `endpoint_setup`; from its first moment on a teardown is owed.

    Args:
        script: The shell script.
        cwd: Where it runs.
        due_mark: File that says that a teardown is owed.
        limit_s: Seconds that it may take.

    Raises:
        ConfigError: The script ended with another status than 0; the message has its status and
            its last lines.
    """
    due_mark.touch(mode=0o600)
    try:
        status, output = _run(script, cwd, limit_s)
    except subprocess.TimeoutExpired as exc:
        due_mark.unlink()
        raise ConfigError(
            f"endpoint_setup did not end within {limit_s:g} s (endpoint_setup_timeout) and was "
            "ended, so the endpoint was not started."
        ) from exc
    if status != 0:
        due_mark.unlink()
        raise ConfigError(
            f"endpoint_setup failed with status {status}, so the endpoint was not started. "
            f"Its last output:\n{_tail(output)}"
        )
    log.info("endpoint_setup finished", extra={"event": "hooks.setup"})


def run_teardown(script: str | None, cwd: Path, due_mark: Path) -> None:
    """Run `endpoint_teardown`, if there is one; its failure is logged and changes nothing."""
    if script:
        status, output = _run(script, cwd)
        if status != 0:
            log.error(
                "endpoint_teardown failed with status %s; its last output:\n%s",
                status,
                _tail(output),
                extra={"event": "hooks.teardown"},
            )
        else:
            log.info("endpoint_teardown finished", extra={"event": "hooks.teardown"})
    due_mark.unlink(missing_ok=True)


def _run(script: str, cwd: Path, limit_s: float | None = None) -> tuple[int, str]:
    # The script may hold what is nobody else's business, and `ps` shows everybody's arguments.
    file = os.memfd_create("script")
    try:
        os.write(file, script.encode())
        return _run_file(f"/dev/fd/{file}", file, cwd, limit_s)
    finally:
        os.close(file)


def _run_file(path: str, descriptor: int, cwd: Path, limit_s: float | None) -> tuple[int, str]:
    with subprocess.Popen(
        ["/bin/sh", path],
        pass_fds=(descriptor,),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    ) as child:
        try:
            output, _ = child.communicate(timeout=limit_s)
        except BaseException:
            # A stop request or the limit ends the wait; the script must not go on without us.
            os.killpg(child.pid, signal.SIGTERM)
            raise
    return child.returncode, output


def _tail(output: str) -> str:
    return "\n".join(output.splitlines()[-SHOWN_LINES:]) or "(no output)"
