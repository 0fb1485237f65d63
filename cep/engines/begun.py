"""What local workers of an earlier life had truly begun; read once, at start, by the agent."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from cep.config.settings import EngineSettings, HtexSettings
from cep.worker import slots

# A ring that no worker writes: it says that this life's workers keep slots here.
_AGENT_RING = "agent"


def workers_are_local(settings: EngineSettings) -> bool:
    """Whether all workers of this engine run on the agent's own host and see its directories."""
    if not isinstance(settings, HtexSettings):
        return True
    # In a container a worker has process ids and directories of its own.
    return settings.provider.type == "LocalProvider" and settings.container_type is None


def begun_before(start_slots: Path) -> Set[int] | None:
    """Tasks that workers of the earlier life had begun, or None when that is not known.

    It is not known after a reboot, and when the earlier life's workers ran on other hosts.
    """
    return slots.begun_seqs(start_slots) if slots.written_this_boot(start_slots) else None


def begin_slots(start_slots: Path, settings: EngineSettings) -> None:
    """Forget the earlier life's slots; with local workers, note that this life keeps some."""
    slots.clear(start_slots)
    if workers_are_local(settings):
        slots.SlotWriter(start_slots, _AGENT_RING).close()
