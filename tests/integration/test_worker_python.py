"""The Python that runs tasks: environments of worker_init, on this host. test_slurm.py has more.

A real conda cannot be installed here (neither PyPI nor Debian has one that works), so its
activation is emulated by the variables it sets; venv's is real.
"""

from __future__ import annotations

import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dill
import pytest

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines.base import WaitingRefused
from cep.engines.htex import GlobusComputeEngine
from tests.unit.engine_rig import Rig

WITHIN_S = 180.0
pytestmark = pytest.mark.timeout(400)  # on a loaded machine a block takes its time to begin


def place(package):  # type: ignore[no-untyped-def]
    """What a task sees of the environment that it runs in."""
    import importlib
    import os
    import sys

    import dill

    traces = [name for name in os.environ if name.startswith("CEP_LENT")]
    return sys.prefix, importlib.import_module(package).VALUE, dill.__version__, traces


def crash():  # type: ignore[no-untyped-def]
    import os

    os.abort()


def environment(where: Path, package: str, **versions: str) -> Path:
    """A real environment without pip, with a package of its own and some that are ours, too."""
    venv.create(where, symlinks=True, with_pip=False)
    (site,) = where.glob("lib/python3*/site-packages")
    (site / f"{package}.py").write_text("VALUE = 'only here'\n")
    for name, version in versions.items():
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return where


@pytest.fixture
def rig_for(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Start engines with blocks on this host; they end with the test."""
    built: list[Rig] = []

    def build(worker_init: str, *, folder: str = "run dir", **changes: Any) -> Rig:
        provider = ComponentSettings(
            "LocalProvider", {"worker_init": worker_init, **changes.pop("provider", {})}
        )
        chosen = HtexSettings(provider=provider, htex={"max_workers_per_node": 1}, **changes)
        run_dir = tmp_path / folder
        run_dir.mkdir()
        rig = Rig(GlobusComputeEngine(chosen), run_dir, WITHIN_S)
        built.append(rig)
        return rig.start()

    yield build
    for rig in built:
        rig.engine.stop(10.0)


def block_log(rig: Rig) -> str:
    """What the script of the first block wrote."""
    (out,) = rig.run.run_dir.glob("submit_scripts/*.out")
    return out.read_text()


def test_an_activated_environment_runs_the_tasks_and_gets_the_worker_lent(
    rig_for: Callable[..., Rig], tmp_path: Path
) -> None:
    env = environment(tmp_path / "my env", "onlyhere")
    rig = rig_for(f". '{env}/bin/activate'")
    prefix, value, _, traces = rig.value(place, "onlyhere")
    assert (prefix, value, traces) == (str(env), "only here", [])
    log = block_log(rig)
    assert f"cep: tasks of block 0 run in {env}/bin/python3 (Python 3." in log
    assert f"worker_init activated {env}; it lacks cep-endpoint, dill, parsl" in log


def test_what_conda_s_activation_sets_runs_the_tasks_in_that_environment(
    rig_for: Callable[..., Rig], tmp_path: Path
) -> None:
    """An emulation of `conda activate`: its variables, over an environment made by venv."""
    env = environment(tmp_path / "envs" / "mine", "inconda")
    rig = rig_for(
        f"export CONDA_PREFIX={env} CONDA_DEFAULT_ENV=mine CONDA_SHLVL=1 PATH={env}/bin:$PATH",
        provider={"launcher": ComponentSettings("SimpleLauncher")},
    )
    assert rig.value(place, "inconda")[:2] == (str(env), "only here")


def test_a_launcher_that_drops_the_environment_starts_the_same_python(
    rig_for: Callable[..., Rig], tmp_path: Path
) -> None:
    """By a stand-in for mpiexec that starts its program as on a remote node: without variables."""
    env = environment(tmp_path / "env", "remote")
    mpiexec = tmp_path / "bin" / "mpiexec"
    mpiexec.parent.mkdir()
    mpiexec.write_text('#!/bin/sh\nfor last; do :; done\nexec env -i PATH=/bin sh "$last"\n')
    mpiexec.chmod(0o755)
    rig = rig_for(
        f"cd {tmp_path}\nexport PATH={mpiexec.parent}:$PATH\n. {env}/bin/activate",
        folder="run",
        provider={"launcher": ComponentSettings("MpiExecLauncher")},
    )
    assert rig.value(place, "remote")[:2] == (str(env), "only here")


def test_the_environment_s_own_packages_come_before_those_that_are_lent(
    rig_for: Callable[..., Rig], tmp_path: Path
) -> None:
    env = environment(tmp_path / "env", "mine")
    (site,) = env.glob("lib/python3*/site-packages")
    (site / "dill").symlink_to(Path(dill.__file__).parent)
    info = site / "dill-0.3.99.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dill\nVersion: 0.3.99\n")
    rig = rig_for(f". {env}/bin/activate")
    rig.value(place, "mine")
    log = block_log(rig)
    assert "it lacks cep-endpoint, parsl" in log
    assert f"not as at the endpoint: dill 0.3.99 (endpoint {dill.__version__})" in log
    lost = rig.call(crash)
    assert "Not as at the endpoint: dill 0.3.99" in lost.reason
    assert f"Python {sys.version.split()[0]}" in lost.reason


def test_an_environment_with_another_parsl_is_refused_after_one_block(
    rig_for: Callable[..., Rig], tmp_path: Path
) -> None:
    env = environment(tmp_path / "env", "mine", parsl="2024.1.1")
    rig = rig_for(f". {env}/bin/activate")
    rig.add(place, "mine")
    rig.feed()
    while not isinstance(event := rig.events.get(timeout=WITHIN_S), WaitingRefused):
        rig.handle(event)
    assert f"{env}/bin/python3" in event.reason
    assert "parsl 2024.1.1 (the worker needs >=2026.10.26,<2026.11)" in event.reason
    assert f"{env}/bin/python3 -m pip install 'cep-endpoint==" in event.reason
    status = rig.engine.status()
    assert len(status.ended_blocks) == 1
    assert status.breaker is not None
    assert status.breaker["paused"]
