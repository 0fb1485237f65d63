"""What of a changed configuration a running agent takes over, and the list for people."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from cep.agent import live
from cep.agent.live import compare
from cep.config.load import load_text
from cep.config.settings import EndpointSettings
from cep.config.tables import TOP

SERVICE = Path(__file__).parents[2] / "docs" / "service.md"
HTEX = """
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  provider: {{type: LocalProvider, min_blocks: 0, max_blocks: {most}{more}}}
"""


def settings(text: str) -> EndpointSettings:
    return load_text(text, "config.yaml")


def threads(text: str, engine: str = "{type: ThreadPoolEngine}") -> EndpointSettings:
    return settings(f"{text}\nengine: {engine}\n")


def test_every_key_is_either_taken_over_or_needs_a_restart() -> None:
    names = {field.name for field in fields(EndpointSettings)}
    assert names == live.LIVE | live.RESTART | live.COMPOUND
    assert not live.LIVE & live.RESTART
    assert live.REGISTERED <= live.LIVE


def test_the_list_for_people_is_the_one_that_holds() -> None:
    told = SERVICE.read_text().partition("<!-- live keys -->")[2].partition("<!-- end -->")[0]
    names = {key.field or key.name: key.name for key in TOP}
    wanted = {names[name] for name in live.LIVE}
    wanted |= {f"engine.{name}" for name in live.LIVE_ENGINE.values()}
    wanted |= {f"engine.provider.{name}" for name in live.LIVE_PROVIDER}
    assert set(told.split("`")[1::2]) == wanted


def test_nothing_changed_is_nothing_to_do() -> None:
    change = compare(threads("debug: true"), threads("debug: true"))
    assert (change.taken, change.restart, change.registers) == ((), (), False)


def test_live_keys_are_taken_and_the_others_named_as_the_file_has_them() -> None:
    now = threads("intake: {high_tasks: 10, low_tasks: 5}\nheartbeat_period: 30")
    change = compare(now, threads("drain_timeout: 60\nheartbeat_period: 5"))
    assert change.taken == ("drain_timeout", "intake")
    assert change.restart == ("heartbeat_period",)
    assert change.settings.intake.high_tasks == 5000
    assert change.settings.drain_timeout_s == 60
    assert change.settings.heartbeat_period_s == 30
    assert change.settings.raw_text == now.raw_text  # it is not what runs


def test_the_text_is_what_runs_when_all_of_it_does() -> None:
    wanted = threads("drain_timeout: 60")
    assert compare(threads(""), wanted).settings.raw_text == wanted.raw_text


@pytest.mark.parametrize("key", sorted(live.REGISTERED))
def test_what_the_service_is_told_registers_anew(key: str) -> None:
    value = {"display_name": "x", "public": "true"}.get(key)
    uuid = "99999999-2222-4333-8444-555555555555"
    if value is None:
        value = f"[{uuid}]" if key in ("allowed_functions", "admins") else uuid
    change = compare(threads(""), threads(f"{key}: {value}"))
    assert change.taken == (key,)
    assert change.registers


def test_numbers_of_blocks_are_taken_and_other_arguments_are_not() -> None:
    now = settings(HTEX.format(most=1, more=""))
    wanted = settings(HTEX.format(most=4, more=", init_blocks: 0, worker_init: date"))
    change = compare(now, wanted)
    assert change.taken == ("engine.provider.init_blocks", "engine.provider.max_blocks")
    assert change.restart == ("engine.provider.worker_init",)
    provider = change.settings.engine.provider  # type: ignore[union-attr]
    assert dict(provider.arguments) == {"min_blocks": 0, "max_blocks": 4, "init_blocks": 0}


def test_arguments_of_the_engine_are_named_one_by_one() -> None:
    now = settings(HTEX.format(most=1, more=""))
    wanted = settings(
        HTEX.format(most=1, more="")
        .replace("node: 2", "node: 3")
        .replace("  provider", "  job_status_kwargs: {max_idletime: 5}\n  provider")
    )
    change = compare(now, wanted)
    assert change.taken == ("engine.job_status_kwargs.max_idletime",)
    assert change.restart == ("engine.max_workers_per_node",)


def test_another_engine_or_provider_is_one_word() -> None:
    now = settings(HTEX.format(most=1, more=""))
    assert compare(now, threads("")).restart == ("engine.type",)
    slurm = settings("engine: {type: GlobusComputeEngine, provider: {type: SlurmProvider}}")
    assert "engine.provider.type" in compare(now, slurm).restart


def test_an_audit_may_move_but_neither_begin_nor_end_in_the_middle() -> None:
    moved = compare(threads("audit_log: a"), threads("audit_log: b"))
    assert (moved.taken, moved.settings.audit_log) == (("audit_log",), "b")
    for now, wanted in (("", "audit_log: a"), ("audit_log: a", "")):
        change = compare(threads(now), threads(wanted))
        assert (change.taken, change.restart) == ((), ("audit_log",))
        assert change.settings.audit_log == threads(now).audit_log
