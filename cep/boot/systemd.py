"""The systemd of this host: its version, its commands, and the user's own service manager."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from cep.errors import ConfigError, Unavailable

# Exists exactly while systemd is the service manager; sd_booted(3).
BOOTED = Path("/run/systemd/system")
SYSTEM_UNITS = Path("/etc/systemd/system")
LINGER = Path("/var/lib/systemd/linger")
COMMAND_S = 60.0
# A user's manager comes up in about a second; a host that boots takes longer.
MANAGER_S = 30.0
# `enable --now` returns when the endpoint is ready, which may include `endpoint_setup`.
START_S = 2 * 3600.0
_ABOUT_A_UNIT = re.compile(r"(?P<path>/\S+\.(?:service|socket|target|mount|timer|path|slice)):\d+:")


def is_running() -> bool:
    """Whether systemd manages the services of this host."""
    return BOOTED.is_dir() and shutil.which("systemctl") is not None


def version() -> int | None:
    """Its version, e.g. 252; None without one."""
    if shutil.which("systemctl") is None:
        return None
    done = _run(["systemctl", "--version"])
    found = re.match(r"systemd (\d+)", done.stdout)
    return None if found is None else int(found.group(1))


def user_units(home: Path) -> Path:
    """Where an account keeps its own units."""
    return home / ".config" / "systemd" / "user"


class Manager:
    """systemd itself, or with `user` the present account's own service manager."""

    def __init__(self, *, user: bool) -> None:
        self.user = user
        self._environment = dict(os.environ)
        if user:  # su and sudo leave it out
            runtime = f"/run/user/{os.getuid()}"
            self._environment.setdefault("XDG_RUNTIME_DIR", runtime)

    def answers(self, within_s: float = 0.0) -> bool:
        """Whether the service manager can be talked to.

        Args:
            within_s: Give a user's own manager so long to come up.
        """
        if self._answers_now():
            return True
        if not (self.user and within_s):
            return False
        from cep.boot.user_manager import wait_for  # `cep start` seldom waits here

        wait_for(Path(self._environment["XDG_RUNTIME_DIR"]), within_s)
        return self._answers_now()

    def _answers_now(self) -> bool:
        return self.ask("show", "--property=Version").returncode == 0

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run systemctl, whatever comes of it."""
        scope = ["--user"] if self.user else []
        return _run(["systemctl", *scope, *words], self._environment, START_S)

    def do(self, *words: str) -> None:
        """Run systemctl.

        Raises:
            Unavailable: It refused; the message has its words.
        """
        done = self.ask(*words)
        if done.returncode != 0:
            command = " ".join(["systemctl", *(["--user"] if self.user else []), *words])
            raise Unavailable(
                f"{command} failed with status {done.returncode}: {_said(done)}",
                hint=None
                if "start" not in words and "--now" not in words
                else (
                    f"What it says of the unit: systemctl "
                    f"{'--user ' if self.user else ''}status {words[-1]}"
                ),
            )

    def is_enabled(self, unit: str) -> bool:
        """Whether it starts at boot."""
        return self.ask("is-enabled", "--quiet", unit).returncode == 0

    def property(self, unit: str, name: str) -> str:
        """One property of a unit, as text; empty where there is none."""
        return self.ask("show", f"--property={name}", "--value", unit).stdout.strip()

    def main_pid(self, unit: str) -> int | None:
        """The service's process, if it runs."""
        text = self.property(unit, "MainPID")
        return int(text) if text.isdigit() and text != "0" else None

    def verify(self, unit: str, text: str) -> None:
        """Have systemd read a unit before it is installed, where it brings what is needed for it.

        Raises:
            ConfigError: It has something to say about it.
        """
        if shutil.which("systemd-analyze") is None:
            return
        import tempfile  # `cep start` looks for a unit, and verifies none

        with tempfile.TemporaryDirectory(prefix="cep-unit-") as directory:
            path = Path(directory) / unit
            path.write_text(text, encoding="utf-8")
            environment = {**self._environment, "SYSTEMD_LOG_LEVEL": "warning"}
            if self.user and not Path(environment["XDG_RUNTIME_DIR"]).is_dir():
                environment["XDG_RUNTIME_DIR"] = directory
            scope = ["--user"] if self.user else []
            words = ["systemd-analyze", *scope, "verify", "--man=no", str(path)]
            done = _run(words, environment)
        # Its answer's status is 0 even for words it does not know, so what counts is what it says.
        said = [line for line in _lines(done) if _concerns(line, path)]
        if said or (done.returncode != 0 and not _lines(done)):
            raise ConfigError(
                f"systemd does not accept the unit {unit}, so it was not installed: "
                + ("; ".join(said) or f"systemd-analyze ended with {done.returncode}")
            )


def lingers(account: str) -> bool:
    """Whether an account's services run without a login."""
    return (LINGER / account).exists()


def set_lingering(account: str, wanted: bool) -> bool:
    """Let an account's services run without a login, or no longer; whether it worked.

    The account is named also when it is our own: without a name loginctl looks at the session that
    it is called in, and there is none after `su`, `sudo -u` or in a container.
    """
    word = "enable-linger" if wanted else "disable-linger"
    return (
        shutil.which("loginctl") is not None and _run(["loginctl", word, account]).returncode == 0
    )


def _concerns(line: str, path: Path) -> bool:
    """Whether a line is not about some other unit of this host."""
    about = _ABOUT_A_UNIT.match(line)
    return about is None or Path(about["path"]).name == path.name


def _run(
    words: list[str], environment: dict[str, str] | None = None, limit_s: float = COMMAND_S
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"{' '.join(words)} did not end within {limit_s:g} s.") from exc


def _lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(_lines(done)) or "(it said nothing)"
