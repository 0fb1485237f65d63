"""A reload in the agent: all that can be taken over, or nothing; and who is told what."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from cep.agent.connections import Connections
from cep.agent.idle import IdleWatch
from cep.agent.mailbox import ConfigRead, Mailbox, Timers
from cep.agent.picture import of_reload
from cep.agent.reload import MOST_WAITING, Reload
from cep.config.load import load
from cep.errors import CantCreate, ConfigError, NotAllowed, revived
from cep.model import QueueAddress, Registered
from cep.paths import EndpointPaths

ENGINE = "engine: {type: ThreadPoolEngine, max_workers: 1}\n"
ADDRESS = QueueAddress("amqp://user:word@localhost:5672", "queue")
REGISTERED = Registered("the-id", ADDRESS, ADDRESS)


class Rig:
    """A reload with stand-ins around it; the thread, the file and the mailbox are real."""

    def __init__(self, root: Path) -> None:
        self.config = root / "config.yaml"
        self.write("")
        self.config.chmod(0o600)
        self.mailbox = Mailbox()
        self.parts = SimpleNamespace(
            paths=EndpointPaths.of(root),
            settings=load(self.config),
            mailbox=self.mailbox,
            debug=False,
            enrolment=Mock(ca_file=None),
            **{name: Mock() for name in ("intake", "dispatcher", "reporter", "retention")},
            **{name: Mock() for name in ("audit", "links", "engine")},
        )
        self.parts.enrolment.register.return_value = REGISTERED
        self.standing = Mock()
        self.outcomes: list[dict[str, Any]] = []
        self.adopted: list[Registered] = []
        self.reload = Reload(
            self.parts,  # type: ignore[arg-type]
            self.standing,
            IdleWatch(0, 0),
            self.adopted.append,
        )

    def write(self, text: str, engine: str = ENGINE) -> None:
        self.config.write_text(text + engine)

    def ask(self) -> None:
        self.reload.ask(self.outcomes.append)

    def turn(self) -> ConfigRead:
        """One turn of the main loop, when the file has been read."""
        (event,) = self.mailbox.gather(30)
        assert isinstance(event, ConfigRead)
        self.reload.read(event)
        return event

    def do(self, text: str, engine: str = ENGINE) -> dict[str, Any]:
        self.write(text, engine)
        self.ask()
        self.turn()
        return self.outcomes[-1]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    root = tmp_path / "one"
    root.mkdir(mode=0o700)
    return Rig(root)


def test_what_can_be_is_taken_over_and_the_rest_is_named(rig: Rig) -> None:
    outcome = rig.do("task_size_limit: 2048\n", ENGINE.replace(": 1", ": 2"))
    assert outcome["changed"] == ["task_size_limit"]
    assert outcome["restart_needed"] == ["engine.max_workers"]
    assert rig.parts.intake.change.call_args.kwargs["task_size_limit"] == 2048
    assert rig.parts.settings.task_size_limit == 2048
    assert rig.parts.settings.engine.max_workers == 1
    rig.parts.enrolment.register.assert_not_called()
    assert rig.standing.mock_calls[0][0] == "reloading"
    rig.standing.reloaded.assert_called_once_with(outcome)


def test_a_wrong_configuration_changes_nothing_and_says_what_is_wrong(rig: Rig) -> None:
    before = rig.parts.settings
    outcome = rig.do("task_size_limit: 2048\nnonsense: 1\n")
    error = revived(outcome)
    assert isinstance(error, ConfigError)
    assert "nonsense" in error.message
    assert str(rig.config) in error.message
    assert rig.parts.settings is before
    rig.parts.intake.change.assert_not_called()
    rig.standing.reloaded.assert_called_once()


def test_a_service_that_refuses_changes_nothing(rig: Rig) -> None:
    rig.parts.enrolment.register.side_effect = NotAllowed("No.", hint="run: cep login")
    before = rig.parts.settings
    error = revived(rig.do("display_name: other\ntask_size_limit: 2048\n"))
    assert (type(error), error.hint) == (NotAllowed, "run: cep login")
    assert rig.parts.settings is before
    rig.parts.intake.change.assert_not_called()


def test_a_new_name_is_told_to_the_service_and_its_addresses_are_used(rig: Rig) -> None:
    assert rig.do("display_name: other\n")["changed"] == ["display_name"]
    (said,) = rig.parts.enrolment.register.call_args.args
    assert said.display_name == "other"
    assert rig.parts.enrolment.settings.display_name == "other"
    assert rig.adopted == [REGISTERED]


@pytest.mark.parametrize("same", [True, False])
def test_new_addresses_settle_what_a_refused_link_has_asked_for(same: bool) -> None:
    parts = Mock(timers=Timers())
    parts.links.are_at.return_value = same
    connections = Connections(parts, became_ready=Mock(), report=Mock(), give_up=Mock())
    connections.reregistration.wanted()
    connections.adopt(REGISTERED)
    assert (parts.timers.take_due() == []) is not same
    assert parts.links.readdress.call_count == (0 if same else 1)


def test_an_audit_goes_on_at_another_place(rig: Rig, tmp_path: Path) -> None:
    rig.parts.settings = load_again(rig, "audit_log: audit.log\n")
    assert rig.do("audit_log: other.log\n")["changed"] == ["audit_log"]
    trail = rig.parts.audit.move.call_args.args[0]
    assert trail.where == str(tmp_path / "one" / "other.log")
    trail.close()


def test_an_audit_whose_new_place_cannot_be_opened_stays_where_it_is(rig: Rig) -> None:
    rig.parts.settings = load_again(rig, "audit_log: audit.log\n")
    outcome = rig.do("audit_log: missing/other.log\ntask_size_limit: 2048\n")
    assert isinstance(revived(outcome), CantCreate)
    rig.parts.audit.move.assert_not_called()
    rig.parts.intake.change.assert_not_called()


def load_again(rig: Rig, text: str) -> Any:
    rig.write(text)
    return load(rig.config)


def test_who_asks_while_the_file_is_read_gets_a_newer_reading(rig: Rig) -> None:
    rig.ask()
    rig.ask()
    rig.turn()
    assert len(rig.outcomes) == 1
    rig.turn()
    assert len(rig.outcomes) == 2


def test_two_reloads_soon_after_each_other_can_be_told_apart() -> None:
    first = of_reload({})["at"]
    time.sleep(0.002)  # no reading of a file is shorter than the unit of that time
    assert of_reload({})["at"] > first


def test_only_so_many_may_wait(rig: Rig) -> None:
    for _ in range(MOST_WAITING + 2):
        rig.ask()
    assert [outcome["kind"] for outcome in rig.outcomes] == ["Unavailable"]
    rig.turn()
    rig.turn()
    assert len(rig.outcomes) == MOST_WAITING + 2


def test_a_stop_keeps_nobody_waiting_and_uses_nothing_that_comes_late(rig: Rig) -> None:
    rig.write("task_size_limit: 2048\n")
    rig.ask()
    rig.ask()
    rig.reload.end()
    assert ["stopping" in outcome["error"] for outcome in rig.outcomes] == [True, True]
    rig.turn()
    rig.parts.intake.change.assert_not_called()
    rig.standing.reloaded.assert_not_called()
    rig.ask()
    assert len(rig.outcomes) == 3


PROGRAM = """
import signal, sys
from cep.agent import process
got = []
process.Signals(lambda number: got.append(number)).install()
try:
    signal.raise_signal(signal.SIGHUP)
except process.StopRequested:
    got.append("stop")
print(got)
"""


def hangup(**session: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, **session
    )
    return done.stdout.strip()


def test_without_a_terminal_sighup_asks_for_a_reload() -> None:
    assert hangup(start_new_session=True) == "[1]"


@pytest.mark.parametrize(("ignored", "says"), [(False, "['stop']"), (True, "[]")])
def test_with_a_terminal_sighup_is_its_end_unless_it_was_to_be_ignored(
    ignored: bool, says: str
) -> None:
    action = "SIG_IGN" if ignored else "SIG_DFL"
    taken = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    before = f"import signal; signal.signal(signal.SIGHUP, signal.{action})"
    terminal, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"{taken}\n{before}\n{PROGRAM}"],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    said = b""
    while True:
        try:
            piece = os.read(terminal, 1024)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    process.wait()
    os.close(terminal)
    assert said.decode().strip() == says
