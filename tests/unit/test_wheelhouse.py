"""The wheelhouse for sites without a package index: what is in it, and what is refused by name.

The wheels are made here and hold nothing but metadata; a real one is installed by
tests/integration/test_wheelhouse.py.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import wheelhouse
from tools.wheelhouse_check import Refused, check
from tools.wheelhouse_wheels import platforms

NAME = "cep-wheelhouse-1.2-py3.11-x86_64"
CHECK = Path(wheelhouse.__file__).with_name("wheelhouse_check.py")


def wheel(directory: Path, name: str, tags: str = "py3-none-any", *requires: str) -> Path:
    """A wheel of nothing."""
    path = directory / f"{name}-1.2-{tags}.whl"
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.2", "License-Expression: MIT"]
    lines += [f"Requires-Dist: {one}" for one in requires]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.2.dist-info/METADATA", "\n".join(lines) + "\n")
    return path


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    source = tmp_path / "wheels"
    source.mkdir()
    return [
        wheel(
            source, "cep_endpoint", "py3-none-any", "Fast_Thing>=1", "old; python_version<'3.11'"
        ),
        wheel(source, "fast_thing", "cp311-cp311-manylinux_2_17_x86_64", "stable"),
        wheel(source, "stable", "cp36-abi3-manylinux2010_x86_64"),
        wheel(source, "old"),
    ]


@pytest.fixture
def made(wheels: list[Path], tmp_path: Path) -> Path:
    collection = tmp_path / "cep-cep-1.2.tar.gz"
    collection.write_bytes(b"a collection")
    return wheelhouse.assemble(wheels, "3.11", "x86_64", tmp_path / "dist", collection=collection)


def unpacked(made: Path) -> Path:
    # As an admin unpacks it; tarfile's own filter came with a patch release of Python (3.11.4).
    subprocess.run(["tar", "-xf", made, "-C", made.parent], check=True)
    return made.parent / NAME


def test_it_holds_everything_with_its_hash(made: Path) -> None:
    assert made.name == f"{NAME}.tar"
    top = unpacked(made)
    found = {str(one.relative_to(top)) for one in top.rglob("*") if one.is_file()}
    assert found == {
        "SHA256SUMS",
        "check.py",
        "collection/cep-cep-1.2.tar.gz",
        "constraints.txt",
        "manifest.json",
        "sbom.cdx.json",
        "wheels/cep_endpoint-1.2-py3-none-any.whl",
        "wheels/fast_thing-1.2-cp311-cp311-manylinux_2_17_x86_64.whl",
        "wheels/old-1.2-py3-none-any.whl",
        "wheels/stable-1.2-cp36-abi3-manylinux2010_x86_64.whl",
    }
    pins = (top / "constraints.txt").read_text().splitlines()
    own = hashlib.sha256((top / "wheels/cep_endpoint-1.2-py3-none-any.whl").read_bytes())
    assert pins[0] == f"cep-endpoint==1.2 --hash=sha256:{own.hexdigest()}"
    assert [line.split("==")[0] for line in pins] == ["cep-endpoint", "fast-thing", "old", "stable"]
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=top, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_bill_of_materials_says_who_needs_whom_with_that_python(made: Path) -> None:
    bill = json.loads((unpacked(made) / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "cep-endpoint"
    assert [one["purl"] for one in bill["components"]] == [
        "pkg:pypi/fast-thing@1.2",
        "pkg:pypi/old@1.2",
        "pkg:pypi/stable@1.2",
    ]
    assert {one["licenses"][0]["license"]["name"] for one in bill["components"]} == {"MIT"}
    needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    assert needs["pkg:pypi/cep-endpoint@1.2"] == ["pkg:pypi/fast-thing@1.2"]
    assert needs["pkg:pypi/fast-thing@1.2"] == ["pkg:pypi/stable@1.2"]


def test_the_same_wheels_give_the_same_bytes(wheels: list[Path], tmp_path: Path) -> None:
    first, second = (
        wheelhouse.assemble(order, "3.11", "x86_64", tmp_path / place)
        for place, order in (("a", wheels), ("b", wheels[::-1]))
    )
    assert first.read_bytes() == second.read_bytes()


def refused(path: Path, **wanted: str) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        check(path, **wanted)
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"python": "3.12"}, "is for Python 3.11, not 3.12"),
        ({"arch": "aarch64"}, "is for the machine x86_64, not aarch64"),
        ({"version": "1.3"}, "is for cep 1.2, not 1.3"),
        ({"glibc": "2.17"}, "needs glibc 2.28 or newer; this host has 2.17"),
    ],
)
def test_one_for_something_else_is_refused(made: Path, wanted: dict[str, str], words: str) -> None:
    assert check(made)["version"] == "1.2"
    for path in (made, unpacked(made)):
        code, said = refused(path, **wanted)
        assert code == 78
        assert words in said


def test_what_is_damaged_missing_or_added_is_named(made: Path) -> None:
    top = unpacked(made)
    victim = top / "wheels" / "old-1.2-py3-none-any.whl"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + b"x")
    assert refused(top) == (65, f"{top} is damaged: wheels/{victim.name} has another checksum. "
                            "Copy it again from where it was built.")  # fmt: skip
    victim.unlink()
    assert f"wheels/{victim.name} is missing" in refused(top)[1]
    victim.write_bytes(whole)
    (top / "wheels" / "added.whl").touch()
    assert "holds wheels/added.whl, which SHA256SUMS does not list" in refused(top)[1]
    (top / "wheels" / "added.whl").unlink()
    (top / "a link").symlink_to("/etc/passwd")
    assert "a symbolic link" in refused(top)[1]
    (top / "a link").unlink()
    assert check(top)["wheels"] == 4
    (top / "SHA256SUMS").unlink()
    assert "is no wheelhouse" in refused(top)[1]
    assert refused(top / "none")[0] == 66


def test_a_file_that_was_cut_or_changed_is_refused(made: Path) -> None:
    whole = made.read_bytes()
    made.write_bytes(whole[: len(whole) // 2])
    assert refused(made)[0] == 65
    place = whole.index(b"a collection")
    made.write_bytes(whole[:place] + b"A" + whole[place + 1 :])
    code, said = refused(made)
    assert code == 65
    assert "collection/cep-cep-1.2.tar.gz has another checksum" in said
    made.write_bytes(b"no archive")
    assert refused(made)[0] == 65


def test_an_archive_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("../x", "/etc/x", "top/../../x")):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo(name))
        assert "which no wheelhouse has" in refused(path)[1]
    link = tarfile.TarInfo("top/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        archive.addfile(link)
    assert "which no wheelhouse has" in refused(tmp_path / "link.tar")[1]


@pytest.mark.parametrize(
    "tags",
    [
        "cp312-cp312-manylinux_2_17_x86_64",
        "cp311-cp311-manylinux_2_17_aarch64",
        "cp311-cp311-linux_x86_64",
        "cp311-cp311-musllinux_1_2_x86_64",
        "cp312-abi3-manylinux_2_17_x86_64",
        "py2-none-any",
    ],
)
def test_a_wheel_that_does_not_fit_stops_the_build(
    wheels: list[Path], tmp_path: Path, tags: str
) -> None:
    wrong = wheel(tmp_path, "wrong", tags)
    with pytest.raises(wheelhouse.CannotBuild, match=r"wrong-1\.2-.* does not fit") as no:
        wheelhouse.assemble([*wheels, wrong], "3.11", "x86_64", tmp_path / "dist")
    assert no.value.code == 65
    assert not (tmp_path / "dist").exists()


def test_the_tags_of_a_host_are_all_of_its_c_library_and_older() -> None:
    tags = platforms("x86_64", "2.18")
    assert tags[:3] == ["manylinux_2_18_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
    assert tags[-1] == "manylinux1_x86_64"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--python", "3.9", "--arch", "x86_64"), 64),
        (("--python", "3.11", "--arch", "sparc"), 64),
        (("--python", "3.11", "--arch", "x86_64", "--collection", "/none"), 66),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(words: tuple[str, ...], code: int) -> None:
    assert wheelhouse.main(list(words)) == code


def test_the_script_inside_checks_the_place_it_is_in(made: Path) -> None:
    top = unpacked(made)
    python = "{}.{}".format(*sys.version_info[:2])
    manifest = json.loads((top / "manifest.json").read_text())
    own = (manifest["python"], manifest["arch"]) == (python, "x86_64")
    words = [sys.executable, "-B", str(top / "check.py")]
    right = ["--python", "3.11", "--arch", "x86_64"]
    done = subprocess.run([*words, *right, "--json"], capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["manifest"]) == (0, manifest)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if own else 78)
    done = subprocess.run([*words, "--version", "9"], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert (top / "check.py").read_text() == CHECK.read_text()
