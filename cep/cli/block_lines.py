"""Blocks in lines for people, from the agent's picture of itself. Pure.

The picture may come from a file of another version: what is missing or odd is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENDS_SHOWN = 3


def block_lines(engine: Mapping[str, Any], name: str, ends_shown: int = ENDS_SHOWN) -> list[str]:
    """One line for each block that lives, for the last that ended, and for the breaker.

    Args:
        engine: The `engine` part of the agent's picture.
        name: The endpoint's name, for the command to type.
        ends_shown: How many ended blocks.
    """
    lines = [_alive(block) for block in _objects(engine.get("blocks"))]
    ended = _objects(engine.get("ended_blocks"))
    for block in ended[-ends_shown:] if ends_shown else []:
        lines += _ended(block)
    breaker = engine.get("breaker")
    if isinstance(breaker, dict) and breaker.get("paused"):
        lines += _paused(breaker, name)
    if engine.get("scheduler"):
        lines.append(f"Scheduler: does not answer: {engine['scheduler']}")
    return lines


def _objects(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _alive(block: Mapping[str, Any]) -> str:
    said = str(block.get("scheduler") or "")
    if said and block.get("reason"):
        said += f" ({block['reason']})"
    parts = [
        f"Block {block.get('block')}:   job {block.get('job')}, {block.get('state')}",
        *([f"the scheduler says {said}"] if said else []),
        *([f"on {block['nodes']}"] if block.get("nodes") else []),
        f"{block.get('workers', 0)} workers",
    ]
    return ", ".join(parts)


def _ended(block: Mapping[str, Any]) -> list[str]:
    job = f"job {block['job']}" if block.get("job") else "not submitted"
    line = f"Ended:     block {block.get('block')}, {job}, {block.get('state')}"
    if block.get("exit_code"):
        line += f", exit status {block['exit_code']}"
    if block.get("reason"):
        line += f" ({block['reason']})"
    if not block.get("workers_came"):
        line += ", no worker came"
    return [line, *([f"           {block['stderr']}"] if block.get("stderr") else [])]


def _paused(breaker: Mapping[str, Any], name: str) -> list[str]:
    again = f"ask again with: cep blocks {name} resume"
    if breaker.get("by") == "hand":
        return [f"Blocks:    PAUSED by hand; {again}"]
    wait = breaker.get("retry_in_s")
    then = f"next try in {wait} s, or " if wait else ""
    return [
        f"Blocks:    PAUSED, {breaker.get('failures')} failed in a row; {then}{again}",
        f"           {breaker.get('reason')}",
    ]
