"""The process engine passes the engine contract, and keeps its own promises."""

from __future__ import annotations

from typing import Any

from cep.config.settings import ProcessPoolSettings
from cep.engines.base import Engine
from cep.engines.processes import ProcessPoolEngine
from tests.unit.engine_contract import (
    EngineContract,
    IsolatedContract,
    QueueContract,
    RefusesResourcesContract,
    StartSlotsContract,
)


class TestProcessPoolEngine(
    EngineContract, IsolatedContract, QueueContract, RefusesResourcesContract, StartSlotsContract
):
    """All of the contract."""

    def make_engine(self, *, workers: int = 2, **common: Any) -> Engine:
        return ProcessPoolEngine(ProcessPoolSettings(max_workers=workers, **common))
