"""`ansible-test sanity` on the collection, as its own file installs it; no host is needed.

Checks that need nothing but ansible-core, and the one of modules and their documentation, run each
time; the long form (LONG=1) adds those that bring tools of their own, and today's ansible-core.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import venvs
from tests.integration.ansible_host import COLLECTION, Controller
from tests.integration.faults.settings import LONG

# The first run makes environments with the tools; the long form makes one for each Python as well.
pytestmark = pytest.mark.timeout(1200)

ALWAYS = (
    "action-plugin-docs",
    "compile",
    "empty-init",
    "ignores",
    "line-endings",
    "no-assert",
    "no-get-exception",
    "no-illegal-filenames",
    "no-smart-quotes",
    "replace-urlopen",
    "shebang",
    "symlinks",
    "use-argspec-type-path",
    "validate-modules",
)
# Each has tools in an environment of its own; `import` has one for each Python that is here.
WITH_TOOLS = ("ansible-doc", "import", "pep8", "pylint", "runtime-metadata", "yamllint")
LEFT_OUT = {
    "changelog": "wants antsibull-changelog's fragments, which CHANGELOG.md is not made from",
    "pslint": "there is no PowerShell",
    "shellcheck": "there is no shell script",
}
# Checks that only one of the releases of ansible-core has.
OLDEST_ONLY = ("use-compat-six",)

# ansible-test makes an environment for a check with this file of pip, which it would fetch.
_GET_PIP = ("get_pip_24_2.py", "get_pip_25_2.py", "get_pip_25_3.py")
_WITHOUT_FETCHING = "import ensurepip\nensurepip.bootstrap(upgrade=True)\n"
CORES = ("oldest", "today") if LONG else ("oldest",)


@pytest.fixture(scope="module", params=CORES)
def sanity(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Controller]:
    today = request.param == "today"
    python = venvs.ansible_today_python() if today else venvs.ansible_python()
    controller = Controller(python, tmp_path_factory.mktemp("sanity"))
    controller.install_collection()
    shutil.copytree(COLLECTION / "molecule", controller.installed / "molecule")
    # It asks git for the files that it is to judge.
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=controller.installed, check=True, env=os.environ)
    # Its environments are kept like our own, and used by one test process at a time.
    kept = venvs.CACHE / f"ansible-test-{venvs.key(str(python))}"
    with venvs.locked(kept.name):
        cache = kept / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        for name in _GET_PIP:
            (cache / name).write_text(_WITHOUT_FETCHING)
        (controller.root / ".ansible").mkdir()
        (controller.root / ".ansible" / "test").symlink_to(kept)
        # Whatever Python is here: a shim of pyenv is a program, too, and not always one that runs.
        places = [str(one.parent) for one in venvs.pyenv_pythons()]
        controller.environment["PATH"] = os.pathsep.join(
            [str(python.parent), *places, os.environ["PATH"]]
        )
        yield controller


def judged(sanity: Controller, *names: str) -> str:
    """Run some checks; they must have nothing to say. Returns what ansible-test printed."""
    done = run(sanity, *(word for name in names for word in ("--test", name)))
    assert done.returncode == 0, done.stdout
    for name in names:
        assert f'Running sanity test "{name}"' in done.stdout
    return done.stdout


def run(sanity: Controller, *words: str) -> subprocess.CompletedProcess[str]:
    fixed = ("ansible-test", "sanity", "--color", "no")
    return sanity.run(*fixed, *words, within=sanity.installed, check=False)


def test_every_check_is_run_or_left_out_for_a_reason(sanity: Controller) -> None:
    there = set(run(sanity, "--list-tests").stdout.splitlines())
    known = {*ALWAYS, *WITH_TOOLS, *OLDEST_ONLY, *LEFT_OUT}
    assert {name for name in there if " " not in name} - known == set()
    assert known - there <= set(OLDEST_ONLY)


def test_ansible_test_has_nothing_to_say(sanity: Controller) -> None:
    judged(sanity, *ALWAYS)


if LONG:

    def test_checks_with_tools_of_their_own_have_nothing_to_say(sanity: Controller) -> None:
        judged(sanity, *WITH_TOOLS)

    def test_ansible_test_would_say_something(sanity: Controller) -> None:
        wrong: Path = sanity.installed / "plugins" / "modules" / "wrong.py"
        wrong.write_text('#!/bin/sh\nprint(\N{LEFT DOUBLE QUOTATION MARK}x")\n')
        subprocess.run(["git", "add", "-A"], cwd=sanity.installed, check=True, env=os.environ)
        for name in ("compile", "no-smart-quotes", "shebang", "validate-modules"):
            done = run(sanity, "--test", name)
            assert done.returncode == 1
            assert "plugins/modules/wrong.py" in done.stdout, name
        wrong.unlink()
