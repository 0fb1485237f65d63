"""The collection's files agree with each other and with the project; no Ansible is needed here."""

from __future__ import annotations

import importlib.util
import json
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


def loaded(path: Path) -> Any:
    """A module of the collection that needs nothing of Ansible's."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_every_variable_that_admins_are_shown_is_told() -> None:
    told = {name for one in ROLES for name in options_of(one)}
    groups, modules = {"cep_hubs", "cep_endpoints"}, {"cep_endpoint_info"}
    of_playbooks = {"cep_maintenance", "cep_serial"}
    examples = [*(COLLECTION / "examples").rglob("*.yml")]
    assert len(examples) == 3
    for path in [COLLECTION.parent / "docs/ansible.md", *examples]:
        shown = set(re.findall(r"(?<![\w.])cep_[a-z_]+", path.read_text()))
        assert shown - told - groups - modules - of_playbooks == set(), path


def test_the_readme_is_what_its_program_writes() -> None:
    readme = loaded(COLLECTION / "readme.py")
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


def test_what_the_module_hands_on_is_what_apply_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = loaded(COLLECTION / "plugins/module_utils/apply.py")
    monkeypatch.setattr(apply.os, "geteuid", lambda: 0)
    # Every parameter of the module that is handed on, with a value that the schema allows.
    params = {
        "name": "lab", "user": "alice", "state": "started", "config_dir": "/x", "profile": "slurm",
        "site": "s", "vars": {"partition": "debug"}, "config": {"engine": {}}, "display_name": "d",
        "ca_file": "/ca", "uuid": "0" * 32, "on_change": "none", "purge": False, "deregister": True,
        "service_url": "https://hub", "drain_timeout": 0, "scope": "system", "enabled": True,
        "hardening": "strict", "memory_max": "1G", "cpu_quota": "100%", "tasks_max": "5",
        "any_host": False, "unit_name": "u", "replace_unit": False, "client_id": "i",
        "client_secret": "s", "client_secret_file": None,
    }  # fmt: skip
    entry = apply.entry_of(params)
    path = Path(cep.__file__).parent / "apply/input.schema.json"
    schema = json.loads(path.read_text())["$defs"]["endpoint"]["properties"]
    assert set(entry) <= set(schema)
    assert entry["drain_s"] == 0 and entry["service"] == "https://hub" and entry["purge"] is False
    assert entry["run_as"] == "alice"
    unit = json.loads(path.read_text())["$defs"]["unit"]["properties"]
    assert set(entry["unit"]) == set(unit)
    assert entry["credentials"] == {"client_id": "i", "client_secret": "s"}
    given = dict.fromkeys(params)
    assert apply.entry_of({**given, "name": "lab"}) == {"name": "lab"}


def test_an_account_of_its_own_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = loaded(COLLECTION / "plugins/module_utils/apply.py")
    monkeypatch.setattr(apply.os, "geteuid", lambda: 1500)
    assert apply.entry_of({"name": "lab", "user": "alice"}) == {"name": "lab"}


def test_everything_that_is_wrong_is_told() -> None:
    apply = loaded(COLLECTION / "plugins/module_utils/apply.py")
    wrong = {"problems": [{"endpoint": None, "where": "endpoints[0]", "sentence": "No name."}]}
    assert apply.why_not({**wrong, "error": {"sentence": "Nothing was changed."}}) == (
        "endpoints[0]: No name."
    )
    failed = {"name": "lab", "error": {"sentence": "It does not start.", "hint": "Look."}}
    assert apply.why_not({"endpoints": [failed]}) == "lab: It does not start. Look."
    assert apply.why_not({"endpoints": [{"name": "lab", "error": None}]}) == ""
