"""Ways to install by the collection other than a wheelhouse in a virtual environment. LONG=1 only.

The host has a package index of its own that wants a password, and the hub, which the collection put
there. Each way has its own root, so that they do not meet.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import image_python, venvs, wheelhouses
from tests.integration.ansible_host import WHEELHOUSES, AnsibleHost, Controller, Play
from tests.integration.ansible_rollout import UNIT, Rollout
from tests.integration.scene import until
from tests.integration.wheelhouses import LATER, VERSION

pytestmark = [pytest.mark.docker, pytest.mark.timeout(5400)]

PASSWORD = "a-password-of-the-index-alone"
INDEX = "http://reader:{}@localhost:8099/simple/"
# A directory for each distribution (PEP 503), listed for who knows the password.
SERVE = """
import base64, functools, http.server, pathlib, re, sys

top = pathlib.Path("/tmp/index")
for wheel in pathlib.Path(sys.argv[1]).glob("*/wheels/*.whl"):
    name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
    place = top / "simple" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / wheel.name).symlink_to(wheel)
wanted = "Basic " + base64.b64encode(b"reader:" + sys.argv[2].encode()).decode()

class Index(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") == wanted:
            return super().do_GET()
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.send_header("Content-Length", "0")
        self.end_headers()

handler = functools.partial(Index, directory=str(top))
http.server.ThreadingHTTPServer(("127.0.0.1", 8099), handler).serve_forever()
"""


class Installs(Rollout):
    """A host with a hub, an index and pipx; its inventory is set anew by each test."""

    def __init__(self, host: AnsibleHost, controller: Controller, files: dict[str, Path]) -> None:
        super().__init__(host, controller, files)
        self.hashes = controller.root / "constraints.txt"
        with tarfile.open(files[VERSION]) as tar:
            name = next(name for name in tar.getnames() if name.endswith("/constraints.txt"))
            found = tar.extractfile(name)
            assert found is not None
            self.hashes.write_bytes(found.read())
        self._plain = dict(self.variables)

    def serve_index(self) -> None:
        """Have the wheels of the wheelhouse in an index on the host."""
        host = self.host
        archive = f"{WHEELHOUSES}/{self.files[VERSION].name}"
        host.write_root("/tmp/index/serve.py", SERVE)
        host.sudo("tar", "-xf", archive, "-C", "/tmp/index")
        words = ["python3", "/tmp/index/serve.py", "/tmp/index", PASSWORD]
        host.sudo("systemd-run", "--unit=test-index", *words)
        ask = "import socket; socket.create_connection(('127.0.0.1', 8099))"
        until(
            lambda: host.sudo("python3", "-c", ask, check=False).returncode == 0,
            within_s=60,
            what="the index listens",
        )

    def have_pipx(self) -> None:
        """Put pipx on the host's path."""
        place = "/opt/pipx-of-the-host"
        self.host.sudo("python3", "-m", "venv", place)
        find = ["--no-index", "--find-links", f"{WHEELHOUSES}/pipx"]
        self.host.sudo(f"{place}/bin/pip", "install", "--quiet", *find, "pipx", timeout_s=300)
        self.host.sudo("ln", "-s", f"{place}/bin/pipx", "/usr/local/bin/pipx")

    def want(self, **more: Any) -> None:
        """The inventory from now on: these variables, and no endpoints."""
        self.variables = {**self._plain, "cep_endpoints": [], **more}

    def files_now(self) -> set[str]:
        """The host's files but those of the hub, which works."""
        return {path for path in self.host.everything() if not path.startswith("/var/lib/cep-hub")}

    def refused(self, told: str, **more: Any) -> Play:
        """A play that fails with these words and leaves the host as it was."""
        before = self.files_now()
        kept, self.variables = self.variables, {**self.variables, **more}
        done = self.play("site")
        self.variables = kept
        assert not done.good, done.text
        assert told in done.text, done.text
        assert self.files_now() == before
        return done


@pytest.fixture(scope="module")
def installs(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installs]:
    del docker_engine
    root = tmp_path_factory.mktemp("installs")
    controller = Controller(venvs.ansible_python(), root)
    controller.install_collection()
    files = wheelhouses.make("systemd", root / "wheelhouses")
    shutil.copytree(image_python.wheels("systemd", *venvs.PIPX), root / "wheelhouses" / "pipx")
    with AnsibleHost("systemd", root / "wheelhouses") as host:
        made = Installs(host, controller, files)
        made.good("site")
        made.hub = False
        made.serve_index()
        yield made


def indexed(installs: Installs, password: str = PASSWORD) -> dict[str, Any]:
    """Variables for an installation from the index, checked by hashes."""
    return {
        "cep_wheelhouse": "",
        "cep_index_url": INDEX.format(password),
        "cep_constraints": str(installs.hashes),
    }


def wrong_hashes(installs: Installs) -> Path:
    """The same file with another hash for our own wheel."""
    lines = installs.hashes.read_text().splitlines()
    (ours,) = [line for line in lines if line.startswith("cep-endpoint==")]
    changed = ours[:-8] + ("00000000" if not ours.endswith("00000000") else "11111111")
    file = installs.controller.root / "wrong.txt"
    file.write_text("\n".join([changed, *(line for line in lines if line != ours)]) + "\n")
    return file


def test_what_is_wrong_with_an_index_is_refused_before_anything_changes(
    installs: Installs,
) -> None:
    installs.want(cep_install_root="/opt/indexed", **indexed(installs))
    installs.add("indexed", "researcher")
    unhashed = installs.controller.root / "unhashed.txt"
    unhashed.write_text(f"cep-endpoint=={VERSION}\n")
    for wrong in (unhashed, installs.controller.root / "nowhere.txt"):
        done = installs.refused("cep_constraints", cep_constraints=str(wrong))
        assert done.changed["node1"] == 0
    done = installs.refused(f"cep-endpoint=={LATER}", cep_version=LATER)
    assert done.changed["node1"] == 0
    installs.refused("DO NOT MATCH THE HASHES", cep_constraints=str(wrong_hashes(installs)))
    installs.refused("could not be installed", cep_index_url=INDEX.format("not-the-password"))


def test_an_index_with_a_password_and_hashes(installs: Installs) -> None:
    installs.want(cep_install_root="/opt/indexed", **indexed(installs))
    installs.add("indexed", "researcher")
    installs.good("site", "-vvv")
    assert installs.doubles("indexed")
    program = installs.host.show(UNIT.format("indexed"), "ExecStart")
    assert f"/opt/indexed/releases/{VERSION}/bin/cep" in program
    assert installs.good("site").changed == {"node1": 0}
    served = installs.host.sudo("journalctl", "-u", "test-index", "--no-pager").stdout
    assert f"cep_endpoint-{VERSION}-py3-none-any.whl" in served
    left = installs.host.sudo("grep", "-rl", PASSWORD, "/opt", "/etc", "/root", check=False).stdout
    assert left == ""


def test_an_index_without_hashes(installs: Installs) -> None:
    installs.endpoint("indexed")["state"] = "absent"
    installs.good("site")
    installs.want(cep_install_root="/opt/plain", **{**indexed(installs), "cep_constraints": ""})
    installs.refused("could not be installed", cep_version="9.9.9")
    installs.good("site")
    said = installs.host.sudo("/opt/plain/current/bin/cep", "version").stdout
    assert said.split()[-1] == VERSION


def test_pipx_that_is_not_there_is_refused(installs: Installs) -> None:
    installs.want(cep_install_method="pipx", cep_install_root="/opt/piped")
    installs.variables["cep_manage_packages"] = False
    done = installs.refused("has no pipx")
    assert done.changed["node1"] == 0
    installs.refused("its last part is cep", cep_program="/usr/local/bin/endpoint")


def test_pipx_installs_from_an_index_with_hashes(installs: Installs) -> None:
    installs.have_pipx()
    installs.want(cep_install_method="pipx", cep_install_root="/opt/piped", **indexed(installs))
    installs.variables["cep_manage_packages"] = False
    installs.add("piped", "researcher")
    installs.good("site", "--check")
    installs.refused("DO NOT MATCH THE HASHES", cep_constraints=str(wrong_hashes(installs)))
    installs.good("site", "-vvv")
    assert installs.doubles("piped")
    program = installs.host.show(UNIT.format("piped"), "ExecStart")
    assert "/opt/piped/pipx/venvs/cep-endpoint/bin/" in program or "/usr/local/bin/cep" in program
    assert installs.good("site").changed == {"node1": 0}


def test_pipx_takes_a_later_version_from_a_wheelhouse(installs: Installs) -> None:
    installs.variables |= {"cep_index_url": "", "cep_constraints": ""}
    before = installs.host.process("piped")
    kept = dict(installs.variables)
    installs.refused("not 9.9.9", cep_version="9.9.9", cep_wheelhouse=str(installs.files[LATER]))
    installs.variables = {
        **kept,
        "cep_version": LATER,
        "cep_wheelhouse": str(installs.files[LATER]),
    }
    done = installs.good("site")
    assert installs.host.sudo("/usr/local/bin/cep", "version").stdout.split()[-1] == LATER
    assert "researcher/piped: what changed holds from the next start on" in done.text
    assert installs.host.process("piped") == before
    installs.good("maintenance", cep_maintenance="begin")
    installs.good("maintenance", cep_maintenance="end")
    assert "holds from the next start on" not in installs.good("site").text
    assert installs.doubles("piped")


def test_uninstalling_takes_away_what_pipx_installed(installs: Installs) -> None:
    installs.good("uninstall", cep_purge=True)
    left = {path for path in installs.files_now() if "/opt/piped" in path}
    assert left == set()
    for name in ("cep", "globus-compute-endpoint"):
        path = f"/usr/local/bin/{name}"
        assert installs.host.sudo("test", "-e", path, check=False).returncode == 1


def test_a_program_that_is_there_is_taken_as_it_is(installs: Installs) -> None:
    installs.want(cep_install_method="none", cep_program="/opt/cep/current/bin/cep")
    installs.variables["cep_install_root"] = "/opt/none"
    installs.add("given", "researcher")
    done = installs.refused("has no program /opt/nothing/cep", cep_program="/opt/nothing/cep")
    assert done.changed["node1"] == 0
    installs.good("site")
    assert installs.doubles("given")
    assert installs.good("site").changed == {"node1": 0}
    installs.good("uninstall", cep_purge=True)
    assert installs.host.show(UNIT.format("given"), "LoadState") == "not-found"
    assert installs.host.sudo("test", "-x", "/opt/cep/current/bin/cep").returncode == 0


def test_no_password_of_the_index_was_told_by_any_run(installs: Installs) -> None:
    assert any("/opt/indexed" in said for said in installs.controller.said)
    for said in installs.controller.said:
        assert PASSWORD not in said
