"""From settings to an engine that is not started yet; only the engine needed is imported.

Runs in the agent's main thread, once.
"""

from __future__ import annotations

from cep.config.settings import EngineSettings, ProcessPoolSettings, ThreadPoolSettings
from cep.engines.base import Engine


def build_engine(settings: EngineSettings) -> Engine:
    """Return the engine that the settings describe.

    Args:
        settings: The `engine:` block of the configuration.
    """
    if isinstance(settings, ThreadPoolSettings):
        from cep.engines.threads import ThreadPoolEngine

        return ThreadPoolEngine(settings)
    if isinstance(settings, ProcessPoolSettings):
        from cep.engines.processes import ProcessPoolEngine

        return ProcessPoolEngine(settings)
    from cep.engines.htex import GlobusComputeEngine

    return GlobusComputeEngine(settings)
