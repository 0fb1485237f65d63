"""The thread engine passes the engine contract, and shares nothing it should not share."""

from __future__ import annotations

from typing import Any

from cep.config.settings import ThreadPoolSettings
from cep.engines.base import Engine
from cep.engines.threads import ThreadPoolEngine
from tests.unit.engine_contract import (
    EngineContract,
    QueueContract,
    RefusesResourcesContract,
    StartSlotsContract,
)


class TestThreadPoolEngine(
    EngineContract, QueueContract, RefusesResourcesContract, StartSlotsContract
):
    """All of the contract except what needs processes."""

    def make_engine(self, *, workers: int = 2, **common: Any) -> Engine:
        return ThreadPoolEngine(ThreadPoolSettings(max_workers=workers, **common))
