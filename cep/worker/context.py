"""What a worker must know to run tasks: plain data that crosses process borders."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The same for all tasks of one engine.

    Attributes:
        endpoint_id: UUID text, goes into each result's details.
        working_dir: Absolute directory to run in; made when missing.
        run_in_sandbox: Run each task in `working_dir/<task id>`.
        result_size_limit: Largest serialized result, in characters.
        allowed_serializers: Strategy import paths that may be used, or None for all.
        oversized_dir: Absolute directory that keeps results above the limit.
        endpoint_versions: Names and versions, for the failure of a task that cannot be unpacked.
    """

    endpoint_id: str
    working_dir: str
    run_in_sandbox: bool
    result_size_limit: int
    allowed_serializers: tuple[str, ...] | None
    oversized_dir: str
    endpoint_versions: tuple[tuple[str, str], ...] = ()
