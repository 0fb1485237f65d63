"""Providers, launchers, address probes, manager selectors: names, arguments and kinds, as data.

The tables say what Parsl's classes of these names take, without importing Parsl; a unit test
compares them with the installed Parsl, so they cannot fall behind it.
Source: parsl 2026.10.26, `parsl.providers`, `parsl.launchers`, `parsl.addresses` and
`parsl.executors.high_throughput.manager_selector`.
"""

from __future__ import annotations

from cep.config.composites import Component, Key, ListOf, PlainMap, TextMap
from cep.config.kinds import Flag, Number, Text, Walltime, Whole

_COUNT = Whole(0)
_POSITIVE = Whole(1)
_LAUNCHER = Key("launcher", Component("launcher"), None, "How workers start inside a block.")
_WORKER_INIT = Key(
    "worker_init", Text(), "", "Shell lines that run in the block before the workers start."
)
_SCHEDULER_OPTIONS = Key(
    "scheduler_options", Text(), "", "Lines added to the head of the job script."
)
_NODES = Key("nodes_per_block", _POSITIVE, 1, "Nodes in one block.")
_QUEUE = Key("queue", Text(), None, "Queue to submit to.")
_ACCOUNT = Key("account", Text(), None, "Account that the job is charged to.")


def _scaling(init: int = 1, low: int = 0, high: int = 1) -> tuple[Key, ...]:
    return (
        Key("init_blocks", _COUNT, init, "Blocks to ask for at first."),
        Key("min_blocks", _COUNT, low, "Blocks to keep even when idle."),
        Key("max_blocks", _COUNT, high, "Blocks at most."),
        Key(
            "parallelism",
            Number(0),
            1,
            "Share of the waiting tasks that get a slot of their own.",
        ),
    )


def _walltime(default: str) -> Key:
    return Key("walltime", Walltime(), default, "Time limit of one block.")


def _timeout(default: int) -> Key:
    return Key("cmd_timeout", _POSITIVE, default, "Seconds that a scheduler command may take.")


