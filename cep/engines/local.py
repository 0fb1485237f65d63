"""What the thread and the process engine share: the worker's constants, refusals, the report.

Pure functions, for the agent's main thread.
"""

from __future__ import annotations

import os
from typing import Any

from cep.config.settings import CommonEngineSettings
from cep.engines.base import EngineRun
from cep.model import Outcome, OutcomeKind, Task
from cep.wire.result import TASK_REFUSED
from cep.worker.context import WorkerContext

_GIB = 1024**3


def worker_context(settings: CommonEngineSettings, run: EngineRun) -> WorkerContext:
    """Return what workers must know, with absolute directories.

    Args:
        settings: The `engine:` block; a relative `working_dir` counts from the run directory.
        run: The endpoint.
    """
    base = run.run_dir.resolve()
    return WorkerContext(
        endpoint_id=run.endpoint_id,
        working_dir=str(base / settings.working_dir),
        run_in_sandbox=settings.run_in_sandbox,
        result_size_limit=settings.result_size_limit,
        allowed_serializers=settings.allowed_serializers,
        oversized_dir=str(run.oversized_results.resolve()),
    )


def refuse_resources(task: Task, engine_type: str) -> Outcome | None:
    """Return the refusal of a task that asks for resources, which a local pool cannot give.

    The published endpoint 4.19 answers such a task with an error too.
    """
    if task.resource_specification is None:
        return None
    return Outcome(
        task.seq,
        OutcomeKind.REFUSED,
        code=TASK_REFUSED,
        reason=(
            f"The task has a resource_specification, which {engine_type} does not support. Submit "
            "it without one, or to an endpoint whose engine runs MPI applications."
        ),
    )


def local_report(
    engine_type: str, *, workers: int, most: int, pending: int, outstanding: int
) -> dict[str, Any]:
    """Return a local pool's part of the status report, with the published names.

    Args:
        engine_type: As in `type:`.
        workers: Workers that live now.
        most: Workers by configuration.
        pending: Tasks that no worker has begun.
        outstanding: Tasks given and not finished.
    """
    # Pages the kernel can give without swapping, as psutil reads them, at a tenth of its import.
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 (read every heartbeat)
        for line in file:
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
                break
    return {
        "total_cores": os.cpu_count() or 1,
        "total_mem": round(available / _GIB, 1),
        "total_core_hrs": 0,
        "total_workers": workers,
        "pending_tasks": pending,
        "outstanding_tasks": outstanding,
        "scaling_enabled": False,
        "max_blocks": 1,
        "min_blocks": 1,
        "max_workers_per_node": most,
        "nodes_per_block": 1,
        "engine_type": engine_type,
    }
