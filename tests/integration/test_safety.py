"""What a running endpoint and a running hub let others see: nothing, whatever the umask.

One life of a real agent per engine, started with umask 0 and with every kind of credential in its
environment; the tests look at what it left behind and at what was seen while it ran.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
from globus_compute_sdk.serialize import ComputeSerializer

from cep.agent.control import call
from cep.paths import EndpointPaths
from tests.integration.agent_rig import FUNCTION, Account, Bench, bench, note
from tests.integration.hub_rig import HubProcess
from tests.integration.rabbitmq import RabbitMq
from tests.integration.scene import until

ENGINES = {
    "threads": "engine: {type: ThreadPoolEngine, max_workers: 2}\n",
    "processes": "engine: {type: ProcessPoolEngine, max_workers: 2}\n",
    "htex": (
        "engine:\n  type: GlobusComputeEngine\n  max_workers_per_node: 2\n"
        "  cores_per_worker: 0.01\n"
        "  provider: {type: LocalProvider, worker_init: 'env -0 > block-env'}\n"
    ),
}
SECRET = "hunter2-hunter2"
CREDENTIALS = {
    "FUNCX_SDK_CLIENT_SECRET": SECRET,
    "GLOBUS_SDK_ACCESS_TOKEN": SECRET,
    "CEP_TEST_SECRET": SECRET,
    "CREDENTIALS_DIRECTORY": f"/run/credentials/{SECRET}",
    "NOTIFY_SOCKET": f"/run/{SECRET}",
    "WATCHDOG_USEC": "424242424242",
}


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@dataclass
class Process:
    """One process of the tree, as another program of the same user sees it."""

    pid: int
    argv: list[str]
    environ: bytes
    listens: list[str]


def tree(pid: int) -> list[Process]:
    """A process and all that it started."""
    found = []
    root = psutil.Process(pid)
    for one in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):  # it has ended
            listening = [
                entry.laddr.ip
                for entry in one.net_connections(kind="tcp")
                if entry.status == psutil.CONN_LISTEN
            ]
            environ = Path(f"/proc/{one.pid}/environ").read_bytes()
            found.append(Process(one.pid, one.cmdline(), environ, listening))
    return found


def is_loopback(text: str) -> bool:
    """Whether an address is reached from this host only; an IPv6 socket may have an IPv4 one."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def lines_of(audit: Path) -> list[dict[str, Any]]:
    """The lines of an audit log."""
    return [json.loads(line) for line in audit.read_text().splitlines()]


def too_open(*roots: Path) -> list[str]:
    """Everything below these directories (and they) that is not 0700 or 0600."""
    wrong = []
    for root in roots:
        for path in (root, *root.rglob("*")):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # a file that takes the place of another goes by two names
                continue
            wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
            if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) != wanted:
                wrong.append(f"{path} {stat.S_IMODE(mode):o}")
    return wrong


@dataclass
class Life:
    """What was seen of one life of an agent."""

    engine: str
    pid: int
    secrets: list[str]
    processes: list[Process]
    told: dict[str, Any]  # what tasks returned, by label
    seen: dict[str, str]  # what files and scripts hold, by name
    account: Account
    audit: list[dict[str, Any]]
    too_open: list[str]
    trail: list[int]  # who opened a payload


def surroundings(_executed: str, label: str, agent: int) -> list[str]:
    """Everything a task finds out about its environment, and those of its ancestors' start."""
    import os
    import subprocess
    from pathlib import Path

    found = [label, repr(dict(os.environ)), repr(dict(os.environb))]
    child = subprocess.run(["env"], capture_output=True, text=True, check=True)
    found.append(child.stdout)
    pid = os.getpid()
    found.append(repr(Path(f"/proc/{pid}/environ").read_bytes()))
    while pid != agent:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(repr(Path(f"/proc/{pid}/environ").read_bytes()))
    return found


