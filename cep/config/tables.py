"""All keys of `config.yaml` outside of providers and launchers, as data.

Names and defaults are those of globus-compute-endpoint 2.19.0 and 4.19.0 and, for the remaining
arguments of `GlobusComputeEngine`, of parsl 2026.10.26; keys marked `ours` exist here only.
docs/configuration.md is generated from these tables.
"""

from __future__ import annotations

from cep.config.composites import AnyOf, Block, Component, Key, ListOf, PortRange
from cep.config.kinds import Choice, Flag, Interpreter, Number, Place, Text, Uuid, WebAddress, Whole
from cep.config.settings import (
    DEFAULT_RESULT_SIZE_LIMIT,
    DEFAULT_TASK_SIZE_LIMIT,
    IntakeLimits,
    Keep,
    LogSettings,
    RetentionSettings,
)
from cep.model import SERVICE_ENVIRONMENTS

#: The ports that the hosted service listens on, as the published guide says.
AMQP_PORTS = (443, 5671, 5672)
MINIMUM_HEARTBEAT_S = 5  # as globus-compute-endpoint 4.19

_MARKS = IntakeLimits()
_LOG = LogSettings()
_KEPT = RetentionSettings()

INTAKE = (
    Key(
        "high_tasks",
        Whole(1),
        _MARKS.high_tasks,
        "Stop taking tasks at this many that are unanswered or unsent.",
    ),
    Key("low_tasks", Whole(0), _MARKS.low_tasks, "Take tasks again at this many."),
    Key("high_bytes", Whole(1), _MARKS.high_bytes, "Stop at this many bytes of them."),
    Key("low_bytes", Whole(0), _MARKS.low_bytes, "Take tasks again at this many bytes."),
)

LOG = (
    Key("max_bytes", Whole(4096), _LOG.max_bytes, "Size of one log file."),
    Key("backups", Whole(0), _LOG.backups, "Older log files to keep."),
)


def _kept(name: str, text: str) -> Key:
    keep: Keep = getattr(_KEPT, name)
    keys = (
        Key("max_age", Number(0), int(keep.max_age), "Seconds since the last change; 0: for ever."),
        Key("max_bytes", Whole(0), keep.max_bytes, "Of all together, oldest go; 0: any number."),
    )
    return Key(name, Block(keys), None, text)


RETENTION = (
    _kept("worker_logs", "Logs of worker pools whose block is gone."),
    _kept("submit_scripts", "Scripts of blocks that are gone, with their output."),
    _kept("sandboxes", "Directories of answered tasks (`run_in_sandbox`)."),
    _kept("working_dir", "Everything else in `working_dir`, by its age alone."),
    _kept("oversized_results", "Results above `result_size_limit`."),
    _kept("journal_backups", "Copies of the journal made before a migration."),
)

