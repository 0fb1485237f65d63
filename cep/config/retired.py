"""Keys that some published endpoint knew and this one does not use: what to say about each.

Pure data. An old file goes on working wherever that is honest: such keys are translated or
ignored with one warning that names the successor. Where ignoring a key would do something else
than its author asked for, the key is refused by name.
Source: globus-compute-endpoint 2.19.0 and 4.19.0 and, for the oldest, funcx-endpoint 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retired:
    """What becomes of one old key.

    Attributes:
        advice: What to use or to do instead, as a sentence.
        refused: True: an error. False: a warning. None: an error unless the value says "off"
            (false, 0, empty).
    """

    advice: str
    refused: bool | None = False

    def refuses(self, value: object) -> bool:
        """Whether this value of the key is an error."""
        return bool(value) if self.refused is None else self.refused


_ONE_ACCOUNT = "An endpoint of cep runs tasks for the one account that started it."
_LOGS = "The log is endpoint.log in the endpoint's directory; `log:` sets its bounds."
_TEMPLATES = (
    "There are no per-user templates here: write the engine into config.yaml. " + _ONE_ACCOUNT
)
_NO_CHANNEL = "Parsl has no channels any more; run the endpoint where the scheduler's commands are."
_OBJECT = "It takes a Python object, which a YAML file cannot hold."
_SOCKETS = "Agent and interchange meet at Unix sockets, which need neither address nor port."
_ROUTING = "It steered an engine that is gone; nothing replaces it."

TOP: dict[str, Retired] = {
    "detach_endpoint": Retired("`start` detaches; use `start --foreground` to stay."),
    "log_dir": Retired(_LOGS),
    "stdout": Retired(_LOGS),
    "stderr": Retired(_LOGS),
    "paths": Retired("Use `run_dir` and `state_dir`; the log is endpoint.log."),
    "multi_user": Retired(_ONE_ACCOUNT, refused=None),
    "multi_tenant": Retired(_ONE_ACCOUNT, refused=None),
    "force_mu_allow_same_user": Retired(_ONE_ACCOUNT, refused=None),
    "force_mt_allow_same_user": Retired(_ONE_ACCOUNT, refused=None),
    "mu_child_ep_grace_period_s": Retired(_ONE_ACCOUNT, refused=True),
    "identity_mapping_config_path": Retired(
        "Identities are not mapped to accounts. " + _ONE_ACCOUNT, refused=True
    ),
    "pam": Retired("No sessions of other accounts are opened. " + _ONE_ACCOUNT, refused=None),
    "user_config_template_path": Retired(_TEMPLATES, refused=True),
    "user_config_schema_path": Retired(_TEMPLATES, refused=True),
    "audit_log_path": Retired(
        "There is no audit log of other accounts' endpoints. " + _ONE_ACCOUNT, refused=True
    ),
    "email": Retired("The service knows the owner by the identity that registers.", refused=True),
    "executors": Retired("Write one `engine:` block instead.", refused=True),
    "funcx_service_address": Retired("Use `service_url`."),
    "results_ws_uri": Retired("Results travel over AMQP; nothing replaces it."),
    "warn_about_url_mismatch": Retired("Nothing replaces it."),
    "scaling_enabled": Retired("Use `engine.job_status_kwargs.strategy`."),
}

_POOL: dict[str, Retired] = {
    "initializer": Retired(_OBJECT, refused=True),
    "initargs": Retired(_OBJECT, refused=True),
}

ENGINES: dict[str, dict[str, Retired]] = {
    "ThreadPoolEngine": {
        **_POOL,
        "encrypted": Retired("Threads of one process have no connection to encrypt."),
    },
    "ProcessPoolEngine": {
        **_POOL,
        "mp_context": Retired("Workers start by a fork server.", refused=True),
        "encrypted": Retired("Workers are reached by pipes, which need no encryption."),
    },
    "GlobusComputeEngine": {
        "executor": Retired(_OBJECT, refused=True),
        "storage_access": Retired(_OBJECT, refused=True),
        "interchange_launch_cmd": Retired(
            "The endpoint starts an interchange of its own, which tells it about workers that "
            "come and go.",
            refused=True,
        ),
        "remote_monitoring_radio": Retired(_OBJECT, refused=True),
        "enable_mpi_mode": Retired("MPI tasks need GlobusMPIEngine.", refused=None),
        "mpi_launcher": Retired("MPI tasks need GlobusMPIEngine."),
        "loopback_address": Retired(_SOCKETS),
        "interchange_port_range": Retired(_SOCKETS),
        "worker_ports": Retired("Use `worker_port`: workers connect to one port now."),
        "worker_mode": Retired("Use `container_type` for containers."),
        "scheduler_mode": Retired(_ROUTING),
        "cold_routing_interval": Retired(_ROUTING),
        "container_image": Retired("Use `container_uri`."),
        "suppress_failure": Retired("Use `block_error_handler`."),
        "passthrough": Retired(_ROUTING),
        "run_dir": Retired("Use the top-level `run_dir`."),
        "endpoint_id": Retired("Use `start --endpoint-uuid`."),
        "task_status_queue": Retired(_ROUTING),
        "max_blocks": Retired("Use `engine.provider.max_blocks`.", refused=True),
    },
}

PROVIDER: dict[str, Retired] = {
    "move_files": Retired(_NO_CHANNEL),
    "channel": Retired(_NO_CHANNEL),  # another channel than LocalChannel is refused
}

#: Old type names that are refused, with the way on.
TYPES: dict[str, str] = {
    "GlobusMPIEngine": (
        "This version does not run MPI functions. Use GlobusComputeEngine with one of the MPI "
        "launchers, e.g. `launcher: {type: SrunMPILauncher}`, for tasks that are MPI programs."
    ),
    "AdHocProvider": _NO_CHANNEL,
    "CobaltProvider": "Parsl has dropped the Cobalt scheduler; use the provider of the new one.",
}

#: Old keys with a new name, by engine type.
RENAMED: dict[str, dict[str, str]] = {
    "GlobusComputeEngine": {"max_workers": "max_workers_per_node"},
}
