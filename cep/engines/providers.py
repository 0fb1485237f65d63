"""From checked settings to Parsl's providers, launchers and addresses.

Pure construction: nothing is submitted or bound here. Names that Parsl does not have are refused
with the ones it has.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines.addresses import own_address
from cep.engines.batch_queues import PBS_PRO, SLURM, TORQUE
from cep.engines.begun import workers_are_local
from cep.engines.container_leftovers import containers_of
from cep.engines.containers import Container, container_of
from cep.engines.scheduler_command import bound_parsl_commands
from cep.engines.worker_logs import SCRIPTS
from cep.errors import ConfigError

log = logging.getLogger(__name__)

LOCAL = "LocalProvider"
GRID_ENGINE = "GridEngineProvider"
LOOPBACK = "127.0.0.1"
#: A node that cannot reach the endpoint says so after this time, in seconds. Parsl's 30 would hide
#: a wrong address for minutes, while an interchange that lives answers at once.
ADDRESS_PROBE_S = 8
#: This host's own address cannot be wrong: only a host that is very busy takes so long.
LOOPBACK_PROBE_S = 60
_LAUNCHER = "launcher"


def provider_of(
    settings: HtexSettings, *, mark: Mapping[str, str], run_dir: Path, tag: str = ""
) -> Any:
    """Build the provider.

    Args:
        settings: The engine's configuration.
        mark: Environment variables for blocks of this host.
        run_dir: The endpoint's run directory.
        tag: Goes into the names of batch jobs: `ENDPOINT.LIFE`; empty for none.

    Raises:
        ConfigError: Its name or its launcher's is unknown, or Parsl refuses the arguments.
    """
    import parsl.providers

    bound_parsl_commands()
    component = settings.provider
    arguments = dict(component.arguments)
    launcher = arguments.get(_LAUNCHER)
    if isinstance(launcher, ComponentSettings):
        arguments[_LAUNCHER] = _launcher(launcher)
    if component.type == LOCAL:
        from cep.engines.local_blocks import LocalBlocks

        provider = _call(
            "engine.provider",
            LocalBlocks,
            arguments,
            mark=mark,
            run_dir=run_dir,
            containers=containers_of(settings, tag),
            workers_note=workers_are_local(settings),
        )
    elif component.type in (SLURM, PBS_PRO, TORQUE):
        kind = _batch_blocks(component.type)
        provider = _call("engine.provider", kind, arguments, name=component.type, tag=tag)
    elif component.type == GRID_ENGINE:
        from cep.engines.gridengine_blocks import GridEngineBlocks

        provider = _call("engine.provider", GridEngineBlocks, arguments, name=component.type)
    else:
        kind = _named("engine.provider", parsl.providers, component.type, "Provider")
        provider = _call("engine.provider", kind, arguments)
    scripts = run_dir / SCRIPTS
    scripts.mkdir(parents=True, exist_ok=True, mode=0o700)
    provider.script_dir = str(scripts)
    return provider


def _batch_blocks(provider: str) -> Any:
    """Our own class in the place of one of Parsl's batch providers."""
    if provider == SLURM:
        from cep.engines.slurm_blocks import SlurmBlocks

        return SlurmBlocks
    from cep.engines.pbs_blocks import PbsProBlocks, TorqueBlocks

    return PbsProBlocks if provider == PBS_PRO else TorqueBlocks


def _launcher(component: ComponentSettings) -> Any:
    import parsl.launchers

    where = "engine.provider.launcher"
    kind = _named(where, parsl.launchers, component.type, "Launcher")
    return _call(where, kind, dict(component.arguments))


def address_of(settings: HtexSettings, container: Container | None) -> str:
    """Return the address that workers connect to, and the only one that is listened on.

    Workers on this host need the loopback address only, so that nothing listens on the network,
    unless they are in a container with a network of its own.

    Raises:
        ConfigError: The address cannot be found out.
    """
    address = settings.address
    if isinstance(address, str):
        return address
    if isinstance(address, ComponentSettings):
        import parsl.addresses

        known = sorted(name for name in vars(parsl.addresses) if name.startswith("address_by_"))
        if address.type not in known:
            raise ConfigError(_unknown("engine.address", address.type, known))
        probe = getattr(parsl.addresses, address.type)
        try:
            return str(probe(**dict(address.arguments)))
        except Exception as error:
            raise ConfigError(
                f"engine.address: {address.type} found no address: {error}.",
                hint="Give the address itself, or another way to find it.",
            ) from error
    if settings.provider.type == LOCAL and (container is None or container.shares_network):
        return LOOPBACK
    chosen = own_address()
    log.info(
        "workers reach this host at %s; engine.address in the configuration sets another",
        chosen,
        extra={"event": "htex.address"},
    )
    return chosen


def htex_arguments(settings: HtexSettings, address: str = "") -> dict[str, Any]:
    """Return what HighThroughputExecutor takes beyond provider, address and label.

    Args:
        settings: The engine's configuration.
        address: Where workers connect to.

    Raises:
        ConfigError: A key cannot be had together with this endpoint's own interchange.
    """
    arguments = {key: value for key, value in settings.htex.items() if value is not None}
    on_this_host = settings.provider.type == LOCAL and address == LOOPBACK
    probe_s = LOOPBACK_PROBE_S if on_this_host else ADDRESS_PROBE_S
    arguments.setdefault("address_probe_timeout", probe_s)
    arguments.pop("block_error_handler", None)  # blocks are judged by cep.engines.blocks
    interchange = arguments.pop("interchange_launch_cmd", None)
    if interchange is not None and list(interchange) != ["interchange.py"]:
        raise ConfigError(
            "engine.interchange_launch_cmd cannot be set: the endpoint starts an interchange of "
            "its own, which tells it about workers that come and go. Remove the key."
        )
    if "worker_port_range" in arguments:
        arguments["worker_port_range"] = tuple(arguments["worker_port_range"])
    selector = arguments.pop("manager_selector", None)
    if isinstance(selector, ComponentSettings):
        arguments["manager_selector"] = _selector(selector)
    return arguments


def _selector(component: ComponentSettings) -> Any:
    from parsl.executors.high_throughput import manager_selector

    where = "engine.manager_selector"
    kind = _named(where, manager_selector, component.type, "ManagerSelector")
    return _call(where, kind, dict(component.arguments))


def check(settings: HtexSettings) -> None:
    """Find errors that need no Parsl, early.

    Raises:
        ConfigError: The container's settings contradict each other or are incomplete.
    """
    container_of(settings)
    htex_arguments(settings)


def _named(where: str, module: types.ModuleType, name: str, suffix: str) -> Any:
    known = sorted(
        candidate
        for candidate in getattr(module, "__all__", None) or vars(module)
        if candidate.endswith(suffix) and candidate != suffix
    )
    if name not in known:
        raise ConfigError(_unknown(where, name, known))
    return getattr(module, name)


def _unknown(where: str, name: str, known: list[str]) -> str:
    return f"{where}: {name!r} is not known. Known are: {', '.join(known)}."


def _call(
    where: str, kind: Any, arguments: Mapping[str, Any], *, name: str = "", **ours: Any
) -> Any:
    try:
        return kind(**arguments, **ours)
    except Exception as error:
        raise ConfigError(f"{where}: {name or kind.__name__} cannot be made: {error}.") from error
