"""What the HTEX engine says of itself: the status report's keys and the phrase for people.

Pure functions of plain values, called on the thread that asks. The keys are those that
globus-compute-endpoint 4.19 reports for GlobusComputeEngine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cep.engines.scaler import Picture
from cep.worker import versions

#: Packages as their versions are told, and where a manager's registration has them.
_FACTS = {
    "Python": "python_version",
    "dill": "dill_version",
    "parsl": "parsl_version",
    "cep-endpoint": "endpoint_version",
}


@dataclass(slots=True)
class Manager:
    """A manager that is connected.

    Attributes:
        block: The block's number.
        workers: Its worker processes.
        facts: Its registration: host, versions.
        draining: It takes no more tasks.
    """

    block: str
    workers: int
    facts: Mapping[str, Any]
    draining: bool = False


def report(
    executor: Any,
    provider_type: str,
    picture: Picture,
    managers: Sequence[Manager],
    *,
    given: int,
    idle_s: float,
) -> dict[str, Any]:
    """Return the engine's part of a status report.

    Args:
        executor: Parsl's executor, for its settings.
        provider_type: The provider's name in the configuration.
        picture: The blocks.
        managers: Those connected now.
        given: Unfinished tasks that the engine has.
        idle_s: For how long it has had none.
    """
    provider = executor.provider
    workers = sum(manager.workers for manager in managers)
    limit = executor.max_workers_per_node
    return {
        "managers": len(managers),
        "active_managers": sum(not manager.draining for manager in managers),
        "total_workers": workers,
        "idle_workers": max(0, workers - given),
        "pending_tasks": max(0, given - workers),
        "outstanding_tasks": given,
        "total_tasks": executor.tasks_sent,
        "scaling_enabled": provider.max_blocks > 0,
        "mem_per_worker": executor.mem_per_worker,
        "cores_per_worker": executor.cores_per_worker,
        "prefetch_capacity": executor.prefetch_capacity,
        "max_blocks": provider.max_blocks,
        "min_blocks": provider.min_blocks,
        "max_workers_per_node": None if limit == float("inf") else limit,
        "nodes_per_block": provider.nodes_per_block,
        "node_info": _node_info(picture, managers, idle_s),
        "engine_type": "GlobusComputeEngine",
        "provider_type": provider_type,
        "queue": _first_of(provider, "queue", "partition"),
        "account": _first_of(provider, "account", "allocation", "project"),
    }


def unlike(managers: Sequence[Manager], own: Sequence[tuple[str, str]]) -> str:
    """A sentence about versions of workers that are not the endpoint's, for a task that was lost.

    Args:
        managers: Those connected now.
        own: Names and versions of the endpoint.
    """
    told = dict.fromkeys(
        f"{name} {version} (endpoint {dict(own)[name]})"
        for manager in managers
        for name, version in _differing(manager.facts, own)
    )
    return f" Not as at the endpoint: {', '.join(told)}." if told else ""


def _differing(facts: Mapping[str, Any], own: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    theirs = [(name, str(facts[key])) for name, key in _FACTS.items() if facts.get(key) is not None]
    differ = versions.differences(theirs, own)
    return [(name, version) for name, version in theirs if name in differ]


def _node_info(
    picture: Picture, managers: Sequence[Manager], idle_s: float
) -> dict[str, list[dict[str, Any]]]:
    jobs = {block["block"]: block["job"] for block in picture.blocks}
    nodes: dict[str, list[dict[str, Any]]] = {}
    for manager in managers:
        nodes.setdefault(jobs.get(manager.block, manager.block), []).append(
            {
                "worker_count": manager.workers,
                "idle_duration": idle_s,
                "parsl_version": manager.facts["parsl_version"],
                "endpoint_version": manager.facts["endpoint_version"],
                "sdk_version": manager.facts["sdk_version"],
                "python_version": manager.facts["python_version"],
            }
        )
    return nodes


def _first_of(provider: object, *names: str) -> str | None:
    for name in names:
        value = getattr(provider, name, None)
        if value:
            return str(value)
    return None


def summary(picture: Picture, max_blocks: int, workers: int, idle: int) -> str:
    """Return one phrase that says why nothing runs, or what does."""
    head = f"blocks {picture.active}/{max_blocks}"
    if workers:
        return f"{head}, {workers} worker{'' if workers == 1 else 's'}, {idle} idle"
    if picture.trouble:
        return f"{head}, {picture.trouble}"
    if picture.active:
        return f"{head}, waiting for the first workers"
    return f"{head}, first starts with the first task"
