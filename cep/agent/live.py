"""Which parts of a configuration a running agent can take over, and how two of them differ.

Pure functions on settings. docs/service.md has the list for people; a unit test compares it with
the sets below, and sees that every field of the settings is in one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from cep.config.settings import ComponentSettings, EndpointSettings, EngineSettings
from cep.config.tables import TOP

#: What the service is told at a registration; a change registers anew.
REGISTERED = frozenset(
    (
        "display_name",
        "allowed_functions",
        "authentication_policy",
        "subscription_id",
        "admins",
        "public",
    )
)
LIVE = REGISTERED | frozenset(
    (
        "idle_heartbeats_soft",
        "idle_heartbeats_hard",
        "drain_timeout_s",
        "debug",
        "on_restart",
        "task_size_limit",
        "intake",
        "audit_log",
        "log",
        "retention",
    )
)
#: Connections, directories, the lease's period, and scripts that belong to one life.
RESTART = frozenset(
    (
        "high_assurance",
        "amqp_port",
        "heartbeat_period_s",
        "heartbeat_threshold_s",
        "endpoint_setup",
        "endpoint_setup_timeout_s",
        "endpoint_teardown",
        "service_url",
        "environment",
        "local_compute_services",
        "ssl_ca_file",
        "run_dir",
        "state_dir",
    )
)
#: Compared part by part.
COMPOUND = frozenset(("engine", "raw_text"))
#: Fields of the engine's settings, with the names that a configuration has for them.
LIVE_ENGINE = {
    "max_retries_on_system_failure": "max_retries_on_system_failure",
    "max_idletime_s": "job_status_kwargs.max_idletime",
    "strategy": "strategy",
    "strategy_period_s": "job_status_kwargs.strategy_period",
}
#: Arguments of a provider.
LIVE_PROVIDER = ("init_blocks", "min_blocks", "max_blocks", "parallelism")

_KEY_OF = {key.field or key.name: key.name for key in TOP}


@dataclass(frozen=True, slots=True)
class Change:
    """How a new configuration differs from the one in use.

    Attributes:
        settings: What is in use with everything taken over that can be.
        taken: Keys that are taken over, as a configuration names them.
        restart: Keys that hold from the next start on.
        registers: The service has to be told.
    """

    settings: EndpointSettings
    taken: tuple[str, ...]
    restart: tuple[str, ...]
    registers: bool


def compare(now: EndpointSettings, wanted: EndpointSettings) -> Change:
    """Say what of the wanted settings a running agent takes over."""
    values: dict[str, Any] = {}
    taken, restart = [], []
    for name in sorted(LIVE | RESTART):
        new = getattr(wanted, name)
        if new == getattr(now, name):
            continue
        if name in LIVE and not _begins_or_ends_audit(name, now, wanted):
            values[name] = new
            taken.append(_KEY_OF[name])
        else:
            restart.append(_KEY_OF[name])
    registers = not REGISTERED.isdisjoint(values)
    engine, engine_taken, engine_restart = _compare_engines(now.engine, wanted.engine)
    restart += engine_restart
    if not restart:  # the text is what runs only when all of it does
        values["raw_text"] = wanted.raw_text
    settings = replace(now, engine=engine, **values)
    return Change(settings, (*taken, *engine_taken), tuple(restart), registers)


def _begins_or_ends_audit(name: str, now: EndpointSettings, wanted: EndpointSettings) -> bool:
    """An audit goes on at another place; to begin one in the middle would leave tasks untold."""
    return name == "audit_log" and (now.audit_log is None or wanted.audit_log is None)


def _compare_engines(
    now: EngineSettings, wanted: EngineSettings
) -> tuple[EngineSettings, list[str], list[str]]:
    """Return the engine's settings to use, and the keys taken over and not."""
    if type(now) is not type(wanted):
        return now, [], ["engine.type"]
    values: dict[str, Any] = {}
    taken, restart = [], []
    for field in fields(now):
        old, new = getattr(now, field.name), getattr(wanted, field.name)
        if old == new:
            continue
        if field.name in LIVE_ENGINE:
            values[field.name] = new
            taken.append(f"engine.{LIVE_ENGINE[field.name]}")
        elif field.name == "provider":
            values["provider"], more, rest = _compare_providers(old, new)
            taken += more
            restart += rest
        elif isinstance(old, Mapping):
            restart += [f"engine.{name}" for name in _differing(old, new)]
        else:
            restart.append(f"engine.{field.name}")
    return replace(now, **values), taken, restart


def _compare_providers(
    now: ComponentSettings, wanted: ComponentSettings
) -> tuple[ComponentSettings, list[str], list[str]]:
    if now.type != wanted.type:
        return now, [], ["engine.provider.type"]
    differing = list(_differing(now.arguments, wanted.arguments))
    live = [name for name in differing if name in LIVE_PROVIDER]
    arguments = dict(now.arguments)
    for name in live:
        arguments.pop(name, None)
        if name in wanted.arguments:
            arguments[name] = wanted.arguments[name]
    return (
        replace(now, arguments=arguments),
        [f"engine.provider.{name}" for name in live],
        [f"engine.provider.{name}" for name in differing if name not in LIVE_PROVIDER],
    )


def _differing(now: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*now, *wanted}):
        if (name in now) != (name in wanted) or now.get(name) != wanted.get(name):
            yield name
