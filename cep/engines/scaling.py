"""The numbers of blocks: from an engine's settings to the scaler's rules, at the start and later.

Parsl's provider has the numbers as attributes; reports read them there too.
"""

from __future__ import annotations

from typing import Any

from cep.config.components import PROVIDERS
from cep.config.settings import HtexSettings
from cep.engines.blocks import ScalingRules

_NUMBERS = ("init_blocks", "min_blocks", "max_blocks", "parallelism")


def rules(settings: HtexSettings, provider: Any) -> ScalingRules:
    """Return how many blocks there are to be when.

    Args:
        settings: The engine's configuration.
        provider: Parsl's, or one of ours, made from it.
    """
    return ScalingRules(
        init_blocks=provider.init_blocks,
        min_blocks=provider.min_blocks,
        max_blocks=provider.max_blocks,
        parallelism=provider.parallelism,
        nodes_per_block=provider.nodes_per_block,
        strategy=settings.strategy,
        max_idle_s=settings.max_idletime_s,
        period_s=settings.strategy_period_s,
    )


def put(settings: HtexSettings, provider: Any) -> None:
    """Give a provider that is in use the numbers of other settings."""
    component = settings.provider
    defaults = {key.name: key.default for key in PROVIDERS[component.type]}
    for name in _NUMBERS:
        setattr(provider, name, component.arguments.get(name, defaults[name]))
