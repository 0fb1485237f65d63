"""Build a session from settings: provider, executor and scaler, or nothing at all.

The only place that knows how the parts fit; called on the thread that starts the engine. The
interchange is launched before Parsl is imported here, so that both load at the same time.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cep.config.settings import HtexSettings
from cep.engines import parsl_parts, scaling
from cep.engines.base import EngineEvent, EngineRun
from cep.engines.begun import workers_are_local
from cep.engines.breaker import BlockBreaker
from cep.engines.containers import container_of
from cep.engines.interchange_process import InterchangeProcess, label_of, mark_of
from cep.engines.lending import interpreter_of, lending_of
from cep.engines.providers import (
    LOCAL,
    address_of,
    htex_arguments,
    provider_of,
)
from cep.errors import CepError, ConfigError, EngineError
from cep.worker import versions
from cep.worker.context import WorkerContext

if TYPE_CHECKING:
    from cep.engines.htex_executor import Executor
    from cep.engines.htex_session import Session

log = logging.getLogger(__name__)

NOT_ENCRYPTED = (
    "What travels between this endpoint and its workers is NOT ENCRYPTED and not authenticated: "
    "who reaches the port on the network can run code as you. Remove `encrypted: false` from the "
    "engine's configuration."
)
_END_S = 2.0


def open_session(
    settings: HtexSettings,
    run: EngineRun,
    deliver: Callable[[EngineEvent], None],
    died: Callable[[Session], None],
    process: InterchangeProcess | None = None,
) -> Session:
    """Start the interchange and the threads, and ask for the first blocks.

    Args:
        settings: The engine's configuration.
        run: The endpoint it works for.
        deliver: Takes events, from any thread.
        died: Called from one of the session's threads when it cannot go on.
        process: The interchange, where it was launched before; ended here whatever happens.

    Raises:
        ConfigError: The settings cannot work.
        EngineError: The interchange did not come up. In both cases nothing is left behind.
    """
    run_dir = run.run_dir.resolve()
    if not settings.encrypted:
        log.warning("%s", NOT_ENCRYPTED, extra={"event": "htex.not-encrypted"})
    mark = mark_of(run_dir)
    try:
        process = process or InterchangeProcess.of(run_dir, settings)
    except OSError as error:
        raise EngineError(f"Parsl's interchange could not be started: {error}.") from error
    executor = None
    try:
        parsl_parts.import_in_agent()
        tag = f"{run.endpoint_id}.{run.life}" if run.life else ""
        provider = provider_of(settings, mark=mark, run_dir=run_dir, tag=tag)
        executor = executor_of(
            settings, provider, process, run_dir, run.worker_sets, endpoint_id=run.endpoint_id
        )
        executor.start()
    except BaseException as error:
        if executor is not None:
            executor.end(_END_S)
        else:
            process.end(_END_S)
        if isinstance(error, CepError) or not isinstance(error, Exception):
            raise
        raise EngineError(f"Parsl's interchange could not be started: {error}") from error
    return _session(settings, run, executor, deliver, died)


def executor_of(
    settings: HtexSettings,
    provider: Any,
    process: InterchangeProcess,
    run_dir: Path,
    worker_sets: Path | None = None,
    *,
    endpoint_id: str = "",
) -> Executor:
    """Build the executor; nothing is started.

    Args:
        settings: The engine's configuration.
        provider: Gets the rule about Python put around its `worker_init` and launcher.
        process: The interchange.
        run_dir: The endpoint's run directory.
        worker_sets: Where worker sets are unless the settings say it.
        endpoint_id: Marks the containers of its blocks.

    Raises:
        ConfigError: Parsl refuses the settings, or the run directory cannot be mounted.
    """
    from cep.engines.htex_executor import Executor

    container = container_of(settings)
    lending = lending_of(settings, run_dir / label_of(settings), worker_sets)
    if container is not None:
        container.check_mount(str(run_dir), "run_dir")
        if lending is not None:
            container.check_mount(str(lending.sets), "engine.worker_sets")
    address = address_of(settings, container)
    arguments = htex_arguments(settings, address)
    try:
        return Executor(
            process=process,
            local=settings.provider.type == LOCAL,
            container=container,
            run_dir=run_dir,
            endpoint_id=endpoint_id,
            lending=lending,
            interpreter=interpreter_of(settings),
            label=label_of(settings),
            provider=provider,
            address=address,
            encrypted=settings.encrypted,
            heartbeat_period=settings.heartbeat_period,
            heartbeat_threshold=settings.heartbeat_threshold,
            poll_period=settings.poll_period,
            **arguments,
        )
    except Exception as error:
        raise ConfigError(f"The engine cannot be made from its settings: {error}") from error


def _session(
    settings: HtexSettings,
    run: EngineRun,
    executor: Executor,
    deliver: Callable[[EngineEvent], None],
    died: Callable[[Session], None],
) -> Session:
    from cep.engines.htex_session import Session

    slots = None
    if run.start_slots is not None and workers_are_local(settings):
        slots = run.start_slots.absolute()
    session = Session(
        executor,
        scaling.rules(settings, executor.provider),
        BlockBreaker(run.blocks_file, fingerprint_of(settings)),
        provider_type=settings.provider.type,
        expected_workers_per_node=_expected_workers(settings, executor),
        context=astuple(_worker_context(settings, run)),
        slots_directory=slots,
        coalesce=settings.coalesce,
        deliver=deliver,
        died=died,
    )
    session.start()
    return session


def fingerprint_of(settings: HtexSettings) -> str:
    """A text that changes with the engine's configuration."""
    return hashlib.sha256(repr(settings).encode()).hexdigest()


def _worker_context(settings: HtexSettings, run: EngineRun) -> WorkerContext:
    return WorkerContext(
        endpoint_id=run.endpoint_id,
        working_dir=str(run.run_dir.resolve() / Path(settings.working_dir).expanduser()),
        run_in_sandbox=settings.run_in_sandbox,
        result_size_limit=settings.result_size_limit,
        allowed_serializers=settings.allowed_serializers,
        oversized_dir=str(run.oversized_results.absolute()),
        endpoint_versions=versions.own(),
    )


def _expected_workers(settings: HtexSettings, executor: Executor) -> int:
    """How many workers a node will have, as far as anybody can tell before the first one comes."""
    expected = executor.expected_workers_per_node
    if settings.provider.type == LOCAL and settings.htex.get("max_workers_per_node") is None:
        return max(expected, int((os.cpu_count() or 1) / executor.cores_per_worker))
    return expected
