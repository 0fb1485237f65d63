"""The same steps on several hosts at once: one for each release of systemd that is promised.

A service spends its time waiting (for a watchdog, a reboot, a retry), so hosts side by side take
hardly longer than one. Each host has a thread for the length of a step, and steps begin together.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from tests.integration.systemd_host import SystemdHost

IMAGES = ("systemd", "systemd-252")  # 257 and 252: Debian 13 and 12, and RHEL 10 and 9

T = TypeVar("T")


class Each(Generic[T]):
    """A value for each host, in the order of the hosts."""

    def __init__(self, values: Sequence[T]) -> None:
        self.values = values


class Hosts(Each[SystemdHost]):
    """Hosts that take each step together."""

    def do(self, step: Callable[..., T], *more: Any) -> Each[T]:
        """Call `step(host, *more)` for all hosts at once; return when all are done.

        Args:
            step: Called in a thread of its own for each host.
            more: Other arguments; of an `Each` every host gets its own value.

        Raises:
            BaseException: What a step raised; the others' are printed, each with its host.
        """
        with ThreadPoolExecutor(len(self.values), thread_name_prefix="host") as pool:
            begun = [
                pool.submit(step, host, *(_own(value, place) for value in more))
                for place, host in enumerate(self.values)
            ]
        failed = [
            (host, error)
            for host, future in zip(self.values, begun, strict=True)
            if (error := future.exception()) is not None
        ]
        for host, error in failed:
            print(f"--- failed on {host.image} ({host.name}):")
            traceback.print_exception(error)
        if failed:
            raise failed[0][1]
        return Each([future.result() for future in begun])


def _own(value: Any, place: int) -> Any:
    return value.values[place] if isinstance(value, Each) else value


def on_all(step: Callable[..., None]) -> Callable[..., None]:
    """Make a test of one `host`, its first argument, one of the fixture `hosts`.

    Its other fixtures stay as they are; one that is an `Each` gives each host its own value.
    """
    wanted = inspect.signature(step).parameters
    assert next(iter(wanted)) == "host", step

    @functools.wraps(step)
    def together(hosts: Hosts, **fixtures: Any) -> None:
        hosts.do(step, *(fixtures[name] for name in others))

    others = [name for name in wanted if name != "host"]
    first = inspect.Parameter("hosts", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    together.__signature__ = inspect.Signature([first, *(wanted[name] for name in others)])  # type: ignore[attr-defined]
    return together


@contextlib.contextmanager
def started(hosts: Sequence[SystemdHost]) -> Iterator[Hosts]:
    """Have these hosts up, made and removed side by side."""
    with contextlib.ExitStack() as stack:
        made = Hosts(hosts)
        stack.callback(made.do, lambda host: host.__exit__(None, None, None))
        made.do(lambda host: host.__enter__())
        yield made
