"""config.yaml -> frozen settings. Builds nothing, starts nothing, and says everything at once.

The tables beside this file say what is allowed; this module walks the file along them, collects
every problem (line, path to the key, value, nearest valid key) and every old key it had to
translate or ignore. Safe to call from any thread; takes milliseconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cep.config import retired
from cep.config.container import check_container
from cep.config.document import Lines, parse
from cep.config.settings import (
    EndpointSettings,
    EngineSettings,
    HtexSettings,
    IntakeLimits,
    LogSettings,
    ProcessPoolSettings,
    RetentionSettings,
    ThreadPoolSettings,
)
from cep.config.tables import ENGINES, HTEX_PASSED, MINIMUM_HEARTBEAT_S, TOP
from cep.config.walk import Walk, without
from cep.errors import ConfigError, InputMissing
from cep.model import LOCAL, SERVICE_ENVIRONMENTS
from cep.safety.files import check_trusted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and what had to be said about old keys in it."""

    settings: EndpointSettings
    warnings: tuple[str, ...] = ()


def load(path: Path) -> EndpointSettings:
    """Read and check a configuration file; warnings about old keys go to the log.

    Args:
        path: The `config.yaml`.

    Raises:
        ConfigError: The file is wrong, and the message lists every problem; or others than this
            user and root can change it or exchange it.
        InputMissing: There is no such file.
    """
    loaded = read_here(path)
    for warning in loaded.warnings:
        log.warning("%s", warning, extra={"event": "config.old-key"})
    return loaded.settings


def read_here(path: Path, *, strange: bool = False) -> Loaded:
    """As `read`, and see that the configuration can be used on this host.

    Args:
        path: The `config.yaml`.
        strange: It is no endpoint's yet, so it does not matter who can change it.

    Raises:
        ConfigError: Others can change it, or what it asks for is not there.
    """
    if not strange:
        check_trusted(path.parent, ConfigError, "The endpoint's directory")
        check_trusted(path, ConfigError, "The configuration")
    loaded = read(path)
    if loaded.settings.audit_log is not None:
        from cep.safety.audit import check_target  # loads `socket`

        check_target(loaded.settings.audit_log)
    return loaded


def load_text(text: str, origin: str, *, unset_allowed: bool = False) -> EndpointSettings:
    """Check a configuration given as text.

    Args:
        text: YAML.
        origin: What to call it in messages, usually its path.
        unset_allowed: Let placeholders of values pass that the user still has to write.

    Raises:
        ConfigError: The text is wrong; the message lists every problem.
    """
    return read_text(text, origin, unset_allowed=unset_allowed).settings


