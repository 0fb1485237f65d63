"""Worker sets for `cep worker-sets`: the door from the command line to the engines.

Needs no endpoint and touches none. One thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def make(
    directory: Path,
    pythons: Sequence[str],
    *,
    wheels: Path | None,
    machine: str | None,
    glibc: str | None,
    download: bool,
) -> Iterator[dict[str, Any]]:
    """Make a set for each of some Pythons; yields its description as soon as it is there.

    Args:
        directory: That of all sets.
        pythons: Versions as `3.12`, or paths of interpreters; none: the endpoint's own.
        wheels: Where wheels lie, or None.
        machine: As `x86_64`; None: this host's.
        glibc: The oldest that must do, or None.
        download: Ask the package index even where the endpoint's own packages would do.

    Raises:
        UsageError: No set can be made for one of them; none was made then.
        CepError: See `cep.engines.worker_sets.add`.
    """
    from cep.engines import worker_sets

    from_wheels = wheels is not None
    targets = [
        worker_sets.target_of(python, machine, glibc, from_wheels=from_wheels)
        for python in pythons or (None,)
    ]
    for target in targets:
        made = worker_sets.add(directory, target, wheels, download=download)
        yield worker_sets.as_json(made)


def sets_of(directory: Path) -> list[dict[str, Any]]:
    """The descriptions of all sets."""
    from cep.engines import worker_sets

    return [worker_sets.as_json(found) for found in worker_sets.found_in(directory)]


def remove(directory: Path, name: str) -> None:
    """Remove a set.

    Raises:
        UsageError, InputMissing, CantCreate: See `cep.engines.worker_sets.remove`.
    """
    from cep.engines import worker_sets

    worker_sets.remove(directory, name)
