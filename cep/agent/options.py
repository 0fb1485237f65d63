"""How one start of the agent was asked for; crosses the border from `start` to the child."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """The words of `cep start` that concern the agent.

    Attributes:
        endpoint_uuid: Register under this id instead of the stored one.
        take_over: The lease belongs to a host that is gone; take it.
        foreground: Stay attached to the terminal or to systemd.
        debug: Log at debug level.
        log_to_console: Log to standard error as well as to the file.
        no_color: No colours on the console.
        die_with_parent: End when the starting process ends (needs `foreground`).
    """

    endpoint_uuid: str | None = None
    take_over: bool = False
    foreground: bool = False
    debug: bool = False
    log_to_console: bool = False
    no_color: bool = False
    die_with_parent: bool = False