PROVIDERS: dict[str, tuple[Key, ...]] = {
    "LocalProvider": (_NODES, _LAUNCHER, *_scaling(), _WORKER_INIT, _timeout(30)),
    "SlurmProvider": (
        Key("partition", Text(), None, "Partition to submit to."),
        _ACCOUNT,
        Key("qos", Text(), None, "Quality of service."),
        Key("constraint", Text(), None, "Node features that are needed."),
        Key("clusters", Text(), None, "Cluster names for a federation, comma separated."),
        _NODES,
        Key("cores_per_node", _POSITIVE, None, "Cores to ask for on each node."),
        Key("mem_per_node", _POSITIVE, None, "Memory to ask for on each node, in GB."),
        Key("gpus_per_node", _COUNT, None, "GPUs to ask for on each node."),
        Key("gres", Text(), None, "Generic resources, as for `sbatch --gres`."),
        *_scaling(),
        _walltime("00:10:00"),
        _SCHEDULER_OPTIONS,
        Key(
            "regex_job_id",
            Text(),
            r"Submitted batch job (?P<id>\S*)",
            "Finds the job id in what the submit command prints.",
        ),
        _WORKER_INIT,
        _timeout(10),
        Key("status_batch_size", _POSITIVE, 50, "Jobs asked about in one command."),
        Key("exclusive", Flag(), True, "Ask for whole nodes."),
        _LAUNCHER,
    ),
    "PBSProProvider": (
        _ACCOUNT,
        _QUEUE,
        _SCHEDULER_OPTIONS,
        Key("select_options", Text(), "", "Added to the `select` statement."),
        _WORKER_INIT,
        _NODES,
        Key("cpus_per_node", _POSITIVE, 1, "CPUs of one chunk."),
        *_scaling(),
        _LAUNCHER,
        _walltime("00:20:00"),
        _timeout(120),
    ),
    "TorqueProvider": (
        _ACCOUNT,
        _QUEUE,
        _SCHEDULER_OPTIONS,
        _WORKER_INIT,
        _NODES,
        *_scaling(),
        _LAUNCHER,
        _walltime("00:20:00"),
        _timeout(120),
    ),
    "LSFProvider": (
        _NODES,
        Key("cores_per_block", _POSITIVE, None, "Cores of one block."),
        Key("cores_per_node", _POSITIVE, None, "Cores of one node."),
        *_scaling(),
        _walltime("00:10:00"),
        _SCHEDULER_OPTIONS,
        _WORKER_INIT,
        Key("project", Text(), None, "Project that the job is charged to."),
        _QUEUE,
        _timeout(120),
        Key("bsub_redirection", Flag(), False, "Submit with `bsub < script`."),
        Key("request_by_nodes", Flag(), True, "Ask for nodes, not for cores."),
        _LAUNCHER,
    ),
    "CondorProvider": (
        _NODES,
        Key("cores_per_slot", _POSITIVE, None, "Cores of one slot."),
        Key("mem_per_slot", Number(0), None, "Memory of one slot, in GB."),
        *_scaling(),
        Key("environment", TextMap(), None, "Environment variables of the job."),
        Key("project", Text(), "", "Project that the job is charged to."),
        _SCHEDULER_OPTIONS,
        Key(
            "transfer_input_files", ListOf(Text(), as_list=True), [], "Files that go with the job."
        ),
        _walltime("00:10:00"),
        _WORKER_INIT,
        _LAUNCHER,
        Key("requirements", Text(), "", "Requirements expression."),
        _timeout(60),
        Key("cmd_chunk_size", _POSITIVE, 100, "Jobs in one command."),
    ),
    "GridEngineProvider": (
        _NODES,
        *_scaling(),
        _walltime("00:10:00"),
        _SCHEDULER_OPTIONS,
        _WORKER_INIT,
        _LAUNCHER,
        _timeout(60),
        _QUEUE,
    ),
    "KubernetesProvider": (
        Key("image", Text(), None, "Container image of the pods.", required=True),
        Key("namespace", Text(), "default", "Kubernetes namespace."),
        _NODES,
        *_scaling(init=4, high=10),
        Key("max_cpu", Number(0), 2, "CPU limit of a pod."),
        Key("max_mem", Text(), "500Mi", "Memory limit of a pod."),
        Key("init_cpu", Number(0), 1, "CPU request of a pod."),
        Key("init_mem", Text(), "250Mi", "Memory request of a pod."),
        Key("extra_requests", TextMap(), None, "More resource requests."),
        Key("extra_limits", TextMap(), None, "More resource limits."),
        _WORKER_INIT,
        Key("pod_name", Text(), None, "First part of the pods' names."),
        Key("user_id", Text(), None, "Unix user id in the pod."),
        Key("group_id", Text(), None, "Unix group id in the pod."),
        Key("run_as_non_root", Flag(), False, "Refuse to run as root in the pod."),
        Key("secret", Text(), None, "Secret for pulling the image."),
        Key(
            "persistent_volumes",
            ListOf(ListOf(Text(), length=2), as_list=True),
            [],
            "Pairs of a claim's name and the path it is mounted on.",
        ),
        Key("service_account_name", Text(), None, "Service account of the pods."),
        Key("annotations", TextMap(), None, "Annotations of the pods."),
    ),
    "AWSProvider": (
        Key("image_id", Text(), None, "Machine image.", required=True),
        Key("key_name", Text(), None, "Name of the key pair.", required=True),
        *_scaling(high=10),
        _NODES,
        _WORKER_INIT,
        Key("instance_type", Text(), "t2.small", "Type of the machines."),
        Key("region", Text(), "us-east-2", "Region of the machines."),
        Key("spot_max_bid", Number(0), 0, "Highest bid for spot machines; 0 means none."),
        Key("key_file", Text(), None, "File with the access keys."),
        Key("profile", Text(), None, "Profile of the AWS configuration."),
        Key("iam_instance_profile_arn", Text(), "", "Instance profile of the machines."),
        Key("state_file", Text(), None, "Where the state of the network set-up is kept."),
        _walltime("01:00:00"),
        Key("linger", Flag(), False, "Leave machines on when their work is done."),
        _LAUNCHER,
    ),
    "GoogleCloudProvider": (
        Key("project_id", Text(), None, "Project that is charged.", required=True),
        Key("key_file", Text(), None, "File with the account's key.", required=True),
        Key("region", Text(), None, "Region of the machines.", required=True),
        Key("os_project", Text(), None, "Project of the image.", required=True),
        Key("os_family", Text(), None, "Family of the image.", required=True),
        Key("google_version", Text(), "v1", "Version of the service's interface."),
        Key("instance_type", Text(), "n1-standard-1", "Type of the machines."),
        *_scaling(high=10),
        _LAUNCHER,
    ),
    "AzureProvider": (
        Key("vm_reference", PlainMap(), None, "Description of the machine.", required=True),
        *_scaling(high=10),
        _WORKER_INIT,
        Key("location", Text(), "westus", "Where the machines are."),
        Key("group_name", Text(), "parsl.group", "Resource group."),
        Key("key_name", Text(), None, "Name of the key."),
        Key("key_file", Text(), None, "File with the credentials."),
        Key("vnet_name", Text(), "parsl.vnet", "Virtual network."),
        Key("linger", Flag(), False, "Leave machines on when their work is done."),
        _LAUNCHER,
    ),
}

