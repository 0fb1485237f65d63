"""The faults of what existed before this project, each with the tests that hold it off.

A row names what went wrong in the endpoints published so far; its tests are named by file and
function, and must exist. So a fault cannot lose its test by a renaming.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
LINK = "integration/test_link_faults.py"
CONTRACT = "unit/engine_contract.py"
BEHAVIOUR = "integration/faults/test_fault_behaviour.py"
SCHEDULE = (
    "integration/faults/test_fault_schedule.py"
    "::test_a_schedule_of_faults_loses_nothing_and_repeats_nothing"
)

CATALOGUE: dict[str, tuple[str, ...]] = {
    "1: results that await a confirm are neither failed nor sent again when the link drops": (
        f"{LINK}::test_fault_1_unconfirmed_messages_are_published_again_after_a_closed_connection",
        f"{LINK}::test_fault_1_unconfirmed_messages_survive_a_killed_broker",
        "unit/test_amqp_outgoing.py"
        "::test_after_a_lost_channel_everything_unconfirmed_goes_again_in_order",
        SCHEDULE,
    ),
    "2: acks queued for the old channel are sent on the new one": (
        f"{LINK}::test_fault_2_an_ack_of_an_old_epoch_is_dropped",
        "unit/test_agent_intake.py::test_acks_of_an_old_channel_are_dropped",
    ),
    "3: a stored result is deleted when its replay fails": (
        "unit/test_journal_journal.py"
        "::test_a_result_stays_until_it_is_settled_whatever_happens_to_its_replay",
    ),
    "4: in a thread pool two tasks see the same task id and working directory": (
        f"{CONTRACT}::test_fault_04_each_task_sees_its_own_id",
        "unit/test_engine_threads.py"
        "::test_fault_04_shell_functions_in_sandboxes_do_not_move_the_agent",
    ),
    "5: valid YAML makes the thread engine raise TypeError": (
        "unit/test_config_load.py"
        "::test_every_documented_engine_key_works_or_is_refused_by_name_at_load",
    ),
    "6: a crash loses every task that was accepted and not finished": (
        f"{BEHAVIOUR}::test_after_a_kill_what_had_begun_is_answered_and_all_else_runs_once",
        "integration/test_journal_crash.py"
        "::test_killed_from_outside_at_any_instruction_nothing_promised_is_lost",
        "integration/test_agent_crash.py::test_kill_at_a_commit_point_loses_and_repeats_nothing",
        SCHEDULE,
    ),
    "7: malformed and unsubmittable tasks are never settled themselves": (
        f"{LINK}::test_fault_7_each_delivery_is_settled_once_however_often_it_is_asked_for",
        "integration/test_agent_life.py::test_garbage_is_settled_and_the_next_good_task_runs",
        "unit/test_agent_intake.py::test_broken_headers_are_answered_when_the_body_names_the_task",
    ),
    "8: a dead worker breaks the whole process pool and every queued future": (
        f"{CONTRACT}::test_fault_08_a_killed_worker_costs_only_the_task_it_ran",
        SCHEDULE,
    ),
    "9: with the broker down the endpoint exits after some tries": (
        f"{LINK}::test_fault_9_the_links_come_back_with_their_next_try_after_a_restart_of_the_broker",
        f"{LINK}::test_fault_9_a_broker_that_accepts_and_says_nothing_is_tried_again",
        "unit/test_amqp_backoff.py"
        "::test_a_broker_that_comes_back_is_tried_within_four_seconds_however_long_it_was_away",
        f"{BEHAVIOUR}::test_after_a_broker_restart_tasks_are_answered_again",
    ),
    "10: `list` crashes on a fresh install: a private attribute of a library went away": (
        "integration/test_quickstart.py::test_the_quickstart_works_word_for_word",
        "unit/test_cli_listing.py::test_the_table_is_drawn_as_in_the_published_guide",
        "unit/test_htex_names.py::test_the_executor_has_the_names_used",
    ),
    "11: `version` takes 0.9 s and a worker imports 935 modules": (
        "unit/test_house_import_budget.py::test_a_command_that_only_talks_loads_nothing_heavy",
        "unit/test_house_import_budget.py"
        "::test_the_worker_loads_well_under_half_of_what_the_published_one_does",
    ),
    "12: the pid file holds no host: `list` lies and `stop` signals an unrelated process": (
        "unit/test_agent_state.py::test_a_pid_that_another_process_has_now_is_not_our_agent",
        "unit/test_cli_lifecycle.py::test_stop_on_the_wrong_host_is_73_and_says_where",
    ),
    "13: the unit is active while nothing works, restarts for ever, and sets no PATH and no user": (
        "integration/test_systemd.py::test_what_will_not_mend_itself_is_not_started_again",
        "integration/test_systemd.py::test_start_returns_when_a_function_can_be_run",
        "unit/test_boot_unit.py"
        "::test_fault_13_a_unit_tells_the_truth_and_stops_trying_what_cannot_work",
    ),
    "14: blocks that fail are submitted for ever": (
        "unit/test_htex_scaler.py"
        "::test_fault_14_blocks_that_never_register_are_tried_ever_more_slowly",
        "unit/test_block_breaker.py"
        "::test_the_breaker_doubles_its_delay_and_pauses_after_some_failures",
        "unit/test_block_breaker.py::test_a_pause_outlives_a_restart_and_goes_on_where_it_was",
        "integration/test_slurm_blocks.py"
        "::test_a_broken_worker_init_pauses_after_three_jobs_and_says_why",
    ),
    "15: a result over the limit is thrown away": (
        f"{CONTRACT}::test_fault_15_a_result_above_the_limit_is_kept_on_disk",
        "unit/test_worker_execute.py::test_fault_15_a_result_above_the_limit_is_kept_for_its_owner",
    ),
    "16: loading a configuration builds a live engine": (
        "unit/test_config_load.py::test_loading_has_no_effects_and_takes_milliseconds",
        "unit/test_house_import_budget.py::test_a_configuration_is_read_without_building_anything",
    ),
    "17: logs are large or without bound, and those of workers are never pruned": (
        "unit/test_htex_parts.py::test_fault_17_a_workers_log_is_bounded",
        "integration/test_log_bounds.py"
        "::test_fault_17_a_function_that_prints_without_end_does_not_fill_the_disk",
        "unit/test_agent_retention.py"
        "::test_each_kind_goes_when_it_is_older_than_its_age_and_not_before",
        "unit/test_agent_process.py::test_the_log_file_is_private_and_bounded",
    ),
    "18: an exclusive consumer gives up when its own old connection still holds the queue": (
        f"{LINK}::test_fault_18_the_queue_is_taken_over_when_a_frozen_consumer_is_cut_off",
        "integration/test_link.py"
        "::test_a_second_exclusive_consumer_waits_and_takes_over_when_the_first_goes",
    ),
}


@cache
def functions_of(file: str) -> frozenset[str]:
    """Names of the functions in a test file, methods included."""
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("fault", CATALOGUE)
def test_every_fault_of_the_catalogue_has_its_tests(fault: str) -> None:
    for test in CATALOGUE[fault]:
        file, _, name = test.partition("::")
        assert name in functions_of(file), f"{fault}: there is no {test}"
