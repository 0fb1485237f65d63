"""`cep demo`: a hub, an endpoint and some functions in two minutes, and nothing left afterwards.

It types what a user would type: `cep hub serve`, `cep hub env`, `cep configure`, `cep start`, then
a script with the official SDK, then `cep stop` and `cep hub stop`, all in one temporary directory.
It is the reaper of everything it starts (prctl(2), PR_SET_CHILD_SUBREAPER), so daemons cannot
escape it, whatever ends it. Runs in the main thread only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import click

from cep.errors import CepError, InputMissing, SoftwareError, TemporaryFailure, Unavailable

ENDPOINT_NAME = "demo"
COMMAND_TIMEOUT_S = 90.0  # of each command; the slowest, `start`, takes a few seconds
END_TIMEOUT_S = 5.0  # for a left-over process between TERM and KILL
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_HUB_LIBRARIES = ("uvicorn", "starlette", "sqlalchemy", "pamqp")
# The caller's own account with a service, or servers of a hub, have no business in the demo.
_FOREIGN = ("GLOBUS_", "FUNCX_", "GC_TASK_", "CEP_ENDPOINT_", "CEP_HUB_")


@click.command()
def demo() -> None:
    """Run functions through a hub and an endpoint of their own, then remove everything.

    Needs no account and no network. Takes port 5000 of this machine for a few seconds, the one
    the official SDK knows for a service at home.
    """
    missing = [name for name in _HUB_LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputMissing(
            f"The demo needs the hub's libraries, and {', '.join(missing)} cannot be found.",
            hint="Install them: pip install 'cep-endpoint[hub]'",
        )
    with _interruptible(), _scratch() as home:
        _run(home)


def _run(home: Path) -> None:
    """The demonstration itself, from `hub serve` to the last line."""
    session = _Session(home)
    state = str(home / "hub")
    say = click.echo
    _serve(session, state)
    with session.afterwards("hub", "stop", "--state-dir", state):
        session.use(session.cep("hub", "env", "--state-dir", state))
        say(f"Hub:              {session.environment['GLOBUS_SDK_SERVICE_URL_AUTH'].rstrip('/')}")
        session.cep("configure", ENDPOINT_NAME)
        started = session.cep("start", ENDPOINT_NAME)
        with session.afterwards("stop", ENDPOINT_NAME):
            endpoint_id = started.strip().rpartition(" ")[2]
            say(f"Endpoint ID:      {endpoint_id}")
            counts = session.functions(endpoint_id)
    say(f"Functions run:    {counts['run']}")
    say(f"Results received: {counts['received']}")


def _serve(session: _Session, state: str) -> None:
    try:
        session.cep("hub", "serve", "--detach", "--state-dir", state)
    except CepError as error:
        if error.exit_code != Unavailable.exit_code:
            raise
        # Nobody else has the directory, so it is the port, and the demo cannot take another.
        raise Unavailable(
            error.message.splitlines()[0],
            hint="Stop that (a hub of yours: cep hub stop), then run the demo again.",
        ) from error


class _Session:
    """The shell a user would have open: a directory, and variables for every command.

    Args:
        home: The demo's temporary directory; everything is written below it.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        temporary = home / "t"
        temporary.mkdir()
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)
        }
        self.environment.update(
            GLOBUS_COMPUTE_USER_DIR=str(home / "user"),
            TMPDIR=str(temporary),
            XDG_RUNTIME_DIR=str(temporary),  # control sockets too
            PYTHONUNBUFFERED="1",
        )
        for name in ("no_proxy", "NO_PROXY"):
            others = self.environment.get(name)
            self.environment[name] = ",".join(filter(None, ["localhost,127.0.0.1", others]))

    def use(self, exports: str) -> None:
        """Take over the `export NAME=value` lines that `cep hub env` has printed."""
        for word in shlex.split(exports, comments=True):
            name, equals, value = word.partition("=")
            if equals:
                self.environment[name] = value

    def cep(self, *words: str) -> str:
        """Run one cep command to its end; return what it said on stdout.

        Raises:
            CepError: It failed; carries its words and its exit code.
        """
        told = "cep " + " ".join(words[:2])
        done = self._finish([*_program(), *words], told, capture=True)
        if done.returncode != 0:
            raise _failure(
                told, done.returncode, (done.stderr or done.stdout).removeprefix("cep: ")
            )
        return done.stdout

    @contextlib.contextmanager
    def afterwards(self, *words: str) -> Iterator[None]:
        """Run a command at the block's end; after a failure its own failure does not matter."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(CepError):
                self.cep(*words)
            raise
        self.cep(*words)

    def functions(self, endpoint_id: str) -> dict[str, int]:
        """Run the script with the SDK; its words go to stdout. Returns its counts.

        Raises:
            SoftwareError: Not every function came back as it should.
        """
        argv = [sys.executable, "-m", "cep.cli.demo_functions", endpoint_id]
        done = self._finish(argv, "the script with the SDK", capture=False)
        *lines, last = done.stdout.splitlines() or [""]
        for line in lines:
            click.echo(line)
        if done.returncode != 0:
            log = self._home / "user" / ENDPOINT_NAME / "endpoint.log"
            tail = log.read_text(errors="replace").splitlines()[-10:] if log.is_file() else []
            raise SoftwareError(
                "Not every function of the demo came back as it should.",
                hint="\n".join(["The endpoint's log ends with:", *tail]),
            )
        counts: dict[str, int] = json.loads(last)
        return counts

    def _finish(
        self, argv: Sequence[str], told: str, *, capture: bool
    ) -> subprocess.CompletedProcess[str]:
        # Files, not pipes: a daemon that keeps a pipe open would keep us waiting for its end.
        out, err = self._home / "out", self._home / "err"
        with out.open("w+") as stdout, err.open("w+") as stderr:
            process = subprocess.Popen(
                argv,
                cwd=self._home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr if capture else None,
            )
            try:
                code = process.wait(timeout=COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired as exc:
                raise TemporaryFailure(
                    f"{told} did not come to an end within {COMMAND_TIMEOUT_S:.0f} s."
                ) from exc
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(argv, code, stdout.read(), stderr.read())


def _program() -> list[str]:
    """The `cep` of this very installation."""
    script = Path(sys.executable).parent / "cep"
    if os.access(script, os.X_OK):
        return [str(script)]
    return [sys.executable, "-c", "from cep.cli.main import main; main()"]


def _failure(told: str, code: int, words: str) -> CepError:
    """An error with the words and the exit code of a command that failed."""

    class DemoStepFailed(CepError):
        exit_code = code

    return DemoStepFailed(words.strip() or f"{told} ended with exit code {code}.")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary directory with a short path; at its end every process of ours is ended too."""
    import ctypes

    home = Path(tempfile.mkdtemp(prefix="cep-demo-"))
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        yield home
    finally:
        # Nothing may stop the tidying, a second Ctrl-C included.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _end_children()
        shutil.rmtree(home, ignore_errors=True)


def _end_children() -> None:
    """End all descendants, the most gentle way that works, and reap them."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    psutil.wait_procs(children, timeout=END_TIMEOUT_S)
    # What those have left us with, and what would not listen.
    for _ in range(10):
        remaining = psutil.Process().children(recursive=True)
        for child in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(remaining, timeout=END_TIMEOUT_S)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let TERM and HUP end the demo as Ctrl-C does, tidying included."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
