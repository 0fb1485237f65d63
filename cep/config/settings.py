"""A validated configuration as frozen values. Building one has no effect on anything.

`cep.config.load` makes these from YAML; engines, agent and CLI read them. Defaults are those of
the published endpoint 2.x unless a comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

OnRestart: TypeAlias = Literal["fail", "retry"]

MIB = 1024 * 1024
DEFAULT_RESULT_SIZE_LIMIT = 10 * MIB  # bytes; source: published endpoint, max 10485760
DEFAULT_TASK_SIZE_LIMIT = 64 * MIB  # bytes; ours: the hosted service refuses above 10 MB anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonEngineSettings:
    """Keys that every engine has."""

    label: str | None = None
    working_dir: str = "tasks_working_dir"  # relative to the run directory
    run_in_sandbox: bool = False
    max_retries_on_system_failure: int = 0
    result_size_limit: int = DEFAULT_RESULT_SIZE_LIMIT  # bytes of the serialized result
    allowed_serializers: tuple[str, ...] | None = None
    coalesce: bool = True  # ours: tiny tasks may travel together, short ones ahead


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPoolSettings(CommonEngineSettings):
    """`type: ThreadPoolEngine`. Threads of the agent's own process."""

    max_workers: int | None = None  # None: min(32, cores + 4), as concurrent.futures
    thread_name_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPoolSettings(CommonEngineSettings):
    """`type: ProcessPoolEngine`. Worker processes on the endpoint's host."""

    max_workers: int | None = None  # None: number of usable cores
    max_tasks_per_child: int | None = None


@dataclass(frozen=True, slots=True)
class ComponentSettings:
    """A `type:` plus its arguments: a provider, a launcher, an address probe.

    Attributes:
        type: Class or function name, e.g. `SlurmProvider`.
        arguments: Checked keyword arguments; nested components are ComponentSettings.
    """

    type: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HtexSettings(CommonEngineSettings):
    """`type: GlobusComputeEngine`. Parsl's HighThroughputExecutor; protocol names and defaults."""

    provider: ComponentSettings = ComponentSettings("LocalProvider")
    encrypted: bool = True
    container_type: str | None = None
    container_uri: str | None = None
    container_cmd_options: str | None = None
    max_idletime_s: float = 120.0  # job_status_kwargs.max_idletime
    strategy: Literal["simple", "none"] = "simple"  # job_status_kwargs.strategy or strategy
    strategy_period_s: float = 5.0  # job_status_kwargs.strategy_period
    address: str | ComponentSettings | None = None
    heartbeat_period: int = 10  # s; the published default is 30, managers are noticed sooner here
    heartbeat_threshold: int = 120  # s
    poll_period: int = 1000  # ms; only a time-out, see docs/architecture.md
    worker_python: str = "auto"  # ours; `auto`, `endpoint` or an absolute path
    worker_sets: str | None = None  # ours; absolute or from `~`; None: the user directory's
    # Remaining HTEX arguments, checked by name and type, passed as they are.
    htex: Mapping[str, Any] = field(default_factory=dict)


EngineSettings: TypeAlias = ThreadPoolSettings | ProcessPoolSettings | HtexSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits:
    """High and low marks of what is not done; at the high mark no more tasks are taken.

    What counts: tasks without an answer, and answers that the broker has not confirmed.
    """

    high_tasks: int = 5000
    low_tasks: int = 2500
    high_bytes: int = 512 * MIB
    low_bytes: int = 256 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The agent's log file: bounded."""

    max_bytes: int = 10 * MIB
    backups: int = 3


@dataclass(frozen=True, slots=True)
class Keep:
    """How long things of one kind are kept, and how much of them.

    Attributes:
        max_age: Seconds since the last change; 0: for ever.
        max_bytes: Of all of them together, the oldest go first; 0: any number.
    """

    max_age: float
    max_bytes: int


DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """What the endpoint removes by itself, kind by kind. Nothing in use is ever removed."""

    worker_logs: Keep = Keep(14 * DAY_S, 1024 * MIB)
    submit_scripts: Keep = Keep(14 * DAY_S, 256 * MIB)
    sandboxes: Keep = Keep(30 * DAY_S, 0)
    working_dir: Keep = Keep(0, 0)
    oversized_results: Keep = Keep(30 * DAY_S, 10 * 1024 * MIB)
    journal_backups: Keep = Keep(90 * DAY_S, 1024 * MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Everything `config.yaml` says, with defaults filled in."""

    engine: EngineSettings
    display_name: str | None = None
    allowed_functions: tuple[str, ...] | None = None
    authentication_policy: str | None = None
    subscription_id: str | None = None
    admins: tuple[str, ...] | None = None
    high_assurance: bool | None = None
    public: bool | None = None
    amqp_port: int | None = None  # 443, 5671, 5672 or None (the URL's own)
    heartbeat_period_s: float = 30.0  # floor 5
    heartbeat_threshold_s: float = 120.0  # raised to at least twice the period
    idle_heartbeats_soft: int = 0
    idle_heartbeats_hard: int = 5760
    endpoint_setup: str | None = None
    endpoint_setup_timeout_s: float = 3600.0  # ours
    endpoint_teardown: str | None = None
    drain_timeout_s: float = 10.0  # ours; the published endpoint waits 10 s
    service_url: str | None = None  # ours; None: from `environment` or the hosted service
    environment: str | None = None
    local_compute_services: bool = False
    ssl_ca_file: str | None = None  # ours; None: from the shell's variables or the libraries' own
    debug: bool = False
    run_dir: str | None = None  # ours
    state_dir: str | None = None  # ours
    on_restart: OnRestart = "fail"  # ours
    task_size_limit: int = DEFAULT_TASK_SIZE_LIMIT  # ours; bytes of a task message
    intake: IntakeLimits = IntakeLimits()  # ours
    audit_log: str | None = None  # ours; a file or `journald`
    log: LogSettings = LogSettings()  # ours
    retention: RetentionSettings = RetentionSettings()  # ours
    raw_text: str = field(default="", repr=False)  # the YAML as written, sent at registration
