"""The command line's way to an endpoint's systemd unit; loads `cep.boot` only when it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cep.boot.managed import Unit

__all__ = ["Unit", "unit_of"]


def unit_of(root: Path) -> Unit | None:
    """The unit that `enable-on-boot` wrote for the endpoint in this directory, if there is one."""
    from cep.boot.managed import unit_of as found

    return found(root)
