"""`cep start`: launch the agent as a detached child and wait for its word.

The child is the same program as `cep start --foreground`, in its own session. It loads its code
while the command still looks at the configuration and the login, and begins with the credentials
that the command hands over; a command that ends before that leaves nothing behind. It answers
through a pipe with JSON lines: notes for people, then "ready" with the endpoint's id, or "error"
with exit code and sentence. A pipe that closes without either is an error, shown with the end of
the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from cep import errors
from cep.agent import credentials
from cep.agent.options import StartOptions
from cep.errors import CepError, SoftwareError, UsageError
from cep.paths import EndpointPaths

# One line of the pipe: {"note": text}, {"ready": endpoint id}, or {"error", "hint", "kind"}.
Word: TypeAlias = dict[str, Any]

LOG_LINES_SHOWN = 15


def start(
    base: Path,
    name: str,
    options: StartOptions,
    note: Callable[[str], None] | None = None,
    *,
    secrets: Mapping[str, str] = MappingProxyType({}),
    before: Callable[[], None] = lambda: None,
) -> str:
    """Start the endpoint `name` below the user directory `base`, detached.

    Args:
        base: The user directory.
        name: The endpoint's name.
        options: How to start; `foreground` is not for this function.
        note: Takes sentences for people that arrive before the endpoint is ready.
        secrets: Variables with credentials, which win over those of our own environment.
        before: What has to be in order before the agent begins; called here, while the child
            loads its code. When it raises, the child ends without having begun.

    Returns:
        The endpoint's id, once its agent is ready to take tasks.

    Raises:
        CepError: With the child's own sentence and exit code; or what `before` raises.
    """
    if options.die_with_parent:
        raise UsageError(
            "--die-with-parent needs --foreground: a detached endpoint's parent ends at once."
        )
    read_end, write_end = os.pipe()
    words = [sys.executable, "-m", "cep.agent", str(base), name, str(write_end)]
    environ, found = credentials.split(os.environ)
    with open(read_end, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor, not a path
        child = subprocess.Popen(
            [*words, json.dumps(asdict(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environ,
            pass_fds=(write_end,),
            start_new_session=True,
            cwd="/",
        )
        os.close(write_end)
        try:
            before()
        except BaseException:
            child.kill()
            child.communicate()
            raise
        _hand_over(child, {**found, **secrets})
        try:
            return _wait_for_word(pipe, note or (lambda _text: None), base, name)
        except KeyboardInterrupt:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            raise
        except CepError:
            child.wait()
            raise
        finally:
            child.returncode = child.returncode or 0  # detached: its end is not ours to reap


def _hand_over(child: subprocess.Popen[bytes], secrets: dict[str, str]) -> None:
    """Give the child its credentials where no other process sees them: by its standard input."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
        pipe.write(json.dumps(secrets).encode())


def read_words(pipe: Iterable[str]) -> Iterator[Word]:
    """What the child says, in order, until "ready", "error" or the end."""
    for line in pipe:
        word: Word = json.loads(line)
        yield word
        if "ready" in word or "error" in word:
            return


def _wait_for_word(pipe: Iterable[str], note: Callable[[str], None], base: Path, name: str) -> str:
    for word in read_words(pipe):
        if "ready" in word:
            return str(word["ready"])
        if "error" in word:
            raise errors.revived(word)
        note(str(word.get("note", "")))
    raise SoftwareError(
        f"The agent of endpoint {name} ended without a word. The end of its log:\n"
        + _end_of_log(EndpointPaths.of(base / name).log)
    )


def _end_of_log(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as exc:
        return f"(no log: {exc})"
    return "\n".join(lines[-LOG_LINES_SHOWN:]) or "(empty)"


class Announcer:
    """The child's end of the pipe."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def note(self, text: str) -> None:
        """Tell the person at the terminal something before the endpoint is ready."""
        self._say({"note": text})

    def ready(self, endpoint_id: str) -> None:
        """The endpoint takes tasks; nothing more will be said."""
        self._say({"ready": endpoint_id}, last=True)

    def error(self, error: CepError) -> None:
        """The endpoint could not start; nothing more will be said."""
        self._say(errors.told(error), last=True)

    def _say(self, word: Word, *, last: bool = False) -> None:
        if self._descriptor is None:
            return
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            os.write(self._descriptor, json.dumps(word).encode() + b"\n")
        if last:
            os.close(self._descriptor)
            self._descriptor = None
