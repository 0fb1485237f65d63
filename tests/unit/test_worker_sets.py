"""Making worker sets: from wheels for another Python, or from what is installed; whole or not."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from cep.engines import wheelhouse, worker_sets
from cep.engines.lending import Lending
from cep.engines.wheelhouse import NotThere, Target
from cep.errors import CantCreate, DataError, InputMissing, Unavailable, UsageError
from cep.worker import lend
from tests.unit.cli_rig import Rig, rig

__all__ = ["rig"]

TARGET = Target("3.12", "x86_64", "2.28")
ROOTS = ("dill", "globus_compute_sdk", "parsl", "psutil", "pybase64", "setproctitle")
VERSIONS = {"parsl": "2026.10.26", "psutil": "7.0", "globus_compute_sdk": "4.19", "dill": "0.3.9"}


def wheel(
    folder: Path,
    name: str,
    version: str = "1.5",
    *,
    tag: str = "py3-none-any",
    needs: Sequence[str] = (),
    files: dict[str, str] | None = None,
) -> Path:
    """Write a small wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in needs)]
    content = {f"{name}/__init__.py": "", **(files or {})}
    content[f"{info}/METADATA"] = "Metadata-Version: 2.1\n" + "\n".join(lines) + "\n"
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
    rows = []
    for inside, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        rows.append(f"{inside},sha256={digest.decode().rstrip('=')},{len(text)}")
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"])
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in content.items():
            archive.writestr(inside, text)
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A directory with all that a set needs, in small."""
    folder = tmp_path / "wheels"
    for name in ROOTS:
        wheel(folder, name, VERSIONS.get(name, "1.5"))
    return folder


def names(folder: Path, roots: Sequence[str], target: Target = TARGET) -> list[str]:
    return [one.path.name for one in wheelhouse.choose(folder, roots, target)]


# -- which wheels ------------------------------------------------------------------------------


def test_the_newest_version_that_everybody_accepts_is_chosen(tmp_path: Path) -> None:
    wheel(tmp_path, "a", needs=["b<3", "c"])
    wheel(tmp_path, "c", needs=["b>=1,!=2.2"])
    for version in ("0.9", "1.0", "2.1", "2.2", "3.0"):
        wheel(tmp_path, "b", version)
    assert names(tmp_path, ["a"])[1] == "b-2.1-py3-none-any.whl"


def test_what_only_a_discarded_version_needs_is_left_out(tmp_path: Path) -> None:
    wheel(tmp_path, "a", "2.0", needs=["gone"])
    wheel(tmp_path, "a", "1.0")
    wheel(tmp_path, "b", needs=["a<2"])
    wheel(tmp_path, "gone")
    assert names(tmp_path, ["a", "b"]) == ["a-1.0-py3-none-any.whl", "b-1.5-py3-none-any.whl"]


def test_markers_and_extras_are_judged_for_the_target(tmp_path: Path) -> None:
    other = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel(
        tmp_path,
        "a",
        needs=[
            'only_there; python_version == "3.12"',
            f'only_here; python_version == "{other}" and python_version != "3.12"',
            'no_windows; sys_platform == "win32"',
            "b[fast]",
        ],
    )
    wheel(tmp_path, "b", needs=['c; extra == "fast"', 'd; extra == "slow"'])
    for name in ("only_there", "c"):
        wheel(tmp_path, name)
    found = [name.partition("-")[0] for name in names(tmp_path, ["a"])]
    assert found == ["a", "b", "c", "only_there"]


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp312-cp312-manylinux_2_28_x86_64", True),
        ("cp312-cp312-manylinux_2_34_x86_64", False),
        ("cp312-cp312-musllinux_1_2_x86_64", False),
        ("cp312-cp312-manylinux_2_17_aarch64", False),
        ("cp311-cp311-manylinux_2_17_x86_64", False),
        ("cp312-cp312t-manylinux_2_17_x86_64", False),
        ("cp38-abi3-manylinux_2_17_x86_64", True),
        ("cp313-abi3-manylinux_2_17_x86_64", False),
        ("pp310-pypy310_pp73-manylinux_2_17_x86_64", False),
        ("cp312-cp312-linux_x86_64", True),
        ("py2.py3-none-any", True),
        ("py2-none-any", False),
    ],
)
def test_a_wheel_fits_or_does_not(tmp_path: Path, tag: str, fits: bool) -> None:
    wheel(tmp_path, "a", tag=tag)
    if fits:
        assert names(tmp_path, ["a"])
        return
    with pytest.raises(NotThere) as caught:
        names(tmp_path, ["a"])
    assert (
        f"has no wheel of a for Python 3.12 on x86_64 with glibc 2.28; it has a-1.5-{tag}"
        in str(caught.value)
    )


@pytest.mark.parametrize(
    ("platform_tag", "glibc"),
    [
        ("any", (0, 0)),
        ("manylinux1_x86_64", (2, 5)),
        ("manylinux2014_aarch64", (2, 17)),
        ("manylinux_2_34_x86_64", (2, 34)),
        ("linux_x86_64", (0, 0)),
    ],
)
def test_the_glibc_of_a_tag(platform_tag: str, glibc: tuple[int, int]) -> None:
    assert wheelhouse.glibc_of(platform_tag) == glibc


def test_requirements_that_contradict_are_told(tmp_path: Path) -> None:
    wheel(tmp_path, "a", "1.0", needs=["b"])
    wheel(tmp_path, "b", needs=["a>1"])
    with pytest.raises(NotThere, match="no wheel of a>1"):
        names(tmp_path, ["a"])


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", "b\\c"])
def test_a_wheel_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    wheel(tmp_path / "wheels", "a", files={name: "x"})
    (found,) = wheelhouse.choose(tmp_path / "wheels", ["a"], TARGET)
    with pytest.raises(DataError, match="may not hold a file"):
        wheelhouse.unpack(found, tmp_path / "deep" / "place")
    assert not list(tmp_path.rglob("out"))


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, "a", files={"a/code.py": "right"})
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["a/code.py"] = b"wrong"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    (found,) = wheelhouse.choose(tmp_path, ["a"], TARGET)
    with pytest.raises(DataError, match=r"a/code\.py is not as recorded"):
        wheelhouse.unpack(found, tmp_path / "place")
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match="cannot be read as a wheel"):
        wheelhouse.choose(tmp_path, ["a"], TARGET)


def test_packages_are_unpacked_and_scripts_are_not(tmp_path: Path) -> None:
    files = {"a-1.5.data/platlib/a/fast.so": "x", "a-1.5.data/scripts/run": "y"}
    wheel(tmp_path, "a", files=files)
    (found,) = wheelhouse.choose(tmp_path, ["a"], TARGET)
    wheelhouse.unpack(found, tmp_path / "place")
    found_files = {
        str(f.relative_to(tmp_path / "place")) for f in (tmp_path / "place").rglob("*.*")
    }
    assert "a/fast.so" in found_files
    assert not any("scripts" in name or "run" in name for name in found_files)


# -- a set -------------------------------------------------------------------------------------


def test_a_set_is_made_from_wheels_and_described(tmp_path: Path, wheels: Path) -> None:
    wheel(wheels, "psutil", "7.1", tag="cp312-cp312-manylinux_2_17_x86_64")
    made = worker_sets.add(tmp_path / "sets", TARGET, wheels, download=False)
    assert (made.name, made.source, made.glibc) == ("python3.12-x86_64", "wheels", "2.17")
    assert made.packages["psutil"] == "7.1"
    assert made.trouble == ""
    assert (tmp_path / "sets" / made.name / "packages" / "parsl" / "__init__.py").exists()
    assert [path.name for path in (tmp_path / "sets").iterdir()] == [made.name]
    assert worker_sets.found_in(tmp_path / "sets") == [made]


def test_a_failure_leaves_the_old_set_and_nothing_else(tmp_path: Path, wheels: Path) -> None:
    made = worker_sets.add(tmp_path / "sets", TARGET, wheels, download=False)
    next(wheels.glob("parsl-*")).unlink()
    with pytest.raises(InputMissing, match="has no wheel of parsl") as caught:
        worker_sets.add(tmp_path / "sets", TARGET, wheels, download=False)
    assert "pip download --only-binary :all: --python-version 3.12" in str(caught.value)
    assert worker_sets.found_in(tmp_path / "sets") == [made]
    assert [path.name for path in (tmp_path / "sets").iterdir()] == [made.name]


def test_a_set_of_an_older_parsl_is_listed_with_its_trouble(tmp_path: Path, wheels: Path) -> None:
    made = worker_sets.add(tmp_path / "sets", TARGET, wheels, download=False)
    file = tmp_path / "sets" / made.name / lend.SET_FILE
    file.write_text(file.read_text().replace("2026.10.26", "2025.1.1"))
    (found,) = worker_sets.found_in(tmp_path / "sets")
    assert found.trouble.startswith("parsl 2025.1.1 (the worker needs >=2026.10.26")


def test_the_endpoint_s_own_packages_make_a_set_that_carries_the_worker(tmp_path: Path) -> None:
    """A bare interpreter with the set and the archive of the worker loads the pool."""
    own = worker_sets.target_of(None, None, None)
    made = worker_sets.add(tmp_path / "sets", own, None, download=False)
    assert made.source == "environment"
    assert "cep-endpoint" not in made.packages
    files = Lending(tmp_path / "engine", "auto", tmp_path / "sets")
    files.write()
    paths = [f"{files.files / files.facts()['archive']}", f"{tmp_path}/sets/{made.name}/packages"]
    code = (
        f"import sys; sys.path += {paths!r}\n"
        "import cep.engines.pool, globus_compute_sdk, zmq\n"
        "print(cep.__file__, globus_compute_sdk.__file__, zmq.__file__)"
    )
    base = getattr(sys, "_base_executable", sys.executable)
    done = subprocess.run([base, "-I", "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(word.startswith(str(tmp_path)) for word in done.stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("3.9", None, None), "Python '3.9'"),
        (("python3", None, None), "Python 'python3'"),
        (("3.12", "vax", None), "machine 'vax'"),
        (("3.12", None, "3"), "glibc is written like 2.28"),
        (("3.12", None, "2.28; rm"), "glibc is written like 2.28"),
    ],
)
def test_an_unknown_target_is_refused_by_name(
    words: tuple[str, str | None, str | None], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        worker_sets.target_of(*words)


def test_an_interpreter_is_asked_for_its_version(tmp_path: Path) -> None:
    found = worker_sets.target_of(sys.executable, None, None)
    assert (found.python, found.machine) == (
        f"{sys.version_info.major}.{sys.version_info.minor}",
        platform.machine(),
    )
    with pytest.raises(InputMissing):
        worker_sets.target_of(f"{tmp_path}/python3", None, None)
    for answer, said in (
        ('["CPython", "3.12", "x86_64", "x86_64-alpine-linux-musl", false]', "on musl"),
        ('["PyPy", "3.11", "x86_64", "", false]', "it is PyPy"),
        ('["CPython", "3.13", "x86_64", "", true]', "free-threaded"),
        ("what?", "does not say which Python"),
    ):
        python = tmp_path / "python3"
        python.write_text(f"#!/bin/sh\necho '{answer}'\n")
        python.chmod(0o755)
        with pytest.raises(UsageError, match=said):
            worker_sets.target_of(str(python), None, None)


def test_an_index_that_cannot_be_reached_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Unavailable, match="could not be fetched") as caught:
        worker_sets.add(tmp_path / "sets", TARGET, None, download=True)
    assert "--wheels DIR" in str(caught.value)
    assert list((tmp_path / "sets").iterdir()) == []


def test_a_fetch_looks_up_what_pip_overlooks(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a directory in the place of an index: markers are the target's, not this Python's."""
    wheel(wheels, "dill", "0.3.10", needs=['backport; python_version == "3.12"'])
    wheel(wheels, "backport")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    made = worker_sets.add(tmp_path / "sets", TARGET, None, download=True)
    assert made.packages["backport"] == "1.5"
    assert made.source == "index"


