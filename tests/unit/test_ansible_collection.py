"""The collection's files agree with each other and with the project; no Ansible is needed here."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import cep

COLLECTION = Path(__file__).resolve().parents[2] / "ansible"
ROLES = ("cep", "cep_hub")


def options_of(role: str) -> dict[str, Any]:
    path = COLLECTION / "roles" / role / "meta/argument_specs.yml"
    spec = yaml.safe_load(path.read_text())
    options: dict[str, Any] = spec["argument_specs"]["main"]["options"]
    return options


@pytest.mark.parametrize("role", ROLES)
def test_the_defaults_are_those_of_the_argument_specs(role: str) -> None:
    defaults = yaml.safe_load((COLLECTION / "roles" / role / "defaults/main.yml").read_text())
    told = {name: option["default"] for name, option in options_of(role).items()}
    assert defaults == told
    assert list(defaults) == list(told)


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_that_tasks_use_is_told(role: str) -> None:
    told = {name for one in ROLES for name in options_of(one)} | {
        "cep_endpoint_ids",  # what the role hands back
        "cep_maintenance",  # the playbook's own
    }
    folder = COLLECTION / "roles" / role
    for path in [*folder.rglob("*.yml"), *folder.rglob("*.j2")]:
        used = set(re.findall(r"(?<![\w.'/])cep_[a-z_]+\b(?!\.)", path.read_text()))
        modules = {"cep_endpoint", "cep_endpoint_info", "cep_wheelhouse_info", "cep_hub", "cep_"}
        tags = {"cep_install", "cep_configure", "cep_run", "cep_verify", "cep_uninstall"}
        assert used - told - modules - tags == set(), path


def test_the_readme_is_what_its_program_writes() -> None:
    spec = importlib.util.spec_from_file_location("readme", COLLECTION / "readme.py")
    assert spec is not None and spec.loader is not None
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    assert (COLLECTION / "README.md").read_text() == readme.text(), "python ansible/readme.py"


def test_the_collection_has_the_version_of_the_project() -> None:
    galaxy = yaml.safe_load((COLLECTION / "galaxy.yml").read_text())
    assert galaxy["version"] == cep.__version__
    assert options_of("cep")["cep_version"]["default"] == cep.__version__
    assert f"\n## {cep.__version__}\n" in (COLLECTION / "CHANGELOG.md").read_text()


def test_secrets_are_marked_as_such() -> None:
    endpoint = options_of("cep")["cep_endpoints"]["options"]
    assert endpoint["client_secret"]["no_log"] is True


def test_profiles_of_batch_systems_have_names_that_exist() -> None:
    variables = yaml.safe_load((COLLECTION / "roles/cep/vars/main.yml").read_text())
    templates = COLLECTION.parent / "templates/configs"
    for profile in variables["_cep_batch_profiles"]:
        assert (templates / f"{profile}.schema.yaml").exists(), profile
