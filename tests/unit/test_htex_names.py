"""Parsl's names that the engine stands on; this fails when a new Parsl changes them."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from parsl.executors.high_throughput import executor as parsl_executor
from parsl.executors.high_throughput import interchange as parsl_interchange
from parsl.executors.high_throughput import manager_selector, zmq_pipes
from parsl.executors.high_throughput import process_worker_pool as parsl_pool
from parsl.executors.high_throughput.executor import HighThroughputExecutor

from cep.engines import htex_executor, interchange, lending, pool

EXECUTOR_METHODS = (
    "_get_launch_command",
    "_launch_block",
)


def test_the_executor_has_the_names_used() -> None:
    made = HighThroughputExecutor(address="127.0.0.1")
    for name in htex_executor.PARSL_NAMES:
        assert hasattr(made, name), name
    for name in EXECUTOR_METHODS:
        assert callable(getattr(HighThroughputExecutor, name)), name
        assert name in htex_executor.PARSL_NAMES


def test_starting_the_executor_does_nothing_that_ours_leaves_out() -> None:
    """Ours has its own sockets, threads and process, and neither monitoring nor log settings."""
    used = set(re.findall(r"self\.(\w+)", inspect.getsource(HighThroughputExecutor.start)))
    ours = {"encrypted", "cert_dir", "logdir", "logconf_path", "initialize_scaling"}
    sockets = {"outgoing_q", "incoming_q", "command_client"}
    where = {"loopback_address", "interchange_port_range", "worker_debug"}
    monitoring = {"monitoring_messages", "zmq_monitoring", "hub_zmq_port"}
    threads = {"_result_queue_thread", "_start_result_queue_thread"}
    assert used == {
        *(*ours, *sockets, *where, *monitoring, *threads),
        *("log_config", "_start_local_interchange_process"),
    }
    made = HighThroughputExecutor(address="127.0.0.1")
    assert (made.log_config, made.monitoring_messages) == (None, None)


def test_the_interchange_takes_the_configuration_that_is_sent() -> None:
    wanted = set(inspect.signature(parsl_interchange.Interchange.__init__).parameters) - {"self"}
    source = inspect.getsource(htex_executor.Executor._interchange_config)
    for name in wanted:
        assert f'"{name}":' in source, name


@pytest.mark.parametrize("name", interchange.PARSL_NAMES)
def test_the_interchange_has_the_names_used(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(parsl_interchange.Interchange)


def test_the_interchanges_loop_has_no_step_that_ours_leaves_out() -> None:
    theirs = _steps(parsl_interchange.Interchange.start)
    ours = _steps(interchange.EndpointInterchange._turn)
    assert theirs - ours == {"log_manager_counts"}


def _steps(function: Any) -> set[str]:
    source = inspect.getsource(function)
    prefixes = ("process_", "expire_", "log_")
    return {
        word.partition("self.")[2].partition("(")[0]
        for word in source.split()
        if any(f"self.{prefix}" in word for prefix in prefixes)
    }


@pytest.mark.parametrize("name", pool.PARSL_NAMES)
def test_the_manager_has_the_names_used(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(parsl_pool.Manager)


@pytest.mark.parametrize("name", pool.PARSL_GLOBALS)
def test_the_pool_module_has_the_names_used(name: str) -> None:
    assert hasattr(parsl_pool, name)


def test_a_worker_takes_the_arguments_it_is_given() -> None:
    assert list(inspect.signature(parsl_pool.worker).parameters) == [
        "worker_id",
        "pool_id",
        "pool_size",
        "task_queue",
        "result_queue",
        "monitoring_queue",
        "ready_worker_count",
        "tasks_in_progress",
        "cpu_affinity",
        "accelerator",
        "block_id",
        "task_queue_timeout",
        "manager_pid",
        "logdir",
        "log_config",
        "debug",
        "mpi_launcher",
    ]


def test_the_pool_takes_the_arguments_it_is_given() -> None:
    wanted = set(inspect.signature(parsl_pool.Manager.__init__).parameters) - {"self"}
    source = inspect.getsource(pool._build)
    for name in wanted:
        assert f"{name}=" in source, name


def test_the_launch_command_begins_with_the_pool_that_is_replaced() -> None:
    assert parsl_executor.DEFAULT_LAUNCH_CMD.startswith(lending.PUBLISHED_POOL)


def test_the_interchange_makes_the_sockets_that_are_told_apart() -> None:
    source = inspect.getsource(parsl_interchange.Interchange)
    made = re.findall(r"self\.(\w+) = self\.zmq_context\.socket\(zmq\.(\w+)\)", source)
    assert made == [
        ("task_incoming", "DEALER"),
        ("results_outgoing", "DEALER"),
        ("command_channel", "REP"),
        ("manager_sock", "ROUTER"),
    ]
    assert source.count("zmq_context.socket(") == len(made)
    for number, name in enumerate(("task_incoming", "results_outgoing", "command_channel")):
        assert f"self.{name}.connect(tcp_url(client_address, client_ports[{number}]))" in source
    assert "self.zmq_context = curvezmq.ServerContext(self.cert_dir)" in source


def test_the_agents_ends_are_of_the_kind_that_parsls_are() -> None:
    for pipe, kind in (
        (zmq_pipes.TasksOutgoing, "DEALER"),
        (zmq_pipes.ResultsIncoming, "DEALER"),
        (zmq_pipes.CommandClient, "REQ"),
    ):
        assert f"self.zmq_context.socket(zmq.{kind})" in inspect.getsource(pipe)
    assert hasattr(manager_selector, "RandomManagerSelector")
