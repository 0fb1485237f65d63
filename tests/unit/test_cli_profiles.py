"""`profiles list` and `profiles show`: the documentation of profiles, for people and programs."""

from __future__ import annotations

import json

import pytest

from cep.profiles import catalog
from cep.profiles.reference import built_in
from tests.unit.cli_rig import Rig, rig

__all__ = ["rig"]


@pytest.mark.parametrize("words", [["profiles"], ["profiles", "list"]])
def test_the_list_has_profiles_and_sites_and_says_what_nobody_tried(
    words: list[str], rig: Rig
) -> None:
    done = rig.run(*words)
    assert done.code == 0
    assert "| slurm " in done.out
    assert "| polaris " in done.out
    assert "not tried by us" in done.out
    assert "built in" in done.out


def test_the_list_tells_which_file_came_from_where(rig: Rig) -> None:
    own = rig.base / "profiles"
    own.mkdir(parents=True)
    (own / "_modules.sh.j2").write_text("module load x\n")
    (own / "threads.schema.yaml").write_text(
        "summary: Ours.\ninclude: [endpoint]\n"
        "variables: {max_workers: {type: integer, default: 2, description: Workers.}}\n"
    )
    done = rig.run("profiles", "list")
    assert f"threads.schema.yaml: {own}" in done.out
    assert f"_modules.sh.j2: {own}" in done.out
    told = json.loads(rig.run("profiles", "list", "--json").out)
    files = {one["name"]: one["files"] for one in told["profiles"]}
    assert files["threads"]["threads.schema.yaml"] == str(own)
    assert files["slurm"]["slurm.yaml.j2"] == "built in"
    assert files["slurm"]["_modules.sh.j2"] == str(own)
    assert files["slurm"]["_container.yaml.j2"] == "built in"
    assert "_modules.sh.j2" not in files["threads"]


def test_show_is_the_documentation_of_every_variable(rig: Rig) -> None:
    done = rig.run("profiles", "show", "slurm")
    for name, variable in catalog.find("slurm", built_in()).variables.items():
        assert f"  {name}  (" in done.out
        assert " ".join(variable.description.split()) in " ".join(done.out.split())
    assert done.out.splitlines()[2:4] == ["SCHEDULER", _first_line("partition")]
    assert "configure NAME --profile slurm" in done.out


def _first_line(name: str) -> str:
    wanted = catalog.find("slurm", built_in()).variables[name].wanted
    return f"  {name}  ({wanted}; required)"


def test_show_in_json_is_enough_to_check_values_with(rig: Rig) -> None:
    told = json.loads(rig.run("profiles", "show", "slurm", "--json").out)
    assert set(told) == {"name", "summary", "files", "variables"}
    by_name = {variable["name"]: variable for variable in told["variables"]}
    # The names are documented in docs/cli.md; they stay.
    names = "name type item required required_when excludes default description example group "
    names += "options low high pattern wanted rules"
    assert set(by_name["partition"]) == set(names.split(" "))
    assert by_name["partition"]["required"] is True
    assert by_name["container_uri"]["required_when"]["container_type"][0] == "docker"
    assert by_name["walltime"]["pattern"]
    assert by_name["max_blocks"]["low"] == 0
    assert by_name["modules"]["item"] == "word"


def test_show_of_a_site_tells_values_source_and_what_is_yours_to_give(rig: Rig) -> None:
    done = rig.run("profiles", "show", "polaris")
    assert "not tried by us; facts of 2026-08" in done.out
    assert "queue=debug-scaling" in done.out
    assert "account  (yours to give)" in done.out
    assert "configure NAME --site polaris --set account=VALUE" in done.out
    told = json.loads(rig.run("profiles", "show", "polaris", "--json").out)
    assert (told["profile"], told["required"], told["tried"]) == ("pbs", ["account"], None)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["show", "moon"], 64, "There is no profile 'moon'"),
        (["show", "../slurm"], 64, "There is no profile"),
        (["list", "--profile-dir", "/nowhere"], 66, "/nowhere"),
    ],
)
def test_what_is_not_there_is_told(words: list[str], code: int, said: str, rig: Rig) -> None:
    done = rig.run("profiles", *words)
    assert (done.code, said in done.err) == (code, True), done.err
