"""`start`, `stop`, `reload`, `pause` and so on: what they ask of the agent, and what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cep.agent.options import StartOptions
from cep.agent.state import EndpointState, Observed
from cep.errors import AlreadyRunning, ConfigError
from cep.paths import EndpointPaths
from tests.unit.cli_rig import Rig, rig
from tests.unit.service_stand_in import CLIENT_ID, ENDPOINT_ID, SECRET, serving

__all__ = ["rig"]

PLAIN = "engine: {type: ThreadPoolEngine}\n"


@dataclass
class Agents:
    """Stands in for the agent's doors: notes what was asked, and answers as told."""

    running: set[str] = field(default_factory=set)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    elsewhere: bool = False
    answer: dict[str, Any] = field(default_factory=dict)

    def start(
        self,
        base: Path,
        name: str,
        options: StartOptions,
        note: Callable[[str], None],
        *,
        before: Callable[[], None],
    ) -> str:
        before()
        note("a word before it is ready")
        self.asked.append(("start", base, name, options))
        self.running.add(name)
        return ENDPOINT_ID

    def stop(self, paths: EndpointPaths, *, drain_s: float = 10.0, now: bool = False) -> bool:
        self.asked.append(("stop", paths.name, drain_s, now))
        if self.elsewhere:
            raise AlreadyRunning(f"Endpoint {paths.name} runs on host other.", hint="ssh other")
        if paths.name in self.running:
            self.running.remove(paths.name)
            return True
        return False

    def call(self, paths: EndpointPaths, request: dict[str, Any], timeout_s: float = 5) -> Any:
        del timeout_s
        self.asked.append(("call", paths.name, request))
        return self.answer

    def observe(self, paths: EndpointPaths) -> Observed:
        state = EndpointState.RUNNING if paths.name in self.running else EndpointState.STOPPED
        return Observed(state, ENDPOINT_ID, None, not self.elsewhere)

    def run(
        self,
        paths: EndpointPaths,
        settings: Any,
        options: StartOptions,
        ready: Callable[[str], None],
        note: Callable[[str], None],
    ) -> int:
        del settings, note
        self.asked.append(("run", paths.name, options))
        ready(ENDPOINT_ID)
        return 0


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> Agents:
    del rig
    found = Agents()
    monkeypatch.setattr("cep.agent.launch.start", found.start)
    monkeypatch.setattr("cep.agent.stop.stop", found.stop)
    monkeypatch.setattr("cep.agent.control.call", found.call)
    monkeypatch.setattr("cep.agent.state.observe", found.observe)
    monkeypatch.setattr("cep.agent.agent.run", found.run)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", SECRET)
    return found


def test_start_says_the_published_line_and_nothing_else_on_standard_output(
    rig: Rig, agents: Agents
) -> None:
    rig.endpoint()
    done = rig.run("start", "ep")
    assert (done.code, done.out) == (0, f"Starting endpoint; registered ID: {ENDPOINT_ID}\n")
    assert done.err == "a word before it is ready\n"
    assert agents.asked == [("start", rig.base, "ep", StartOptions())]


def test_start_passes_its_options_on(rig: Rig, agents: Agents) -> None:
    rig.endpoint()
    words = ["--debug", "start", "ep", "--take-over", "--log-to-console", "--no-color"]
    assert rig.run(*words, "--endpoint-uuid", ENDPOINT_ID.upper().replace("-", "")).code == 0
    assert agents.asked[0][3] == StartOptions(
        endpoint_uuid=ENDPOINT_ID, take_over=True, debug=True, log_to_console=True, no_color=True
    )


def test_start_in_the_foreground_runs_the_agent_in_this_process(rig: Rig, agents: Agents) -> None:
    rig.endpoint()
    done = rig.run("start", "ep", "--foreground", "--die-with-parent")
    assert (done.code, done.out) == (0, f"Starting endpoint; registered ID: {ENDPOINT_ID}\n")
    assert agents.asked == [("run", "ep", StartOptions(foreground=True, die_with_parent=True))]


def test_start_takes_the_id_in_place_of_the_name(rig: Rig, agents: Agents) -> None:
    root = rig.endpoint("mine")
    (root / "endpoint.json").write_text(json.dumps({"endpoint_id": ENDPOINT_ID}))
    assert rig.run("start", ENDPOINT_ID).code == 0
    assert agents.asked[0][2] == "mine"


@pytest.mark.parametrize("name", ["my endpoint", "a" * 100, "it's", ENDPOINT_ID])
def test_an_existing_directory_with_an_older_name_still_starts(
    name: str, rig: Rig, agents: Agents
) -> None:
    rig.endpoint(name)
    assert rig.run("start", name).code == 0
    assert agents.asked[0][2] == name