_DEBUG = Key("debug", Flag(), True, "More output of the launch script.")
_OVERRIDES = Key("overrides", Text(), "", "Words added to the launch command.")

LAUNCHERS: dict[str, tuple[Key, ...]] = {
    "SingleNodeLauncher": (
        _DEBUG,
        Key("fail_on_any", Flag(), False, "One failed worker fails the block."),
    ),
    "SimpleLauncher": (_DEBUG,),
    "SrunLauncher": (_DEBUG, _OVERRIDES),
    "SrunMPILauncher": (_DEBUG, _OVERRIDES),
    "AprunLauncher": (_DEBUG, _OVERRIDES),
    "JsrunLauncher": (_DEBUG, _OVERRIDES),
    "MpiExecLauncher": (
        _DEBUG,
        Key("bind_cmd", Text(), "--bind-to", "The binding option of the MPI at hand."),
        _OVERRIDES,
    ),
    "MpiRunLauncher": (
        _DEBUG,
        Key("bash_location", Text(), "/bin/bash", "The shell on the nodes."),
        _OVERRIDES,
    ),
    "GnuParallelLauncher": (_DEBUG,),
    "WrappedLauncher": (
        Key("prepend", Text(), None, "Words in front of the launch command.", required=True),
        _DEBUG,
    ),
}

ADDRESSES: dict[str, tuple[Key, ...]] = {
    "address_by_hostname": (),
    "address_by_route": (),
    "address_by_query": (Key("timeout", Number(0), 30, "Seconds to wait for the answer."),),
    "address_by_interface": (
        Key("ifname", Text(), None, "Name of the network interface.", required=True),
    ),
}

MANAGER_SELECTORS: dict[str, tuple[Key, ...]] = {
    "RandomManagerSelector": (),
    "BlockIdManagerSelector": (),
}

FAMILIES: dict[str, dict[str, tuple[Key, ...]]] = {
    "provider": PROVIDERS,
    "launcher": LAUNCHERS,
    "address": ADDRESSES,
    "manager_selector": MANAGER_SELECTORS,
}

#: Providers that run their machines or pods from an image of their own, so that
#: `container_uri` cannot be used with them (as globus-compute-endpoint 4.19 has it).
OWN_CONTAINERS = ("AWSProvider", "GoogleCloudProvider", "KubernetesProvider")
