"""What judges a collection: ansible-lint, yamllint, ansible-doc, ansible-test; no host is needed.

Everything runs on the collection as its own file installs it, so what the file lacks is noticed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import venvs
from tests.integration.ansible_host import COLLECTION, Controller
from tests.integration.faults.settings import LONG

# The first test may have to wait for ansible-lint and ansible-core.
pytestmark = pytest.mark.timeout(400)

# ansible-test makes an environment for its checks with this file of pip, which it would fetch.
_GET_PIP = ("get_pip_24_2.py", "get_pip_25_2.py")
_WITHOUT_FETCHING = "import ensurepip\nensurepip.bootstrap(upgrade=True)\n"
# Each check makes an environment of its own from the package index; those that are left out want
# every Python that Ansible supports.
_SANITY = ("validate-modules", *(("ansible-doc", "runtime-metadata") if LONG else ()))


@pytest.fixture(scope="module")
def lint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    controller = Controller(venvs.ansible_lint_python(), tmp_path_factory.mktemp("lint"))
    controller.install_collection()
    for name in (".ansible-lint", ".yamllint"):  # they judge the file, and are no part of it
        shutil.copy(COLLECTION / name, controller.installed / name)
    return controller


def test_ansible_lint_has_nothing_to_say_at_its_strictest(lint: Controller) -> None:
    done = lint.run("ansible-lint", "--offline", "--nocolor", within=lint.installed, check=False)
    assert done.returncode == 0, done.stdout
    assert "Profile 'production' was required, and it passed" in done.stdout


def test_ansible_lint_would_say_something(lint: Controller, tmp_path: Path) -> None:
    wrong = tmp_path / "playbook.yml"
    wrong.write_text("- hosts: all\n  tasks:\n    - shell: ls\n")
    done = lint.run("ansible-lint", "--offline", "--nocolor", str(wrong), check=False)
    assert done.returncode == 2
    assert "command-instead-of-shell" in done.stdout


def test_yamllint_has_nothing_to_say(lint: Controller) -> None:
    done = lint.run("yamllint", "--strict", ".", within=lint.installed, check=False)
    assert done.returncode == 0, done.stdout


def test_the_documentation_of_roles_and_modules_can_be_read(lint: Controller) -> None:
    for role in ("cep", "cep_hub"):
        done = lint.run("ansible-doc", "--type", "role", "--json", f"cep.cep.{role}")
        assert "main" in json.loads(done.stdout)[f"cep.cep.{role}"]["entry_points"]
    for module in ("cep_endpoint", "cep_endpoint_info", "cep_wheelhouse_info"):
        done = lint.run("ansible-doc", "--json", f"cep.cep.{module}")
        assert json.loads(done.stdout)[f"cep.cep.{module}"]["return"]


def test_the_example_inventory_is_one(lint: Controller) -> None:
    hosts = lint.installed / "examples" / "hosts.yml"
    done = lint.run("ansible-inventory", "-i", str(hosts), "--list")
    told = json.loads(done.stdout)
    assert told["cep_hubs"]["hosts"] == ["hub.example.org"]
    assert len(told["cep_endpoints"]["hosts"]) == 3


def test_every_playbook_is_well_formed(lint: Controller) -> None:
    hosts = lint.installed / "examples" / "hosts.yml"
    for path in sorted((COLLECTION / "playbooks").glob("*.yml")):
        name = f"cep.cep.{path.stem}"
        lint.run("ansible-playbook", "--syntax-check", "-i", str(hosts), name)


def test_ansible_test_has_nothing_to_say(lint: Controller) -> None:
    cache = lint.root / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True)
    for name in _GET_PIP:
        (cache / name).write_text(_WITHOUT_FETCHING)
    # It asks git for the files that it is to judge.
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=lint.installed, check=True, env=os.environ)
    checks = [word for name in _SANITY for word in ("--test", name)]
    done = lint.run(
        "ansible-test", "sanity", "--python", "default", "--color", "no", *checks,
        within=lint.installed, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    for name in _SANITY:
        assert f'Running sanity test "{name}"' in done.stdout
