"""`logs` of an endpoint that systemd runs: from the journal, by journalctl."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from cep.cli import managed

_ASK_S = 30.0


def command(unit: managed.Unit, name: str, *more: str, block: str | None = None) -> list[str]:
    """The command line that shows what an endpoint's agent and systemd say of it.

    Args:
        unit: The endpoint's unit.
        name: The endpoint's name.
        more: Options.
        block: Only of this block.
    """
    words = ["journalctl", "--no-pager", "--output=short-iso", "--quiet", *more]
    own = [
        f"SYSLOG_IDENTIFIER={unit.name.removesuffix('.service')}",  # what the unit prints
        f"SYSLOG_IDENTIFIER=globus-compute-endpoint-{name}",  # and what its agent logs
    ]
    block_matches = [] if block is None else [f"CEP_BLOCK={block}"]
    if unit.manager.user:
        whose, of_systemd = [f"_SYSTEMD_USER_UNIT={unit.name}"], [f"USER_UNIT={unit.name}"]
        words.append("--user")
    else:
        # Whoever may write to the journal can call a record one of this unit, but for these two.
        whose, of_systemd = [f"_SYSTEMD_UNIT={unit.name}"], [f"UNIT={unit.name}", "_PID=1"]
    matches = [*whose, *own, *block_matches]
    return [*words, *matches, *([] if block else ["+", *of_systemd])]


def why_not(unit: managed.Unit, name: str) -> str | None:
    """Why the journal cannot be shown to this account; None when it can.

    A unit's first line is there from its first start on, so an empty journal is one that this
    account may not read (or that is gone: it may not survive a reboot).
    """
    if shutil.which("journalctl") is None:
        return "the program journalctl was not found"
    try:
        done = subprocess.run(
            command(unit, name, "--lines=1"),
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_ASK_S,
        )
    except subprocess.TimeoutExpired:
        return f"journalctl did not answer within {_ASK_S:g} s"
    if done.returncode == 0 and done.stdout.strip():
        return None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        return said or f"journalctl ended with status {done.returncode}"
    return (
        "it shows this account nothing of it; groups that may read all of it are systemd-journal "
        "and adm"
    )


def show(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start journalctl; the caller reads what it prints."""
    return subprocess.Popen(list(words), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
