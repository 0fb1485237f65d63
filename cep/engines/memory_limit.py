"""Whether the kernel has killed a process of this service for its memory limit (MemoryMax=).

Reads the count of such kills of the control group that this process is in; it starts at nothing
when systemd makes the group. Both kinds of control groups are read. Nothing here fails: where
nothing is to be read, no kill is known. For one thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_OWN = Path("/proc/self/cgroup")
_MOUNTS = Path("/proc/self/mountinfo")
_UNLIMITED = 1 << 60  # bytes; the older kind has a number near 2**63 for "no limit"


class MemoryLimit:
    """Counts kills from its construction on.

    Args:
        own: As /proc/self/cgroup: proc(5), cgroups(7).
        mounts: As /proc/self/mountinfo: proc(5).
    """

    def __init__(self, own: Path = _OWN, mounts: Path = _MOUNTS) -> None:
        self._own = own
        self._mounts = mounts
        self._seen: dict[Path, int] = {}
        self.killed()

    def killed(self) -> str:
        """A sentence when the kernel has killed since the last call; empty when not."""
        told = ""
        for group in self._groups():
            kills = _kills(group)
            if kills > self._seen.get(group, 0):
                told = (
                    "The processes of the endpoint's service together had reached its memory limit"
                    f"{_limit(group)}, so the kernel killed one of them."
                )
            self._seen[group] = kills
        return told

    def _groups(self) -> Iterator[Path]:
        """The directories of our control groups that may have a memory limit."""
        try:
            own = self._own.read_text(encoding="utf-8", errors="replace")
            mounts = self._mounts.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        ours = dict(_group(line) for line in own.splitlines() if line.count(":") >= 2)
        for line in mounts.splitlines():
            mount = _mount(line)
            if mount is None:
                continue
            place, top, kind = mount
            path = ours.get("" if kind == "cgroup2" else "memory")
            if path is not None and (path + "/").startswith(top.rstrip("/") + "/"):
                yield place / path[len(top.rstrip("/")) :].lstrip("/")


def _group(line: str) -> tuple[str, str]:
    """`4:memory:/a` -> the controller and the group; the newer kind has no controller's name."""
    _, controllers, path = line.split(":", 2)
    return ("memory" if "memory" in controllers.split(",") else controllers), path


def _mount(line: str) -> tuple[Path, str, str] | None:
    """Where control groups with memory are mounted, which of them is its top, and its kind."""
    before, _, after = line.partition(" - ")
    fields, kind = before.split(), after.split()
    if len(fields) < 5 or len(kind) < 3:
        return None
    if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
        return Path(fields[4]), fields[3], kind[0]
    return None


def _kills(group: Path) -> int:
    for name in ("memory.events", "memory.oom_control"):
        try:
            found = re.search(r"^oom_kill (\d+)$", (group / name).read_text(), re.M)
        except OSError:
            continue
        return 0 if found is None else int(found.group(1))
    return 0


def _limit(group: Path) -> str:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            text = (group / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < _UNLIMITED:
            return f" of {int(text)} bytes"
    return ""
