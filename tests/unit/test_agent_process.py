"""The agent's edges: mailbox and timers, logs, hooks, control socket, the start pipe."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cep.agent import control, hooks, logs, loop
from cep.agent.launch import Announcer, _wait_for_word
from cep.agent.log_writer import LogWriter
from cep.agent.mailbox import ENOUGH_EVENTS, ControlRequest, Mailbox, Signalled, Timers
from cep.config.settings import LogSettings
from cep.errors import (
    CantCreate,
    ConfigError,
    NotAllowed,
    SoftwareError,
    Unavailable,
)
from cep.paths import EndpointPaths


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EndpointPaths:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    root = tmp_path / "one"
    root.mkdir()
    return EndpointPaths.of(root)


def test_timers_fire_once_in_order_of_their_deadline() -> None:
    now = [0.0]
    timers = Timers(lambda: now[0])
    timers.set("late", 5)
    timers.set("soon", 1)
    timers.set_if_unset("soon", 100)
    assert timers.next_in_s() == 1
    now[0] = 6
    assert timers.take_due() == ["soon", "late"]
    assert timers.take_due() == []
    assert timers.next_in_s() is None


def test_one_turn_takes_a_bounded_number_of_events_in_order() -> None:
    mailbox = Mailbox()
    for number in range(1, 1000):
        mailbox.put(Signalled(number))
    first = mailbox.gather(None)
    assert len(first) == 512
    assert first[0] == Signalled(1)
    assert len(mailbox.gather(0)) == 999 - 512
    assert mailbox.gather(0) == []


@pytest.mark.parametrize(
    "text",
    [
        "amqps://ep1:hunter2@broker.example:5671/",
        "Authorization: Bearer hunter2hunter2",
        "client_secret=hunter2",
        '{"access_token": "hunter2"}',
        "password: hunter2",
    ],
)
def test_no_secret_is_written_to_the_log(text: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", (text,), None)
    line = logs.RedactingFormatter().format(record)
    assert "hunter2" not in line
    assert "***" in line


def test_control_characters_are_made_visible_in_the_log() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", ("a\x1b[31mb\rc",), None)
    line = logs.RedactingFormatter().format(record)
    assert "\x1b" not in line
    assert "\\x1b" in line
    assert "\r" not in line


def test_the_log_file_is_private_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.log"
    handler = logs.LogFile(path, LogSettings(max_bytes=1000, backups=1), take_output=False)
    for _ in range(100):
        handler.emit(logging.LogRecord("x", logging.INFO, "f", 1, "x" * 50, (), None))
    handler.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["endpoint.log", "endpoint.log.1"]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert sum(file.stat().st_size for file in files) <= 2000


def test_a_failed_setup_names_its_status_and_last_lines_and_owes_no_teardown(
    tmp_path: Path,
) -> None:
    script = "for i in $(seq 30); do echo line $i; done; echo oops >&2; exit 3"
    with pytest.raises(ConfigError, match="status 3") as caught:
        hooks.run_setup(script, tmp_path, tmp_path / "due")
    assert "oops" in str(caught.value)
    assert "line 30" in str(caught.value)
    assert "line 11\n" not in str(caught.value)
    assert not (tmp_path / "due").exists()


def test_setup_cannot_change_the_endpoints_environment(tmp_path: Path) -> None:
    hooks.run_setup("export CEP_TEST_VARIABLE=1; cd /", tmp_path, tmp_path / "due")
    assert "CEP_TEST_VARIABLE" not in os.environ
    assert (tmp_path / "due").exists()


def test_the_script_is_not_shown_by_ps(tmp_path: Path) -> None:
    script = f"# token hunter2\ncat /proc/$$/cmdline > {tmp_path}/argv\n"
    hooks.run_setup(script, tmp_path, tmp_path / "due")
    argv = (tmp_path / "argv").read_text()
    assert argv.startswith("/bin/sh\0")
    assert "hunter2" not in argv


def test_a_long_script_runs_whole(tmp_path: Path) -> None:
    script = "# x\n" * 100_000 + "echo end > end\n"
    hooks.run_setup(script, tmp_path, tmp_path / "due")
    assert (tmp_path / "end").read_text() == "end\n"


def test_a_failed_teardown_is_logged_and_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    due = tmp_path / "due"
    due.touch()
    hooks.run_teardown("echo went wrong; exit 4", tmp_path, due)
    assert "status 4" in caplog.text
    assert "went wrong" in caplog.text
    assert not due.exists()


@pytest.fixture
def server(paths: EndpointPaths) -> Iterator[Mailbox]:
    mailbox = Mailbox()
    server = control.ControlServer(control.socket_path(paths), mailbox.put)
    server.start()
    yield mailbox
    server.stop()
    assert not control.socket_path(paths).exists()


def test_a_request_reaches_the_mailbox_and_its_answer_comes_back(
    paths: EndpointPaths, server: Mailbox
) -> None:
    def answer() -> None:
        (event,) = server.gather(60)
        assert isinstance(event, ControlRequest)
        event.reply({"got": event.request})

    thread = threading.Thread(target=answer)
    thread.start()
    assert control.call(paths, {"do": "status"}, 60) == {"got": {"do": "status"}}
    thread.join()


def test_who_waits_for_a_reload_holds_up_nobody_and_only_so_many_may(
    paths: EndpointPaths, server: Mailbox
) -> None:
    def ask() -> None:
        answers.append(control.call(paths, {"do": "reload"}, 60))

    answers: list[dict[str, object]] = []
    waiting = [threading.Thread(target=ask) for _ in range(control.MOST_SLOW)]
    for thread in waiting:
        thread.start()
    asked = list(server.gather(30))
    while len(asked) < len(waiting):
        asked += server.gather(30)
    with pytest.raises(Unavailable, match="wait already"):
        control.call(paths, {"do": "reload"}, 60)

    status = threading.Thread(target=lambda: control.call(paths, {"do": "status"}, 60))
    status.start()
    for event in [*server.gather(30), *asked]:
        assert isinstance(event, ControlRequest)
        event.reply({})
    for thread in (status, *waiting):
        thread.join(60)
    assert answers == [{}] * control.MOST_SLOW


def test_a_refusal_of_the_agent_is_an_error_here(paths: EndpointPaths, server: Mailbox) -> None:
    def answer() -> None:
        (event,) = server.gather(60)
        assert isinstance(event, ControlRequest)
        event.reply({"error": "The agent knows no request 'dance'."})

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(Unavailable, match="dance"):
        control.call(paths, {"do": "dance"})
    thread.join()


def test_without_an_agent_the_call_says_so(paths: EndpointPaths) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        control.call(paths, {"do": "status"}, 60)


def test_a_socket_directory_open_to_others_is_refused(paths: EndpointPaths) -> None:
    directory = control.socket_path(paths).parent
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    server = control.ControlServer(control.socket_path(paths), Mailbox().put)
    with pytest.raises(CantCreate, match="0700"):
        server.start()


def test_events_join_the_first_one_until_there_are_enough_or_the_time_is_over() -> None:
    mailbox = Mailbox()

    def flood() -> None:
        for number in range(ENOUGH_EVENTS):
            mailbox.put(Signalled(number))

    mailbox.put(Signalled(-1))
    thread = threading.Thread(target=flood)
    thread.start()
    # An hour would be noticed: the last of them ends the wait.
    assert len(mailbox.gather(None, 3600.0)) == 1 + ENOUGH_EVENTS
    thread.join()
    mailbox.put(Signalled(1))
    assert mailbox.gather(None, 0.002) == [Signalled(1)]
    assert mailbox.gather(0, 3600.0) == []


def test_only_with_enough_in_hand_do_events_wait_for_each_other() -> None:
    def linger_s(given: int, unconfirmed: int = 0) -> float:
        parts = SimpleNamespace(
            dispatcher=SimpleNamespace(given=given),
            outbox=SimpleNamespace(unconfirmed=unconfirmed),
        )
        return loop.MainLoop._linger_s(SimpleNamespace(_p=parts))  # type: ignore[arg-type]

    few = loop.LINGER_FROM - 1
    assert linger_s(few) == linger_s(0, few) == 0
    assert 0.002 <= linger_s(few + 1) < linger_s(2 * loop.LINGER_FROM)
    assert linger_s(few, 1) == linger_s(1, few) == linger_s(few + 1)
    assert linger_s(100_000) == loop.LONGEST_LINGER_S


def _conversation(tmp_path: Path, *words: bytes) -> str:
    read_end, write_end = os.pipe()
    os.write(write_end, b"".join(words))
    os.close(write_end)
    notes: list[str] = []
    with os.fdopen(read_end) as pipe:
        answer = _wait_for_word(pipe, notes.append, tmp_path, "one")
    return " ".join([*notes, answer])


def _said(speak: str, *arguments: object) -> bytes:
    read_end, write_end = os.pipe()
    getattr(Announcer(write_end), speak)(*arguments)
    if speak == "note":
        os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        return pipe.read()


def test_notes_come_before_the_id(tmp_path: Path) -> None:
    words = (_said("note", "As root."), _said("ready", "the-id"))
    assert _conversation(tmp_path, *words) == "As root. the-id"


def test_the_childs_error_keeps_its_class_sentence_and_hint(tmp_path: Path) -> None:
    word = _said("error", NotAllowed("No login.", hint="run: cep login"))
    with pytest.raises(NotAllowed, match="No login") as caught:
        _conversation(tmp_path, word)
    assert caught.value.hint == "run: cep login"
    assert caught.value.exit_code == 77


def test_a_pipe_that_closes_without_a_word_shows_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "endpoint.log").write_text("first\nSegmentation fault\n")
    with pytest.raises(SoftwareError, match="Segmentation fault"):
        _conversation(tmp_path)


def test_an_unknown_error_class_is_a_software_error(tmp_path: Path) -> None:
    word = json.dumps({"error": "x", "hint": None, "kind": "os"}).encode() + b"\n"
    with pytest.raises(SoftwareError):
        _conversation(tmp_path, word)


@pytest.mark.parametrize("journal", [True, False])
def test_a_command_s_own_logging_does_not_hide_the_agents_log(
    tmp_path: Path, journal: bool
) -> None:
    program = f"""
