"""The program: its table of commands, its options on either side, its errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from cep import __version__
from cep.cli.command import CepCommand, CepGroup, Shared
from cep.cli.main import COMMANDS, REFUSED, app, program_name
from cep.errors import UsageError
from tests.unit.cli_rig import Rig, rig

__all__ = ["rig"]

UUID = "1f0e9a52-0000-4000-8000-00000000000a"
OURS = [name for name in COMMANDS if name not in ("hub", "demo")]
WORKS, REFUSED_BY_NAME = "works", "refused"

# Every command and option of globus-compute-endpoint 2.19.0 and 4.19.0, hidden ones included.
# (-h, --debug, --log-to-console, --no-color and -c have tests of their own.)
PUBLISHED: list[tuple[str, list[str], str]] = [
    ("configure", [], WORKS),
    ("configure", ["ep"], WORKS),
    ("configure", ["--endpoint-config", "x.yaml"], WORKS),
    ("configure", ["--display-name", "x"], WORKS),
    ("configure", ["--auth-policy", UUID], WORKS),
    ("configure", ["--subscription-id", UUID], WORKS),
    ("configure", ["--high-assurance"], WORKS),
    ("configure", ["--multi-user", "false"], WORKS),
    ("configure", ["--multi-user", "true"], REFUSED_BY_NAME),
    ("configure", ["--multi-user"], REFUSED_BY_NAME),
    ("configure", ["--contact-email", "a@b.c"], REFUSED_BY_NAME),
    ("configure", ["--core-config", "x"], REFUSED_BY_NAME),
    ("configure", ["--manager-config", "x"], REFUSED_BY_NAME),
    ("configure", ["--template-config", "x"], REFUSED_BY_NAME),
    ("configure", ["--schema-config", "x"], REFUSED_BY_NAME),
    ("configure", ["--user-env-config", "x"], REFUSED_BY_NAME),
    ("configure", ["--id-mapping-config", "x"], REFUSED_BY_NAME),
    ("configure", ["--auth-policy-project-id", UUID], REFUSED_BY_NAME),
    ("configure", ["--auth-policy-display-name", "x"], REFUSED_BY_NAME),
    ("configure", ["--auth-policy-mfa-required"], REFUSED_BY_NAME),
    ("configure", ["--auth-policy-description", "x"], REFUSED_BY_NAME),
    ("configure", ["--allowed-domains", "x"], REFUSED_BY_NAME),
    ("configure", ["--excluded-domains", "x"], REFUSED_BY_NAME),
    ("configure", ["--auth-timeout", "3"], REFUSED_BY_NAME),
    ("delete", ["ep", "--force", "--yes"], WORKS),
    ("delete", [UUID], WORKS),
    ("list", [], WORKS),
    ("login", ["--force"], WORKS),
    ("logout", ["--force"], WORKS),
    ("start", ["ep", "--die-with-parent", "--endpoint-uuid", UUID], WORKS),
    ("start", [UUID, "--detach"], WORKS),
    ("restart", ["ep", "--die-with-parent", "--endpoint-uuid", UUID], WORKS),
    ("restart", ["--detach"], WORKS),
    ("stop", ["ep", "--remote"], WORKS),
    ("version", [], WORKS),
    ("whoami", ["--linked-identities"], WORKS),
]
PUBLISHED_COMMANDS_NOT_OURS = [
    ["self-diagnostic", "-z", "--log-kb", "3"],
    ["update_funcx_config", "ep", "--force"],
    ["render-user-config", "-e", "ep", "-t", "x", "-o", "y", "-s", "z"],
    ["migrate-to-template-capable", "--yes", "ep"],
    ["python-exec", "module", "--anything"],
    ["_start-user-endpoint", "ep"],
]


def parse(command: str, words: list[str]) -> click.Context:
    """Parse a command's words without running it."""
    parent = click.Context(app, info_name="cep", obj=Shared())
    found = app.get_command(parent, command)
    assert found is not None
    return found.make_context(command, list(words), parent=parent)


@pytest.mark.parametrize(
    ("command", "words"), [(c, w) for c, w, what in PUBLISHED if what == WORKS]
)
def test_published_options_are_taken(command: str, words: list[str]) -> None:
    assert parse(command, words).command is not None