def test_a_wrong_configuration_is_78_and_nothing_is_started(rig: Rig, agents: Agents) -> None:
    rig.endpoint(text="engine: {type: ThreadPoolEngin}\n")
    done = rig.run("start", "ep")
    assert done.code == 78
    assert "did you mean ThreadPoolEngine?" in done.err
    assert agents.asked == []


def test_only_a_config_py_is_78_and_never_run(rig: Rig, agents: Agents) -> None:
    root = rig.base / "old"
    root.mkdir(parents=True)
    (root / "config.py").write_text("raise SystemExit(3)\n")
    done = rig.run("start", "old")
    assert done.code == 78
    assert "never run" in done.err
    assert agents.asked == []


def test_old_keys_are_told_when_starting(rig: Rig, agents: Agents) -> None:
    rig.endpoint(text="detach_endpoint: false\n" + PLAIN)
    done = rig.run("start", "ep")
    assert done.code == 0
    assert done.err.count("detach_endpoint is ignored") == 1
    assert agents.asked


def test_start_without_a_login_and_without_a_terminal_is_77_with_the_command_to_run(
    rig: Rig, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOBUS_COMPUTE_CLIENT_ID")
    monkeypatch.delenv("GLOBUS_COMPUTE_CLIENT_SECRET")
    rig.endpoint()
    done = rig.run("start", "ep")
    assert done.code == 77
    assert "run: cep login" in done.err
    assert agents.asked == []


def test_half_a_client_identity_is_an_error_at_start(
    rig: Rig, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOBUS_COMPUTE_CLIENT_SECRET")
    rig.endpoint()
    done = rig.run("start", "ep")
    assert done.code == 77
    assert "GLOBUS_COMPUTE_CLIENT_SECRET is not" in done.err
    assert agents.asked == []


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--endpoint-uuid", "x"], 64), (["--die-with-parent"], 64), (["nowhere"], 66)],
)
def test_what_cannot_be_started_is_said_before_anything_runs(
    words: list[str], code: int, rig: Rig, agents: Agents
) -> None:
    rig.endpoint("default")
    assert rig.run("start", *words).code == code
    assert agents.asked == []


# -- stop and restart --------------------------------------------------------------------------


def test_stop_says_the_published_line(rig: Rig, agents: Agents) -> None:
    rig.endpoint()
    agents.running.add("ep")
    done = rig.run("stop", "ep")
    assert (done.code, done.out) == (0, "> Endpoint <ep> is now stopped\n")
    assert agents.asked == [("stop", "ep", 10.0, False)]


def test_stop_of_what_does_not_run_is_no_failure(rig: Rig, agents: Agents) -> None:
    rig.endpoint()
    done = rig.run("stop", "ep")
    assert (done.code, done.out) == (0, "Endpoint not active.\n")
    assert agents.asked


def test_stop_works_though_the_configuration_is_wrong(rig: Rig, agents: Agents) -> None:
    rig.endpoint(text="nonsense: [")
    agents.running.add("ep")
    assert rig.run("stop", "ep").code == 0


@pytest.mark.parametrize(
    ("words", "drain_s", "now"), [(["--drain", "90"], 90.0, False), (["--now"], 10.0, True)]
)
def test_stop_waits_as_long_as_it_is_told(
    words: list[str], drain_s: float, now: bool, rig: Rig, agents: Agents
) -> None:
    rig.endpoint()
    rig.run("stop", "ep", *words)
    assert agents.asked == [("stop", "ep", drain_s, now)]


def test_stop_all_stops_those_that_run(rig: Rig, agents: Agents) -> None:
    for name in ("a", "b", "c"):
        rig.endpoint(name)
    agents.running.update({"a", "c"})
    done = rig.run("stop", "--all")
    assert done.code == 0
    assert done.out == "> Endpoint <a> is now stopped\n> Endpoint <c> is now stopped\n"
    assert rig.run("stop", "--all").out == "Endpoint not active.\n"


def test_stop_on_the_wrong_host_is_73_and_says_where(rig: Rig, agents: Agents) -> None:
    rig.endpoint()
    agents.elsewhere = True
    for words in (["stop", "ep"], ["stop", "--all"]):
        done = rig.run(*words)
        assert done.code == 73
        assert "ssh other" in done.err


def test_stop_remote_locks_the_endpoint_at_the_service_first(rig: Rig, agents: Agents) -> None:
    with serving() as service:
        root = rig.endpoint(text=f"service_url: {service.url}\n{PLAIN}")
        (root / "endpoint.json").write_text(json.dumps({"endpoint_id": ENDPOINT_ID}))
        service.answers["POST", f"/v3/endpoints/{ENDPOINT_ID}/lock"] = (200, {})
        agents.running.add("ep")
        done = rig.run("stop", "ep", "--remote")
        assert (done.code, done.out) == (0, "> Endpoint <ep> is now stopped\n"), done.err
        assert len(service.asked(f"/v3/endpoints/{ENDPOINT_ID}/lock")) == 1


def test_stop_remote_of_what_was_never_registered_is_said(rig: Rig, agents: Agents) -> None:
    rig.endpoint()
    done = rig.run("stop", "ep", "--remote")
    assert done.code == 66
    assert agents.asked == []


def test_restart_stops_and_starts(rig: Rig, agents: Agents) -> None:
    rig.endpoint()
    agents.running.add("ep")
    done = rig.run("restart", "ep")
    assert done.code == 0
    assert done.out == (
        f"> Endpoint <ep> is now stopped\nStarting endpoint; registered ID: {ENDPOINT_ID}\n"
    )
    assert [entry[0] for entry in agents.asked] == ["stop", "start"]


def test_restart_with_a_wrong_configuration_leaves_the_running_one_alone(
    rig: Rig, agents: Agents
) -> None:
    rig.endpoint(text="engine: 1\n")
    agents.running.add("ep")
    assert rig.run("restart", "ep").code == ConfigError.exit_code
    assert agents.running == {"ep"}


# -- pause and resume --------------------------------------------------------------------------


def test_pause_and_resume_reach_the_agent_and_leave_a_mark_for_the_next(
    rig: Rig, agents: Agents
) -> None:
    root = rig.endpoint()
    agents.running.add("ep")
    assert rig.run("pause", "ep").code == 0
    assert (root / "paused").exists()
    assert rig.run("resume", "ep").code == 0
    assert not (root / "paused").exists()
    assert agents.asked == [
        ("call", "ep", {"do": "pause"}),
        ("call", "ep", {"do": "resume"}),
    ]


def test_pause_of_what_does_not_run_holds_from_the_next_start(rig: Rig, agents: Agents) -> None:
    root = rig.endpoint()
    assert rig.run("pause", "ep").code == 0
    assert (root / "paused").exists()
    assert agents.asked == []


def test_pause_of_what_runs_elsewhere_is_refused(rig: Rig, agents: Agents) -> None:
    root = rig.endpoint()
    agents.running.add("ep")
    agents.elsewhere = True
    assert rig.run("pause", "ep").code == 69
    assert not (root / "paused").exists()


@pytest.mark.parametrize("wait", [True, False])
def test_reload_asks_the_agent_and_says_what_became_of_it(
    rig: Rig, agents: Agents, wait: bool
) -> None:
    rig.endpoint()
    agents.running.add("ep")
    agents.answer = {"changed": ["intake"], "restart_needed": ["engine.label"]}
    done = rig.run("reload", "ep", *(["--wait"] if wait else []))
    assert (done.code, done.out) == (0, "")
    assert agents.asked == [("call", "ep", {"do": "reload", "wait": wait})]
    assert ("changed: intake" in done.err) is wait
    assert ("Needs a restart: engine.label. Use: cep restart ep" in done.err) is wait


def test_reload_finds_a_wrong_configuration_before_it_asks(rig: Rig, agents: Agents) -> None:
    rig.endpoint(text=f"nonsense: 1\n{PLAIN}")
    agents.running.add("ep")
    done = rig.run("reload", "ep", "--wait")
    assert done.code == 78
    assert "nonsense" in done.err
    assert agents.asked == []


@pytest.mark.parametrize(("elsewhere", "says"), [(False, "does not run"), (True, "ssh")])
def test_reload_is_for_an_endpoint_that_runs_here(
    rig: Rig, agents: Agents, elsewhere: bool, says: str
) -> None:
    rig.endpoint()
    if elsewhere:
        agents.elsewhere = True
        agents.running.add("ep")
    done = rig.run("reload", "ep")
    assert done.code == 69
    assert says in done.err
    assert agents.asked == []


def test_the_agents_own_refusal_of_a_reload_is_the_commands(
    rig: Rig, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_words: object) -> None:
        raise ConfigError("It is wrong.")

    rig.endpoint()
    agents.running.add("ep")
    monkeypatch.setattr("cep.agent.control.call", refuse)
    done = rig.run("reload", "ep", "--wait")
    assert done.code == 78
    assert "It is wrong." in done.err


def test_a_reload_that_systemd_asks_for_leaves_it_to_the_agent_to_say_what_is_wrong(
    rig: Rig, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def observe(_paths: EndpointPaths) -> Observed:
        lease: Any = SimpleNamespace(pid=77, host="here")
        return Observed(EndpointState.RUNNING, ENDPOINT_ID, lease, True)

    rig.endpoint(text=f"nonsense: 1\n{PLAIN}")
    monkeypatch.setattr("cep.agent.state.observe", observe)
    monkeypatch.setenv("MAINPID", "77")
    assert rig.run("reload", "ep", "--wait").code == 0
    assert agents.asked == [("call", "ep", {"do": "reload", "wait": True})]
    monkeypatch.setenv("MAINPID", "78")
    assert rig.run("reload", "ep", "--wait").code == 78