TOP = (
    Key("display_name", Text(multiline=False), None, "Name shown by the service's web pages."),
    Key("engine", Block(()), None, "How tasks are run; see the engines below.", required=True),
    Key(
        "amqp_port",
        Choice(AMQP_PORTS),
        None,
        "Port for AMQP in place of the one in the addresses that the service hands out.",
    ),
    Key("service_url", WebAddress(), None, "Address of the web service or hub.", ours=True),
    Key("environment", Choice(tuple(SERVICE_ENVIRONMENTS)), None, "Deployment of the web service."),
    Key("local_compute_services", Flag(), False, "The same as `environment: local`."),
    Key(
        "ssl_ca_file",
        Text(multiline=False),
        None,
        "PEM file of the authorities to trust for https:// and amqps://, absolute or from `~`.",
        ours=True,
    ),
    Key("allowed_functions", ListOf(Uuid()), None, "Only these functions may run here."),
    Key("authentication_policy", Uuid(), None, "Policy that users of the endpoint must meet."),
    Key("subscription_id", Uuid(), None, "Subscription that the endpoint belongs to."),
    Key("admins", ListOf(Uuid()), None, "Identities that may administer the endpoint."),
    Key("high_assurance", Flag(), None, "Register as a high-assurance endpoint."),
    Key("public", Flag(), None, "Let everybody find the endpoint; says nothing about access."),
    Key(
        "heartbeat_period",
        Number(0),
        30,
        f"Seconds between status reports, at least {MINIMUM_HEARTBEAT_S}.",
        field="heartbeat_period_s",
    ),
    Key(
        "heartbeat_threshold",
        Number(0),
        120,
        "Seconds after which a silent peer counts as gone; at least twice the period.",
        field="heartbeat_threshold_s",
    ),
    Key("idle_heartbeats_soft", Whole(0), 0, "Stop after this many idle heartbeats; 0: never."),
    Key(
        "idle_heartbeats_hard",
        Whole(0),
        5760,
        "Stop after this many heartbeats without any movement; needs `idle_heartbeats_soft`.",
    ),
    Key("endpoint_setup", Text(), None, "Shell script that must succeed before the start."),
    Key(
        "endpoint_setup_timeout",
        Number(1),
        3600.0,
        "Seconds that `endpoint_setup` may take before it is ended and the start fails.",
        field="endpoint_setup_timeout_s",
        ours=True,
    ),
    Key("endpoint_teardown", Text(), None, "Shell script that runs after the end."),
    Key(
        "drain_timeout",
        Number(0),
        10.0,
        "Seconds that running tasks get at a stop signal (also of systemd); a second one: none.",
        field="drain_timeout_s",
        ours=True,
    ),
    Key("debug", Flag(), False, "Log more."),
    Key("run_dir", Text(False), None, "The half that compute nodes must see.", ours=True),
    Key("state_dir", Text(False), None, "The half that wants a local disk.", ours=True),
    Key(
        "on_restart",
        Choice(("fail", "retry")),
        "fail",
        "What becomes of tasks that may have begun when the endpoint died.",
        ours=True,
    ),
    Key(
        "task_size_limit",
        Whole(1024),
        DEFAULT_TASK_SIZE_LIMIT,
        "Bytes of a task message; larger ones are answered with an error.",
        ours=True,
    ),
    Key("intake", Block(INTAKE), None, "When to stop and go on taking tasks.", ours=True),
    Key(
        "audit_log",
        Text(multiline=False),
        None,
        "File (from the endpoint's directory), or `journald`, for one line when a task arrives, "
        "begins and ends.",
        ours=True,
    ),
    Key("log", Block(LOG), None, "Bounds of `endpoint.log`.", ours=True),
    Key("retention", Block(RETENTION), None, "What is removed when; docs/limits.md.", ours=True),
)

ENGINE_COMMON = (
    Key("label", Text(multiline=False), None, "Names log directories and batch jobs."),
    Key("working_dir", Text(False), "tasks_working_dir", "Where tasks run, from `run_dir`."),
    Key("run_in_sandbox", Flag(), False, "Each task gets a directory of its own."),
    Key(
        "max_retries_on_system_failure",
        Whole(0),
        0,
        "How often a task is tried again when its worker or block was lost.",
    ),
    Key("allowed_serializers", ListOf(Text(False)), None, "Only these formats are opened."),
    Key(
        "result_size_limit",
        Whole(1),
        DEFAULT_RESULT_SIZE_LIMIT,
        "Bytes of a serialized result; larger ones are kept on disk and answered with an error.",
        ours=True,
    ),
    Key(
        "coalesce",
        Flag(),
        True,
        "Tiny tasks may travel to a worker together, and short ones before it is free.",
        ours=True,
    ),
)

THREADS = (
    Key("max_workers", Whole(1), None, "Threads; without it min(32, cores + 4)."),
    Key("thread_name_prefix", Text(multiline=False), "", "First part of the threads' names."),
)

PROCESSES = (
    Key("max_workers", Whole(1), None, "Worker processes; without it one for each core."),
    Key("max_tasks_per_child", Whole(1), None, "Tasks after which a worker is replaced."),
)