@pytest.mark.parametrize(
    ("command", "words"), [(c, w) for c, w, what in PUBLISHED if what == REFUSED_BY_NAME]
)
def test_published_options_that_are_not_ours_are_refused_by_name_with_the_way_on(
    command: str, words: list[str], rig: Rig
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(command, words)
    assert words[0] in caught.value.message
    assert caught.value.hint
    assert rig.run(command, *words).code == 64
    assert not rig.base.exists()


@pytest.mark.parametrize("words", PUBLISHED_COMMANDS_NOT_OURS, ids=lambda words: words[0])
def test_published_commands_that_are_not_ours_are_refused_by_name_with_the_way_on(
    words: list[str], rig: Rig
) -> None:
    done = rig.run(*words)
    assert done.code == 64
    assert words[0] in done.err
    assert REFUSED[words[0]] in done.err


def test_commands_of_later_work_are_not_stubbed(rig: Rig) -> None:
    done = rig.run("doctor", "x")
    assert done.code == 64
    assert "No such command 'doctor'" in done.err


@pytest.mark.parametrize("command", OURS)
@pytest.mark.parametrize("option", ["-c", "--config-dir"])
def test_the_directory_option_is_taken_before_and_after_every_command(
    command: str, option: str, rig: Rig, tmp_path: Path
) -> None:
    for words in ([option, str(tmp_path), command, "-h"], [command, option, str(tmp_path), "-h"]):
        assert rig.run(*words).code == 0


@pytest.mark.parametrize("option", ["--debug", "--log-to-console", "--no-color"])
@pytest.mark.parametrize("after", [False, True])
def test_the_flags_are_taken_on_either_side(option: str, after: bool) -> None:
    shared = Shared()
    words = ["version", option] if after else [option, "version"]
    app.main(words, prog_name="cep", standalone_mode=False, obj=shared)
    assert getattr(shared, option[2:].replace("-", "_")) is True


@pytest.mark.parametrize("after", [False, True])
def test_the_directory_option_wins_over_the_environment(
    after: bool, rig: Rig, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    words = ["configure", "ep"]
    done = rig.run(*([*words, "-c", str(other)] if after else ["-c", str(other), *words]))
    assert done.code == 0
    assert (other / "ep" / "config.yaml").is_file()
    assert not rig.base.exists()


@pytest.mark.parametrize("command", OURS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(command: str, option: str, rig: Rig) -> None:
    done = rig.run(command, option)
    assert done.code == 0
    assert f"cep {command}" in done.out or "Usage:" in done.out


@pytest.mark.parametrize("command", OURS)
def test_every_command_is_where_the_table_says(command: str) -> None:
    found = app.get_command(click.Context(app, obj=Shared()), command)
    assert isinstance(found, CepCommand | CepGroup)
    assert found.name == command


def test_the_help_lists_every_command(rig: Rig) -> None:
    done = rig.run("-h")
    assert done.code == 0
    for name, (_, text) in COMMANDS.items():
        assert name in done.out
        assert text.split()[0] in done.out


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["start", "--nonsense"],
        ["start", "a", "b"],
        ["validate"],
        ["stop", "--drain", "soon"],
        ["stop", "--drain", "-1"],
        ["stop", "--now", "--drain", "3"],
        ["stop", "--all", "ep"],
        ["start", "--foreground", "--detach"],
        ["start", "a/b"],
        ["start", ".."],
        [],
    ],
)
def test_a_wrong_command_line_is_64(words: list[str], rig: Rig) -> None:
    done = rig.run(*words)
    assert done.code == 64
    assert done.err


def test_an_error_goes_to_standard_error_with_its_hint_and_its_code(rig: Rig) -> None:
    done = rig.run("start", "nowhere")
    assert done.code == 66
    assert done.out == ""
    assert "There is no endpoint named nowhere" in done.err
    assert "cep configure nowhere" in done.err


def test_a_fault_of_ours_is_70_and_shows_where_only_on_request(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cep.cli.naming.roots", lambda _base: 1 / 0)
    done = rig.run("list")
    assert done.code == 70
    assert "Traceback" not in done.err
    assert "Traceback" in rig.run("list", "--debug").err


def test_a_blocked_registration_is_told_on_standard_output(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cep.errors import Unavailable

    def blocked(_base: Path) -> None:
        raise Unavailable("Endpoint registration blocked.  [{}]", hint="It is locked.")

    monkeypatch.setattr("cep.cli.naming.roots", blocked)
    done = rig.run("list")
    assert (done.code, done.out) == (69, "Endpoint registration blocked.  [{}]\n")
    assert "It is locked." in done.err


@pytest.mark.parametrize(
    ("argv0", "name"),
    [
        ("/usr/bin/cep", "cep"),
        ("/home/x/.local/bin/globus-compute-endpoint", "globus-compute-endpoint"),
        ("/x/cep/__main__.py", "cep"),
        ("-m", "cep"),
    ],
)
def test_the_program_calls_itself_as_it_was_called(argv0: str, name: str) -> None:
    assert program_name(argv0) == name


def test_the_version_line_is_the_published_one(rig: Rig) -> None:
    done = rig.run("version")
    assert done.out == f"Globus Compute endpoint version: {__version__}\n"


def test_python_m_cep_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cep", "version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"Globus Compute endpoint version: {__version__}\n"


HEAVY = (
    "{'globus_sdk', 'globus_compute_sdk', 'requests', 'parsl', 'pika', 'yaml', 'jinja2', "
    "'psutil', 'sqlalchemy', 'asyncio', 'dill', 'uvicorn', 'starlette', 'multiprocessing'}"
)


@pytest.mark.parametrize("command", OURS)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom cep.cli.main import run\n"
        f"assert run([{command!r}, '-h']) == 0\n"
        f"heavy = {HEAVY} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m cep --help | head -n 1", shell=True, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == b""
