"""docs/limits.md says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from cep.agent import dispatcher, outbox
from cep.amqp.connection import READ_AT_ONCE_BYTES
from cep.amqp.consumer import UNDIGESTED_LIMIT_BYTES
from cep.amqp.intake import MOST_MESSAGES
from cep.config.settings import (
    DAY_S,
    DEFAULT_RESULT_SIZE_LIMIT,
    DEFAULT_TASK_SIZE_LIMIT,
    MIB,
    IntakeLimits,
    Keep,
    LogSettings,
    RetentionSettings,
)
from cep.engines import worker_logs, worker_output
from cep.hub import logs as hub_logs
from cep.hub import sqlite as hub_sqlite
from cep.hub.broker.access import Limits
from cep.hub.housekeeping import Keeping
from cep.hub.options import HubOptions
from cep.journal import cache, store, tombstones

PAGE = Path(__file__).resolve().parents[2] / "docs" / "limits.md"


def row(key: str) -> str:
    """The one row of a table whose last cell is this key or option."""
    found = [line for line in PAGE.read_text().splitlines() if line.endswith(f"| `{key}` |")]
    assert len(found) == 1, found
    return found[0]


def amount(size: int) -> str:
    return f"{size // (1024 * MIB)} GiB" if size % (1024 * MIB) == 0 else f"{size // MIB} MiB"


@pytest.mark.parametrize("kind", RetentionSettings.__slots__)
def test_the_page_says_how_long_each_kind_is_kept(kind: str) -> None:
    keep: Keep = getattr(RetentionSettings(), kind)
    line = row(f"retention.{kind}")
    age = f"{keep.max_age / DAY_S:g} days" if keep.max_age else "for ever"
    assert f"| {age} |" in line
    if keep.max_bytes:
        assert amount(keep.max_bytes) in line


def test_the_page_says_the_marks_and_the_sizes() -> None:
    text = PAGE.read_text()
    marks, log = IntakeLimits(), LogSettings()
    assert (marks.high_tasks, marks.low_tasks) == (5000, 2500)
    assert (marks.high_bytes, marks.low_bytes) == (512 * MIB, 256 * MIB)
    assert "| 5,000, or 512 MiB of bodies" in text
    assert "below 2,500 and 256 MiB" in text
    assert f"never more than {MOST_MESSAGES:,}, and up to twice" in text
    record = 16 * 1024  # of TLS
    assert f"what one turn reads ({2 * (READ_AT_ONCE_BYTES + record) // 1024} KiB)" in text
    assert UNDIGESTED_LIMIT_BYTES == cache.CACHE_BYTES == outbox.MAX_IN_FLIGHT_BYTES == 64 * MIB
    assert f"{outbox.MAX_IN_FLIGHT:,}, or 64 MiB" in text
    assert f"(up to {amount(dispatcher.WINDOW_BYTES)} of bodies)" in text
    assert f"| {tombstones.LIMIT:,}, for {tombstones.KEEP_S // 3600} hours" in text
    assert amount(DEFAULT_TASK_SIZE_LIMIT) in row("task_size_limit")
    assert amount(DEFAULT_RESULT_SIZE_LIMIT) in row("engine.result_size_limit")
    assert f"{1 + log.backups} files of {amount(log.max_bytes)}" in row("log")
    assert f"{store.VACUUM_PAGES * 4096 // MIB} MiB at a time" in text
    assert worker_logs.MAX_BYTES == worker_output.MAX_BYTES == 5 * MIB
    assert "each file 5 MiB and one older" in row("retention.worker_logs")


def test_the_page_says_what_the_hub_keeps() -> None:
    text, options = PAGE.read_text(), HubOptions(state_dir=Path("x"))
    assert Keeping.of(options) == Keeping()
    assert f"{options.keep_fetched_days:g} days" in row("--keep-fetched-days")
    assert amount(options.keep_results_bytes) in row("--keep-results-bytes")
    assert f"{options.keep_functions_days:g} days" in row("--keep-functions-days")
    assert f"| results that no client has fetched | {options.keep_unread_days:g} days |" in text
    files = f"{1 + hub_logs._BACKUPS} files of {amount(hub_logs._MAX_BYTES)}"
    assert f"| `hub.log` | | {files} |" in text
    assert f"| {amount(hub_sqlite._LOG_KEPT_BYTES)} after a large transaction" in text
    limits = Limits()
    assert f"at most {amount(limits.memory_bytes)} of bodies in memory" in text
    assert f"{amount(limits.queue_bytes)} or {limits.queue_messages:,} messages" in " ".join(
        text.split()
    )
