"""What is lent to an interpreter, and why nothing is."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cep.engines.lending import NEEDS, SUPPORTED, Lending
from cep.worker import lend

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def facts(tmp_path: Path) -> dict[str, Any]:
    """This endpoint's, without the endpoint's own packages to lend."""
    made = Lending(tmp_path / "engine", "auto", tmp_path / "sets").facts()
    made["own"]["paths"] = [str(tmp_path / "nowhere")]
    return made


def make_set(facts: Mapping[str, Any], **changes: Any) -> Path:
    place = Path(facts["sets"]) / lend.set_name(MINOR, platform.machine())
    (place / lend.SET_PACKAGES).mkdir(parents=True)
    content = {"packages": {"parsl": "2026.10.26", "dill": "0.3.9"}, "glibc": "2.17", **changes}
    (place / lend.SET_FILE).write_text(json.dumps(content))
    return place


def refused(facts: Mapping[str, Any], *lacks: str) -> str:
    with pytest.raises(lend.Refused) as caught:
        lend.lenders(facts, lacks, Path("/run"))
    return str(caught.value)


def test_this_interpreter_has_the_worker() -> None:
    seen = lend.survey(NEEDS)
    assert (seen.lacks, seen.unfit) == ([], [])
    assert seen.found["parsl"] == metadata.version("parsl")


def test_the_needs_agree_with_what_the_libraries_say_of_themselves() -> None:
    """Each bound lets through what the installed one is, and refuses what its users refuse."""
    bounds: dict[str, SpecifierSet] = {}
    for owner in ("cep-endpoint", "parsl"):
        for text in metadata.requires(owner) or ():
            one = Requirement(text)
            if one.marker is None and (owner == "parsl" or one.name == "parsl"):
                bounds[one.name] = one.specifier
    for need in NEEDS:
        if need["name"] not in bounds:
            continue
        for word, sign in (("low", ">="), ("below", "<")):
            said = [one for one in bounds[need["name"]] if one.operator == sign]
            assert [list(map(int, one.version.split("."))) for one in said] == (
                [need[word]] if need[word] else []
            ), need["name"]


def test_all_that_a_pool_imports_is_among_the_needs() -> None:
    """In a process of its own, by the light way and by the plain one as far as it is ours."""
    code = (
        "import sys, json, importlib.metadata as m, cep.engines.pool\n"
        "owners = m.packages_distributions()\n"
        "tops = {name.partition('.')[0] for name in sys.modules if name in sys.modules}\n"
        "print(json.dumps(sorted({o.lower() for t in tops for o in owners.get(t, ())})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout)) - {"setuptools"}  # its own hook at every start
    optional = {"pybase64"}  # where it is missing, the standard library's does
    needed = {need["name"].replace("_", "-") for need in NEEDS} | {"typing_extensions"}
    assert loaded <= needed | optional


def test_the_supported_versions_are_those_of_the_distribution() -> None:
    specifier = SpecifierSet(metadata.metadata("cep-endpoint")["Requires-Python"])
    assert [f"3.{n}" for n in range(6, 30) if f"3.{n}" in specifier] == list(SUPPORTED)


def test_versions_that_cannot_work_are_named() -> None:
    needs = [{"name": "parsl", "module": "parsl", "low": [2099, 1], "below": []}]
    (unfit,) = lend.survey(needs).unfit
    assert unfit == f"parsl {metadata.version('parsl')} (the worker needs >=2099.1)"
    assert lend.unfit_of(needs, {"parsl": "2099.1"}) == []
    assert lend.unfit_of(NEEDS, {"parsl": "2026.11.2", "typeguard": "2.13"}) == [
        "parsl 2026.11.2 (the worker needs >=2026.10.26,<2026.11)",
        "typeguard 2.13 (the worker needs >=4,<5)",
    ]


def test_the_set_for_this_python_and_machine_is_lent(facts: dict[str, Any]) -> None:
    place = make_set(facts)
    assert lend.lenders(facts, ["parsl", "dill"], Path("/run")) == [str(place / "packages")]


def test_without_a_set_the_endpoint_s_own_packages_are_lent_where_they_fit(
    facts: dict[str, Any], tmp_path: Path
) -> None:
    facts["own"]["paths"] = [str(tmp_path)]
    assert lend.lenders(facts, ["parsl"], Path("/run")) == [str(tmp_path)]
    facts["own"]["python"] = "3.99"
    assert f"there is no worker set for Python {MINOR} on" in refused(facts, "parsl")


def test_a_set_that_lacks_something_is_refused(facts: dict[str, Any]) -> None:
    make_set(facts)
    assert refused(facts, "parsl", "pyzmq").endswith("has no pyzmq")


def test_a_set_for_a_newer_glibc_is_refused(facts: dict[str, Any]) -> None:
    make_set(facts, glibc="2.99")
    assert "needs glibc 2.99, where this host has 2." in refused(facts, "parsl")


def test_a_set_of_another_version_of_cep_is_refused(facts: dict[str, Any]) -> None:
    make_set(facts, packages={"parsl": "2025.1.6"})
    assert "has parsl 2025.1.6 (the worker needs >=2026.10.26" in refused(facts, "parsl")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"packages": []}', "\x00", '{"packages": 5}'])
def test_a_set_that_is_damaged_is_refused(facts: dict[str, Any], text: str) -> None:
    (make_set(facts) / lend.SET_FILE).write_text(text)
    assert "the worker set" in refused(facts, "parsl")


def test_musl_and_other_pythons_are_refused_by_name(
    facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what such interpreters say of themselves: none of them is here."""
    make_set(facts)
    with monkeypatch.context() as patch:
        musl = {"HOST_GNU_TYPE": "x86_64-pc-linux-musl"}
        patch.setattr(lend.sysconfig, "get_config_var", musl.get)
        assert "nothing can be lent to a Python on musl" in refused(facts, "parsl")
    with monkeypatch.context() as patch:
        patch.setattr(lend.sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
        assert "nothing can be lent to a free-threaded Python" in refused(facts, "parsl")
    monkeypatch.setattr(lend.platform, "python_implementation", lambda: "PyPy")
    assert "nothing can be lent to PyPy" in refused(facts, "parsl")


def test_the_worker_alone_needs_no_set(facts: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(lend.util, "find_spec", lambda _name: None)
    paths = lend.lenders(facts, ["cep-endpoint"], Path("/run"))
    assert paths == [f"/run/{facts['archive']}"]


def test_another_package_of_our_name_is_told(facts: dict[str, Any]) -> None:
    assert "another package of the name cep" in refused(facts, "cep-endpoint")


@pytest.mark.parametrize(
    ("python", "name"), [("/elsewhere/python3", lend.REFUSED), (sys.executable, lend.FAILED)]
)
def test_in_the_endpoint_s_own_python_a_lack_is_of_the_moment(
    facts: dict[str, Any], tmp_path: Path, python: str, name: str
) -> None:
    """While its packages are installed anew they are not there: the next block may find them."""
    why = lend.Refused("it has another package of the name cep, which hides the worker")
    with pytest.raises(SystemExit):
        lend._refuse(facts, tmp_path / "python", ["7", python, "it is so", "module"], why)
    (told,) = (tmp_path / "block-7").iterdir()
    assert told.name == name
    assert "hides the worker" in told.read_text()


def test_what_is_not_as_at_the_endpoint_is_named(facts: dict[str, Any]) -> None:
    here = dict(facts["endpoint"]["packages"])
    assert lend.differences(facts, here) == []
    facts["endpoint"]["python"] = "3.99.1"
    told = lend.differences(facts, {**here, "dill": "0.1", "parsl": ""})
    assert told[0] == f"Python {MINOR} (endpoint 3.99.1)"
    assert told[1].startswith("dill 0.1 (endpoint ")
    assert len(told) == 2


def test_what_is_carried_to_the_fork_server_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for before in (None, "/mine:/other"):
        if before is None:
            monkeypatch.delenv("PYTHONPATH", raising=False)
        else:
            monkeypatch.setenv("PYTHONPATH", before)
        lend._carry(["/lent"], tmp_path)
        assert lend.os.environ["PYTHONPATH"].split(":")[0] == str(tmp_path)
        monkeypatch.setattr(sys, "path", [str(Path(lend.__file__).parent), "/own"])
        lend.arrive()
        assert sys.path == ["/own", "/lent"]
        assert lend.os.environ.get("PYTHONPATH") == before
        assert lend.CARRY not in lend.os.environ
        assert lend.settle() == []