class Trap:
    """An argument that writes its reader's pid into a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        pid = "str(__import__('os').getpid())"
        return (eval, (f"open({self.path!r}, 'a').write({pid} + ' ')",))


def take(_executed: str, label: str, _trap: object) -> str:
    return label


def give_back(_executed: str, _label: str, path: str) -> object:
    class Hostile:
        def __reduce__(self) -> Any:
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    return Hostile()


def throw(_executed: str, _label: str, path: str) -> object:
    class Hostile:
        def __reduce__(self) -> Any:
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    class Bad(Exception):
        def __reduce__(self) -> Any:
            return (exec, (f"import os; open({path!r}, 'a').write(str(os.getpid()) + ' ')",))

    raise Bad(Hostile()) from ValueError(Hostile())


def submit_all(scene: Bench, agent: int, trail: Path) -> dict[str, str]:
    """Submit the tasks of a life; returns their ids by label."""
    jobs = [
        *scene.submit(surroundings, ["surroundings"], agent),
        *scene.submit(note, ["note"]),
        *scene.submit(take, ["argument"], Trap(trail)),
        *scene.submit(give_back, ["value"], str(trail)),
        *scene.submit(throw, ["exception"], str(trail)),
    ]
    return {scene.labels[id_]: id_ for id_ in jobs}


@pytest.fixture(scope="module", params=ENGINES)
def life(
    request: pytest.FixtureRequest, rabbitmq: RabbitMq, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Life]:
    directory = tmp_path_factory.mktemp(request.param)
    directory.chmod(0o700)
    with bench(directory, rabbitmq) as scene, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        scene.root.chmod(0o700)
        scene.configure(
            ENGINES[request.param]
            + "endpoint_setup: env -0 > setup-env\nendpoint_teardown: env -0 > teardown-env\n"
            + "run_dir: ../halves/run\nstate_dir: ../halves/state\naudit_log: audit.log\n"
        )
        for path in (scene.root / "config.yaml", scene.executed):
            path.chmod(0o600)  # the test's own files
        with umask(0):
            agent = scene.start()
        trail = directory / "trail"
        ids = submit_all(scene, agent.pid, trail)
        account = scene.collect(len(ids))
        processes = tree(agent.pid)
        open_ones = too_open(scene.root, directory / "halves", directory / "cep")
        open_ones += too_open(*directory.glob("storage.db*"))
        scene.stop(agent)
        opened = ComputeSerializer()
        seen = {
            str(path.relative_to(directory)): path.read_bytes().decode("utf-8", "replace")
            for path in (*scene.root.rglob("*"), *(directory / "halves").rglob("*"))
            if path.is_file()
        }
        yield Life(
            engine=request.param,
            pid=agent.pid,
            secrets=[SECRET, "bench-secret", "token-for-funcx_service", rabbitmq.password],
            processes=processes,
            told={
                label: opened.deserialize(account.answers[ids[label]].data)
                for label in ("surroundings", "note", "argument")
            },
            seen=seen,
            account=account,
            audit=lines_of(scene.root / "audit.log"),
            too_open=open_ones,
            trail=[int(pid) for pid in trail.read_text().split()],
        )


def test_a_task_finds_no_credential_in_any_environment(life: Life) -> None:
    found = life.told["surroundings"]
    assert len(found) >= 5  # os.environ twice, a child's, and those of processes
    for secret in (*life.secrets, CREDENTIALS["WATCHDOG_USEC"]):
        assert not [text for text in found if secret in text]


def test_scripts_of_the_endpoint_and_of_blocks_find_no_credential(life: Life) -> None:
    names = ["bench/setup-env", "bench/teardown-env"]
    if life.engine == "htex":
        names.append("halves/run/block-env")
    for name in names:
        assert "PATH=" in life.seen[name]
        for secret in (*life.secrets, *CREDENTIALS, "GLOBUS_COMPUTE_CLIENT"):
            assert secret not in life.seen[name], name


def test_no_process_shows_a_credential_in_ps_or_in_its_environment(life: Life) -> None:
    assert len(life.processes) >= {"threads": 1, "processes": 3, "htex": 4}[life.engine]
    for process in life.processes:
        for secret in life.secrets:
            assert secret.encode() not in process.environ, process.argv
            assert secret not in " ".join(process.argv)


def test_no_file_of_the_endpoint_holds_a_credential(life: Life) -> None:
    assert {"bench/endpoint.log", "halves/state/status.json", "bench/audit.log"} <= set(life.seen)
    for name, text in life.seen.items():
        for secret in life.secrets:
            assert secret not in text, name


def test_directories_are_0700_and_files_0600_whatever_the_umask(life: Life) -> None:
    assert life.too_open == []


def test_nothing_listens_on_all_addresses(life: Life) -> None:
    listening = [(address, one.argv) for one in life.processes for address in one.listens]
    assert bool(listening) == (life.engine == "htex")
    assert not [one for one in listening if not is_loopback(one[0])]


def test_the_agent_opens_no_payload(life: Life) -> None:
    """The thread engine is the stated exception: it must show that the traps do spring."""
    assert life.trail
    assert (life.pid in life.trail) == (life.engine == "threads")
    workers = {one.pid for one in life.processes} - {life.pid}
    assert life.engine == "threads" or workers.issuperset(life.trail)


def test_every_task_has_its_lines_in_the_audit(life: Life) -> None:
    for id_ in life.account.answers:
        lines = [line for line in life.audit if line["task"] == id_]
        told = [line["event"] for line in lines if line["event"] != "hand-back"]
        assert (told[0], told[-1]) == ("arrive", "end")
        assert set(told[1:-1]) == {"begin"}
        end = lines[-1]
        assert end["outcome"] == ("error" if "code" in end else "success")
        assert (end.get("code"), end["function"]) == (
            life.account.answers[id_].error_code,
            FUNCTION,
        )
        assert 0 <= end["run_s"] <= end["duration_s"] + 1
        assert end["uid"] == os.getuid()
        assert end["node"] == os.uname().nodename
        assert end["worker"]
        assert ("block" in end, "job" in end) == (life.engine == "htex",) * 2


def test_an_audit_that_cannot_be_written_stops_the_intake_until_it_can(
    tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as scene:
        scene.configure(ENGINES["threads"] + "audit_log: audit.log\n")
        agent = scene.start()
        paths, audit = EndpointPaths.of(scene.root), scene.root / "audit.log"
        scene.submit(note, ["before"])
        account = scene.collect(1)
        audit.rename(tmp_path / "kept")
        audit.mkdir()  # what cannot be opened to append
        scene.submit(note, ["a", "b", "c"])
        while call(paths, {"do": "status"}, 60.0)["holds"] != ["audit log not writable"]:
            assert agent.poll() is None
        # The line is written by a thread of its own.
        until(lambda: "cannot be written" in scene.log(), within_s=60, what="the log says why")
        while scene.queued() < 3:
            assert agent.poll() is None
        audit.rmdir()
        call(paths, {"do": "status"}, 60.0)  # any event is a turn of the loop, which tries again
        account = scene.collect(4, onto=account)
        assert account.errors == []
        assert account.run_twice == []
        assert len(account.executions) == 4
        events = [line["event"] for line in lines_of(audit)]
        assert events[0] == "gap"
        assert sorted(events[1:]) == ["arrive"] * 3 + ["begin"] * 3 + ["end"] * 3
        scene.stop(agent)


def test_a_hub_is_as_private_and_keeps_its_audit(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with umask(0):
            hub = stack.enter_context(HubProcess(tmp_path / "a" / "hub"))
        client = hub.client("alice")
        endpoint = client("POST", "/v3/endpoints", {"endpoint_name": "x"})["endpoint_id"]
        client.secret, right = "wrong", client.secret
        assert client.login() == 401
        processes = tree(hub.running["pid"])
        assert too_open(tmp_path / "a") == []
        listening = [address for one in processes for address in one.listens]
        assert len(listening) >= 2  # REST and AMQP
        assert all(is_loopback(address) for address in listening)
        admin = hub.running["admin_secret"]
        for one in processes:
            assert not [word for word in one.argv if right in word or admin in word]
        lines = lines_of(hub.state_dir / "audit.log")
        events = [line["event"] for line in lines]
        assert events == ["client-add", "login", "register", "refusal"]
        assert lines[2]["endpoint"] == endpoint
        assert lines[3]["client"] == client.client_id
        assert right not in f"{lines} {hub.log()}"
