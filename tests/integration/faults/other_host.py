"""Another host, as far as an agent can tell: a name, ids and a mount of its own.

Two FUSE mounts of one directory stand for two hosts that share a home: each grants its locks by
itself, as NFS does with local locks. The agent's command runs in namespaces where the other mount
lies at the home's place and the host's name, machine id and boot id are others. Only the network
is shared, so the broker can be reached.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

MACHINE_ID = Path("/etc/machine-id")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SCRIPT = """
set -e
hostname "$1"
mount --bind "$2" "$3"
mount --bind "$4" "$5"
if [ -e "$7" ]; then mount --bind "$6" "$7"; fi
shift 7
exec "$@"
"""


def why_not() -> str | None:
    """Why this machine cannot be two hosts, or None."""
    if shutil.which("unshare") is None:
        return "the command unshare is missing"
    done = subprocess.run(
        ["unshare", "--mount", "--uts", "true"], check=False, capture_output=True, text=True
    )
    return None if done.returncode == 0 else f"no namespaces can be made ({done.stderr.strip()})"


@dataclass(frozen=True)
class OtherHost:
    """One of them.

    Attributes:
        name: Its host name.
        prefix: What to put before a command to run it there.
        variables: Environment of its processes: a runtime directory of its own.
    """

    name: str
    prefix: list[str]
    variables: dict[str, str]


def other_host(name: str, mount: Path, home: Path, scratch: Path) -> OtherHost:
    """Make a host.

    Args:
        name: Its host name.
        mount: Its own mount of the shared directory.
        home: Where that directory lies on every host.
        scratch: A directory for its files.
    """
    scratch.mkdir(mode=0o700)
    boot, machine, runtime = scratch / "boot", scratch / "machine", scratch / "run"
    boot.write_text(f"{uuid4()}\n")
    machine.write_text(f"{uuid4().hex}\n")
    runtime.mkdir(mode=0o700)
    words = [name, mount, home, boot, BOOT_ID, machine, MACHINE_ID]
    unshare = ["unshare", "--mount", "--uts", "sh", "-c", _SCRIPT, "sh"]
    return OtherHost(name, [*unshare, *map(str, words)], {"XDG_RUNTIME_DIR": str(runtime)})