# -- the command -------------------------------------------------------------------------------


def test_the_commands_add_list_and_remove(rig: Rig, tmp_path: Path, wheels: Path) -> None:
    words = ("worker-sets", "add", "--python", "3.12", "--machine", "x86_64", "--wheels")
    done = rig.run(*words, str(wheels))
    place = rig.base / "worker-sets" / "python3.12-x86_64"
    assert (done.code, done.out) == (0, f"{place}: {len(ROOTS)} packages\n"), done.err
    (told,) = json.loads(rig.run("worker-sets", "list", "--json").out)
    assert told["name"] == place.name
    assert "| python3.12-x86_64 |" in rig.run("worker-sets", "list").out
    assert rig.run("worker-sets", "remove", "python3.12-x86_64").code == 0
    assert json.loads(rig.run("worker-sets", "list", "--json").out) == []
    gone = rig.run("worker-sets", "remove", "python3.12-x86_64")
    assert (gone.code, "There is no worker set python3.12-x86_64 in" in gone.err) == (66, True)
    empty = rig.run("worker-sets", "list")
    assert (empty.code, empty.out, "There are no sets in" in empty.err) == (0, "", True)
    other = ("--directory", str(tmp_path / "shared"))
    assert rig.run(*words, str(wheels), *other).code == 0
    assert (tmp_path / "shared" / "python3.12-x86_64" / lend.SET_FILE).is_file()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("add", "--python", "2.7"), 64),
        (("add", "--wheels", "/nowhere"), 66),
        (("add", "--wheels", "/tmp", "--download"), 64),
        (("remove", "../ep"), 64),
        (("remove", "python3.12-x86_64"), 66),
    ],
)
def test_wrong_words_are_refused(rig: Rig, words: tuple[str, ...], code: int) -> None:
    done = rig.run("worker-sets", *words)
    assert (done.code, done.out) == (code, "")
    assert done.err


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "sets").write_text("in the way")
    with pytest.raises(CantCreate, match="cannot be written"):
        worker_sets.add(tmp_path / "sets", TARGET, wheels, download=False)


def test_sets_that_others_could_change_are_neither_made_nor_lent(
    tmp_path: Path, wheels: Path
) -> None:
    made = worker_sets.add(tmp_path / "sets", TARGET, wheels, download=False)
    files = Lending(tmp_path / "engine", "auto", tmp_path / "sets")
    files.write()
    for place in (tmp_path / "sets", tmp_path / "sets" / made.name):
        place.chmod(0o777)
        with pytest.raises(CantCreate, match="can be changed by everybody"):
            files.write()
        with pytest.raises(CantCreate, match="can be changed by everybody"):
            worker_sets.add(tmp_path / "sets", TARGET, wheels, download=False)
        place.chmod(0o755)