def read(path: Path) -> Loaded:
    """As `load`, with the warnings in hand instead of in the log."""
    old_style = path.with_name("config.py")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        if old_style.exists():
            raise ConfigError(
                f"The endpoint in {path.parent} has only a {old_style.name}, which is a program "
                "and is never run here.",
                hint=f"Have it read as text, into an endpoint of another name: cep import "
                f"{path.parent} --as NAME",
            ) from exc
        raise InputMissing(
            f"There is no configuration {path}.",
            hint=f"Make one with: cep configure {path.parent.name}",
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The configuration {path} cannot be read: {exc}.") from exc
    loaded = read_text(text, str(path))
    if old_style.exists():
        note = f"{old_style} is ignored: {path.name} holds, and a config.py is never run here."
        return Loaded(loaded.settings, (*loaded.warnings, note))
    return loaded


def read_text(text: str, origin: str, *, unset_allowed: bool = False) -> Loaded:
    """As `load_text`, with the warnings about old keys."""
    walk = Walk(origin, unset_allowed)
    values = walk.block(parse(text, origin), TOP, "", "the configuration", retired.TOP)
    settings = _endpoint(walk, values, text)
    walk.finish()
    return Loaded(settings, tuple(walk.warnings))


def _endpoint(walk: Walk, values: dict[str, Any], text: str) -> EndpointSettings:
    engine_block = values.pop("engine", None)
    engine = _engine(walk, engine_block) if isinstance(engine_block, Lines) else None
    if "intake" in values:
        values["intake"] = _limits(walk, values["intake"])
    if "log" in values:
        values["log"] = LogSettings(**values["log"])
    if "retention" in values:
        values["retention"] = _retention(values["retention"])
    named = {key.field or key.name: values[key.name] for key in TOP if key.name in values}
    period = max(MINIMUM_HEARTBEAT_S, float(named.get("heartbeat_period_s", 30.0)))
    threshold = float(named.get("heartbeat_threshold_s", 120.0))
    named["heartbeat_period_s"] = period
    named["heartbeat_threshold_s"] = max(threshold, 2 * period)
    _check_service(walk, named)
    if named.get("high_assurance") and isinstance(engine, HtexSettings) and not engine.encrypted:
        walk.problem("engine.encrypted", None, "must be true, since high_assurance is true")
    # A wrong engine has been reported: `finish` raises before these settings are used.
    return EndpointSettings(engine=engine or ThreadPoolSettings(), raw_text=text, **named)


def _check_service(walk: Walk, named: dict[str, Any]) -> None:
    url = named.get("service_url")
    local = LOCAL if named.get("local_compute_services") else None
    environment = named.get("environment")
    if environment is not None and local is not None and environment != local:
        walk.problem(
            "environment", None, f"{environment!r} contradicts local_compute_services: true"
        )
    meant = environment or local
    if url is not None and meant is not None and SERVICE_ENVIRONMENTS[meant] != url:
        walk.problem("service_url", None, f"{url!r} contradicts the environment {meant!r}")


def _limits(walk: Walk, values: dict[str, int]) -> IntakeLimits:
    limits = IntakeLimits(**values)
    for unit in ("tasks", "bytes"):
        low, high = getattr(limits, f"low_{unit}"), getattr(limits, f"high_{unit}")
        if low >= high:
            walk.problem(f"intake.low_{unit}", None, f"{low} must be below high_{unit}, {high}")
    return limits


def _retention(values: dict[str, dict[str, Any]]) -> RetentionSettings:
    defaults = RetentionSettings()
    kept = {name: replace(getattr(defaults, name), **given) for name, given in values.items()}
    return RetentionSettings(**kept)


def _engine(walk: Walk, block: Lines) -> EngineSettings | None:
    line = block.line_of.get("type")
    if block.get("type") in (None, "HighThroughputEngine"):
        walk.warnings.append(
            f"{walk.origin}: engine.type is taken as GlobusComputeEngine, which succeeded "
            "HighThroughputEngine."
        )
        block = without(block, "type")
        block["type"] = "GlobusComputeEngine"
    chosen = walk.type_of(block, ENGINES, "engine", line, "engine")
    if chosen is None:
        return None
    block = _translated(walk, without(block, "type"), chosen)
    before = len(walk.problems)
    values = walk.block(block, ENGINES[chosen], "engine.", chosen, retired.ENGINES[chosen])
    if len(walk.problems) > before:
        return None
    build: dict[str, Callable[..., EngineSettings]] = {
        "ThreadPoolEngine": ThreadPoolSettings,
        "ProcessPoolEngine": ProcessPoolSettings,
    }
    if chosen in build:
        return build[chosen](**values)
    return _htex(walk, values)


def _translated(walk: Walk, block: Lines, engine: str) -> Lines:
    """Give old keys and old forms of values their present ones."""
    for old, new in retired.RENAMED.get(engine, {}).items():
        if old in block and new not in block:
            block[new] = block.pop(old)
            block.line_of[new] = block.line_of.get(old, 0)
            walk.warnings.append(f"{walk.origin}: engine.{old} is taken as engine.{new}.")
    kind = block.get("container_type")
    if isinstance(kind, str) and kind.lower() == "none":  # as the published guide writes it
        block["container_type"] = None
    strategy = block.get("strategy")
    if strategy == "htex_auto_scale":
        block["strategy"] = "simple"
        walk.warnings.append(f"{walk.origin}: engine.strategy is taken as simple.")
    elif isinstance(strategy, Lines) and engine == "GlobusComputeEngine":
        status = block.get("job_status_kwargs")
        status = status if isinstance(status, Lines) else Lines()
        if "max_idletime" in strategy and "max_idletime" not in status:
            status["max_idletime"] = strategy["max_idletime"]
        block["job_status_kwargs"] = status
        block["strategy"] = "simple"
        walk.warnings.append(
            f"{walk.origin}: engine.strategy as a block is taken as engine.job_status_kwargs."
        )
    return block


def _htex(walk: Walk, values: dict[str, Any]) -> HtexSettings:
    status = values.pop("job_status_kwargs", {})
    if "strategy" in status:
        values["strategy"] = status["strategy"]
    if "max_idletime" in status:
        values["max_idletime_s"] = float(status["max_idletime"])
    if "strategy_period" in status:
        values["strategy_period_s"] = float(status["strategy_period"])
    passed = {key.name for key in HTEX_PASSED}
    htex = {name: values.pop(name) for name in list(values) if name in passed}
    settings = HtexSettings(htex=htex, **values)
    check_container(walk, settings)
    return settings
