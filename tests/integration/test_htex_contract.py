"""GlobusComputeEngine passes the engine contract, on blocks of this host."""

from __future__ import annotations

from typing import Any

from cep.config.settings import HtexSettings
from cep.engines.base import Engine
from cep.engines.htex import GlobusComputeEngine
from tests.unit.engine_contract import (
    EngineContract,
    IsolatedContract,
    QueueContract,
    RefusesResourcesContract,
    StartSlotsContract,
)


class TestGlobusComputeEngine(
    EngineContract, IsolatedContract, QueueContract, RefusesResourcesContract, StartSlotsContract
):
    """All of the contract: workers are processes on this host, and tasks can be taken back."""

    def make_engine(self, *, workers: int = 2, **common: Any) -> Engine:
        htex = {"max_workers_per_node": workers, "cores_per_worker": 0.01}
        return GlobusComputeEngine(HtexSettings(htex=htex, **common))
