"""What each program loads before it does its work: imports are the real start-up cost.

Each case runs in an interpreter of its own and tells the modules it ended up with. The last tests
show that a heavy import would be noticed.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Top-level modules that cost tens of milliseconds or megabytes.
HEAVY = frozenset(
    {
        "asyncio",
        "cryptography",
        "dill",
        "docker",
        "globus_compute_common",
        "globus_compute_sdk",
        "globus_sdk",
        "jinja2",
        "multiprocessing",
        "parsl",
        "pika",
        "psutil",
        "pydantic",
        "requests",
        "sqlalchemy",
        "starlette",
        "typeguard",
        "urllib3",
        "uvicorn",
        "yaml",
        "zmq",
    }
)
RUN_CLI = "import sys; sys.argv = ['cep', *{words!r}]\nfrom cep.cli.main import main\nmain()"
TELL = """
import json, sys
try:
    exec({code!r}, {{"__name__": "budget"}})
except SystemExit as exc:
    if exc.code:
        raise
sys.stderr.write("\\n" + json.dumps(sorted(sys.modules)))
"""


def loaded_by(code: str) -> frozenset[str]:
    """Run the code in a fresh interpreter; return the names of all modules it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", TELL.format(code=code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return frozenset(json.loads(done.stderr.rpartition("\n")[2]))


def tops(modules: frozenset[str]) -> frozenset[str]:
    """The top-level names of modules."""
    return frozenset(name.partition(".")[0] for name in modules)


@pytest.mark.parametrize("words", [["version"], ["--help"], ["start", "--help"]])
def test_a_command_that_only_talks_loads_nothing_heavy(words: list[str]) -> None:
    assert tops(loaded_by(RUN_CLI.format(words=words))) & HEAVY == set()


def test_the_command_line_module_itself_loads_no_other_room() -> None:
    rooms = {
        name.split(".")[1] for name in loaded_by("import cep.cli.main") if name.startswith("cep.")
    }
    assert rooms <= {"cli", "errors", "model", "paths", "safety"}


def test_the_worker_loads_neither_the_sdk_nor_any_service_library() -> None:
    loaded = loaded_by("import cep.worker.execute")
    assert tops(loaded) & (HEAVY - {"dill", "multiprocessing"}) == set()


def test_the_worker_loads_well_under_half_of_what_the_published_one_does() -> None:
    # globus-compute-endpoint 4.19's worker function with parsl 2026.10 loads 935 modules.
    assert len(loaded_by("import cep.worker.execute")) < 935 * 0.4


@pytest.mark.parametrize("module", ["cep.agent.agent", "cep.agent.__main__"])
def test_the_agent_loads_neither_the_sdk_nor_parsl_before_it_builds_an_engine(module: str) -> None:
    loaded = tops(loaded_by(f"import {module}, cep.engines.build"))
    assert loaded & {"globus_compute_sdk", "parsl", "zmq", "typeguard", "sqlalchemy"} == set()


@pytest.mark.parametrize("settings", ["ThreadPoolSettings", "ProcessPoolSettings"])
def test_the_pool_engines_are_built_without_the_sdk_and_parsl(settings: str) -> None:
    code = (
        f"from cep.config.settings import {settings}\n"
        f"from cep.engines.build import build_engine\nbuild_engine({settings}())"
    )
    assert tops(loaded_by(code)) & {"globus_compute_sdk", "globus_sdk", "parsl", "zmq"} == set()


def test_a_configuration_is_read_without_building_anything() -> None:
    loaded = tops(loaded_by("import cep.config.load"))
    assert loaded & (HEAVY - {"yaml"}) == set()


def test_a_start_with_a_client_identity_loads_no_login() -> None:
    """The agent logs in by itself then, so the command need not pay for those libraries, too."""
    code = (
        "import os, pathlib\n"
        "os.environ.update(GLOBUS_COMPUTE_CLIENT_ID='c', GLOBUS_COMPUTE_CLIENT_SECRET='s')\n"
        "from cep.cli import lifecycle\nfrom cep.config.load import load_text\n"
        "import cep.agent.launch\n"
        "settings = load_text('engine: {type: ThreadPoolEngine}', 'config.yaml')\n"
        "lifecycle._log_in(pathlib.Path('/'), settings)"
    )
    assert tops(loaded_by(code)) & (HEAVY - {"yaml"}) == set()


def test_a_start_launches_its_agent_before_it_loads_what_only_others_need() -> None:
    code = (
        "import cep.cli.main, cep.cli.lifecycle, cep.agent.launch\n"
        "import cep.boot.managed, cep.boot.install, cep.boot.systemd"
    )
    unneeded = {"ctypes", "random", "socket", "tempfile", "yaml", "cep.boot.user_manager"}
    assert loaded_by(code) & unneeded == set()


def test_the_first_task_of_an_engine_of_threads_starts_no_program() -> None:
    """`platform.platform()` runs `uname -p` once: at the start, since a home may hang later."""
    code = (
        "import pathlib, queue, subprocess\n"
        "from cep.config.settings import ThreadPoolSettings\n"
        "from cep.engines.base import EngineRun\n"
        "from cep.engines.build import build_engine\n"
        "engine = build_engine(ThreadPoolSettings(max_workers=1))\n"
        "here = pathlib.Path('/nonexistent')\n"
        "engine.start(EngineRun('id', 'name', here, None, here), queue.SimpleQueue().put)\n"
        "def refuse(*_, **__):\n    raise AssertionError('a program was started')\n"
        "subprocess.Popen = refuse\n"
        "from cep.worker.execute import _details\n"
        "_details('id')\n"
        "engine.stop(60.0)"
    )
    assert "cep.worker.execute" in loaded_by(code)


@pytest.mark.parametrize("name", ["globus_sdk", "pika", "sqlalchemy", "yaml"])
def test_a_heavy_import_would_be_noticed(name: str) -> None:
    assert name in tops(loaded_by(f"import json, {name}")) & HEAVY


def test_a_heavy_import_inside_a_command_would_be_noticed() -> None:
    code = "def body():\n    import jinja2\n    raise SystemExit(0)\nbody()"
    assert "jinja2" in tops(loaded_by(code)) & HEAVY


def test_applying_endpoints_of_a_client_loads_no_library_of_the_service() -> None:
    # Root starts a process for each account, and each step of it: what they load is what it costs.
    loaded = tops(loaded_by("import cep.apply.run, cep.apply.home, cep.apply.host"))
    assert loaded & (HEAVY - {"jinja2", "yaml"}) == set()


@pytest.mark.parametrize(("verb", "needs_home"), [("unit_look", False), ("state", True)])
def test_root_loads_for_a_unit_of_the_host_nothing_that_homes_need(
    verb: str, needs_home: bool
) -> None:
    code = f"from cep.apply import places, run\nplaces.function_of({verb!r})"
    assert ("cep.apply.home" in loaded_by(code)) == needs_home
