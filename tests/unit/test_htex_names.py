"""Parsl's names that the engine stands on; this fails when a new Parsl changes them."""

from __future__ import annotations

import inspect
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
    "_start_local_interchange_process",
    "_start_result_queue_thread",
)


def test_the_executor_has_the_names_used() -> None:
    made = HighThroughputExecutor(address="127.0.0.1")
    for name in htex_executor.PARSL_NAMES:
        assert hasattr(made, name), name
    for name in EXECUTOR_METHODS:
        assert callable(getattr(HighThroughputExecutor, name)), name
        assert name in htex_executor.PARSL_NAMES


def test_starting_the_executor_still_calls_what_is_replaced() -> None:
    source = inspect.getsource(HighThroughputExecutor.start)
    for name in ("_start_result_queue_thread", "_start_local_interchange_process"):
        assert f"self.{name}()" in source
    assert "initialize_scaling" in source


def test_the_interchange_takes_the_configuration_that_is_sent() -> None:
    wanted = set(inspect.signature(parsl_interchange.Interchange.__init__).parameters) - {"self"}
    source = inspect.getsource(htex_executor.Executor._start_local_interchange_process)
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


def test_the_pipes_have_the_sockets_used() -> None:
    assert "zmq_socket" in inspect.getsource(zmq_pipes.TasksOutgoing)
    assert "results_receiver" in inspect.getsource(zmq_pipes.ResultsIncoming)
    assert "zmq_socket" in inspect.getsource(zmq_pipes.CommandClient)
    assert hasattr(manager_selector, "RandomManagerSelector")
