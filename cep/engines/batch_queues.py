"""Which queue the jobs of a provider are in: for looking after jobs without Parsl."""

from __future__ import annotations

from cep.config.settings import ComponentSettings
from cep.engines.batch_queue import BatchQueue
from cep.engines.pbs_queue import PbsQueue
from cep.engines.slurm_queue import SlurmQueue

SLURM = "SlurmProvider"
PBS_PRO = "PBSProProvider"
TORQUE = "TorqueProvider"


def queue_of(provider: ComponentSettings) -> BatchQueue | None:
    """The queue of this provider's jobs; None where jobs cannot be told apart by an endpoint's id.

    Args:
        provider: The provider's settings.
    """
    if provider.type == SLURM:
        clusters = provider.arguments.get("clusters")
        return SlurmQueue(None if clusters is None else str(clusters))
    if provider.type == PBS_PRO:
        return PbsQueue("pro")
    return PbsQueue("torque") if provider.type == TORQUE else None