import logging
from pathlib import Path
from cep.agent import logs
from cep.agent.journal_log import JournalHandler
from cep.cli.command import Shared, set_up_logging
from cep.config.settings import LogSettings

set_up_logging(Shared())
handler = JournalHandler("one", "x", Path("/nobody")) if {journal} else None
logs.set_up(Path("log"), LogSettings(), debug=False, console=False, detached=False, journal=handler)
logging.getLogger("cep.x").info("an information")
logging.getLogger("cep.x").warning("a warning")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stderr == ("" if journal else "a warning\n")
    log = (tmp_path / "log").read_text()
    assert "an information" in log
    assert log.count("a warning") == 1


def test_a_reload_changes_the_level_and_the_bounds_of_the_log_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cep.agent.log_writer.FLUSH_S", 60.0)
    path = tmp_path / "endpoint.log"
    file = logs.LogFile(path, LogSettings(), take_output=False)
    writer = LogWriter(file)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [writer])
    before = root.level
    root.setLevel(logging.INFO)
    try:
        logs.change(LogSettings(max_bytes=4096, backups=1), debug=True)
        for _ in range(100):
            root.debug("x" * 200)
        writer.flush()
        assert sorted(one.name for one in tmp_path.iterdir()) == [path.name, f"{path.name}.1"]
        assert path.stat().st_size <= 4096
        logs.change(LogSettings(), debug=False)
        assert root.level == logging.INFO
    finally:
        root.setLevel(before)  # not by monkeypatch: loggers remember what they are enabled for
        writer.close()
        file.close()
