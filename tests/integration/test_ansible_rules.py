"""What judges a collection: ansible-lint, yamllint, ansible-doc; no host is needed.

Everything runs on the collection as its own file installs it, so what the file lacks is noticed.
The long form (LONG=1) asks today's ansible-core as well.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.integration import venvs
from tests.integration.ansible_host import COLLECTION, Controller
from tests.integration.faults.settings import LONG

# The first test may have to wait for ansible-lint and ansible-core.
pytestmark = pytest.mark.timeout(400)

CORES = ("oldest", "today") if LONG else ("oldest",)


@pytest.fixture(scope="module", params=CORES)
def lint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    today = request.param == "today"
    python = venvs.ansible_lint_today_python() if today else venvs.ansible_lint_python()
    controller = Controller(python, tmp_path_factory.mktemp("lint"))
    controller.install_collection()
    for name in (".ansible-lint", ".yamllint"):  # they judge the file, and are no part of it
        shutil.copy(COLLECTION / name, controller.installed / name)
    shutil.copytree(COLLECTION / "molecule", controller.installed / "molecule")
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


def document(lint: Controller, *words: str) -> Any:
    """What a program prints as JSON, after what it may warn of."""
    said = lint.run(*words).stdout
    found = re.search(r"^\{", said, re.MULTILINE)
    assert found, said
    return json.loads(said[found.start() :])


def test_the_documentation_of_roles_and_modules_can_be_read(lint: Controller) -> None:
    roles = [f"cep.cep.{name}" for name in ("cep", "cep_hub")]
    told = document(lint, "ansible-doc", "--type", "role", "--json", *roles)
    assert [sorted(told[role]["entry_points"]) for role in roles] == [["main"], ["main"]]
    names = ("cep_endpoint", "cep_endpoint_info", "cep_wheelhouse_info")
    modules = [f"cep.cep.{name}" for name in names]
    told = document(lint, "ansible-doc", "--json", *modules)
    assert all(told[module]["return"] for module in modules)


def test_the_example_inventory_is_one(lint: Controller) -> None:
    hosts = lint.installed / "examples" / "hosts.yml"
    told = document(lint, "ansible-inventory", "-i", str(hosts), "--list")
    assert told["cep_hubs"]["hosts"] == ["hub.example.org"]
    assert len(told["cep_endpoints"]["hosts"]) == 3


def test_every_playbook_is_well_formed(lint: Controller) -> None:
    hosts = lint.installed / "examples" / "hosts.yml"
    names = [f"cep.cep.{path.stem}" for path in sorted((COLLECTION / "playbooks").glob("*.yml"))]
    assert len(names) > 1
    done = lint.run("ansible-playbook", "--syntax-check", "-i", str(hosts), *names)
    assert done.stdout.count("playbook: ") == len(names)
