"""The contest for a lease: among many starts at once, on any hosts, exactly one gets it.

A lease comes into being whole (a hard link to a finished file, under a name that must be free). A
stale one is replaced only by the process that holds the *claim* on it, a file named after the stale
lease's token that can exist once; a claim whose maker died is claimed in the same way. Whoever has
the claim looks again whether all is as it was when judged, and only then replaces.

Owns the files it makes beside the lease; runs on the agent's main thread.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from cep.agent.host import Host, is_endpoint
from cep.agent.lease_file import (
    Lease,
    Standing,
    beside,
    decode,
    describe,
    judge,
    name_of,
    published_pid,
    read_bytes,
    sync_directory,
)
from cep.errors import AlreadyRunning, CantCreate
from cep.paths import EndpointPaths
from cep.safety.files import link_exclusively, write_new

log = logging.getLogger(__name__)

_GARBAGE_AGE_S = 60
_ROUNDS = 1000  # a contender that never wins and never finds a holder stops here


class Contender:
    """One process that wants the lease: look, claim, look again, replace."""

    def __init__(self, paths: EndpointPaths, lease: Lease, here: Host, take_over: bool) -> None:
        self._paths = paths
        self._lease = lease
        self._here = here
        self._take_over = take_over
        self._new = beside(paths, f"new-{lease.token}")

    def win(self) -> bool:
        """Get the lease.

        Returns:
            Whether an earlier life had left its lease or pid file behind.

        Raises:
            AlreadyRunning: Another process has it.
            OSError: The directory cannot be written.
        """
        write_new(self._new, self._lease.encode())
        try:
            for _ in range(_ROUNDS):
                found = read_bytes(self._paths.lease)
                if found is None:
                    crashed = self._published_was_here()
                    if self._create(self._paths.lease):
                        break
                elif self._replace(found):
                    crashed = True
                    break
            else:
                raise CantCreate(
                    f"The lease {self._paths.lease} can be neither read nor made. Remove it if it "
                    "is not a regular file, and look at its file system."
                )
        finally:
            self._new.unlink(missing_ok=True)
        sync_directory(self._paths.lease.parent)
        self._sweep()
        return crashed

    def _published_was_here(self) -> bool:
        """Whether a published endpoint left its pid file; one that lives is not disturbed."""
        pid = published_pid(self._paths)
        if pid is not None and is_endpoint(pid) and pid != os.getpid():
            raise AlreadyRunning(
                f"Endpoint {self._paths.name} is already running here as process {pid}, started "
                "by another program than this one.",
                hint=f"Stop it first: cep stop {self._paths.name}",
            )
        return self._paths.pid_file.exists()

    def _replace(self, found: bytes) -> bool:
        """Replace a stale lease; False when the world changed meanwhile and must be read again."""
        chain = [found]
        while True:
            self._refuse_living(chain[-1])
            claim = beside(self._paths, f"after-{name_of(chain[-1])}")
            if self._create(claim):
                break
            earlier = read_bytes(claim)
            if earlier is None:
                return False
            chain.append(earlier)
        try:
            if not self._unchanged(chain):
                return False
            write_new(self._new, self._lease.encode(), again=True)
            self._new.rename(self._paths.lease)
        finally:
            claim.unlink(missing_ok=True)
        for link in chain[:-1]:
            beside(self._paths, f"after-{name_of(link)}").unlink(missing_ok=True)
        return True

    def _unchanged(self, chain: list[bytes]) -> bool:
        """Whether, now that the claim is ours, everything is as it was when we judged it."""
        names = [self._paths.lease]
        names += [beside(self._paths, f"after-{name_of(link)}") for link in chain[:-1]]
        return all(
            (now := read_bytes(name)) is not None and name_of(now) == name_of(then)
            for name, then in zip(names, chain, strict=True)
        )

    def _refuse_living(self, data: bytes) -> None:
        other = decode(data)
        if other is None:
            log.warning(
                "the lease %s cannot be understood and is replaced",
                self._paths.lease,
                extra={"event": "lease.garbled"},
            )
            return
        standing = judge(other, self._here)
        name = self._paths.name
        if standing is Standing.ALIVE:
            raise AlreadyRunning(
                f"Endpoint {name} is already running: process {other.pid} on this host "
                f"({other.host}).",
                hint=f"Stop it first: cep stop {name}",
            )
        if standing is Standing.DEAD or self._take_over:
            return
        raise AlreadyRunning(
            f"Endpoint {name} belongs to {describe(other)}"
            + (
                ", and that host has been silent since."
                if standing is Standing.SILENT
                else ", and it runs there."
            ),
            hint=f"Stop it there:          ssh {other.host} cep stop {name}\n"
            f"If that host is gone:   cep start {name} --take-over",
        )

    def _create(self, name: Path) -> bool:
        """Put our lease under a name that must be free; False when it is not."""
        try:
            link_exclusively(self._new, name)
        except FileExistsError:
            return False
        except FileNotFoundError:  # swept by a winner who took us for a relic
            write_new(self._new, self._lease.encode(), again=True)
            return False
        return True

    def _sweep(self) -> None:
        """Remove what contenders that died long ago left behind."""
        newest = self._paths.lease.stat().st_mtime
        for pattern in ("new-*", "after-*", "old-*"):
            for file in self._paths.lease.parent.glob(f"{self._paths.lease.name}.{pattern}"):
                with suppress(OSError):
                    if file.stat().st_mtime < newest - _GARBAGE_AGE_S:
                        file.unlink()