JOB_STATUS = (
    Key("max_idletime", Number(0), 120.0, "Seconds after which an idle block is given back."),
    Key("strategy", Choice(("simple", "none")), "simple", "Scale with demand, or not at all."),
    Key("strategy_period", Number(0), 5.0, "Seconds between questions to a scheduler; see Blocks."),
)

#: Keys that fill a field of `HtexSettings`.
HTEX_FIELDS = (
    Key("provider", Component("provider"), "LocalProvider", "Where blocks come from."),
    Key("encrypted", Flag(), True, "Encrypt between the endpoint and its workers."),
    Key("strategy", Choice(("simple", "none")), "simple", "As `job_status_kwargs.strategy`."),
    Key("job_status_kwargs", Block(JOB_STATUS), None, "When blocks come and go."),
    Key(
        "container_type",
        Choice(("docker", "podman", "podman-hpc", "apptainer", "singularity", "custom")),
        None,
        "Run the workers in a container of this kind.",
    ),
    Key("container_uri", Text(multiline=False), None, "Image, or path of an image file."),
    Key(
        "container_cmd_options",
        Text(),
        None,
        "Words added to the container command; for `custom`, the whole command.",
    ),
    Key(
        "worker_python",
        Interpreter(),
        "auto",
        "Which Python runs tasks; docs/workers.md has the rule.",
        ours=True,
    ),
    Key(
        "worker_sets",
        Place(),
        None,
        "Where worker sets are, seen by the nodes; without it `worker-sets/` beside the endpoints.",
        ours=True,
    ),
    Key("address", Component("address", True), None, "How workers reach the endpoint's host."),
    Key("heartbeat_period", Whole(1), 10, "Seconds between heartbeats of managers."),
    Key("heartbeat_threshold", Whole(1), 120, "Seconds after which a silent manager is gone."),
    Key("poll_period", Whole(1), 1000, "Milliseconds; only a time-out, messages wake the poll."),
)

#: Keys handed to Parsl's HighThroughputExecutor as they are.
HTEX_PASSED = (
    Key("worker_port", Whole(1, 65535), None, "The one port that workers connect to."),
    Key("worker_port_range", PortRange(), (54000, 55000), "Where to choose that port."),
    Key("launch_cmd", Text(), None, "Template of the worker pool's command."),
    Key("worker_debug", Flag(), False, "Workers log more."),
    Key("cores_per_worker", Number(0), 1.0, "Cores of one worker; may be a fraction."),
    Key("mem_per_worker", Number(0), None, "Memory of one worker, in GB."),
    Key("max_workers_per_node", Whole(1), None, "Workers on a node at most."),
    Key("cpu_affinity", Text(False), "none", "none, block, alternating, or a list of cores."),
    Key(
        "available_accelerators",
        AnyOf((Whole(0), ListOf(Text()))),
        (),
        "How many accelerators a node has, or their names.",
    ),
    Key("prefetch_capacity", Whole(0), 0, "Tasks that a manager holds beyond its workers."),
    Key("drain_period", Whole(1), None, "Seconds after which a manager takes no new tasks."),
    Key("address_probe_timeout", Whole(1), None, "Seconds for trying an address."),
    Key("worker_logdir_root", Text(False), None, "Where the workers' logs go."),
    Key(
        "manager_selector",
        Component("manager_selector"),
        "RandomManagerSelector",
        "Which manager gets a task first.",
    ),
    Key("block_error_handler", Flag(), True, "Stop asking for blocks when all of them fail."),
)

ENGINES: dict[str, tuple[Key, ...]] = {
    "GlobusComputeEngine": (*HTEX_FIELDS, *ENGINE_COMMON, *HTEX_PASSED),
    "ProcessPoolEngine": (*PROCESSES, *ENGINE_COMMON),
    "ThreadPoolEngine": (*THREADS, *ENGINE_COMMON),
}
