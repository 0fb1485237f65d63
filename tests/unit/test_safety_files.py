"""Files and directories that others could change are refused by name; what is ours passes."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from cep.agent.control import ControlServer
from cep.agent.disk import check_disk
from cep.agent.mailbox import Mailbox
from cep.cli.main import run
from cep.config.load import load
from cep.errors import CantCreate, ConfigError, NotAllowed
from cep.hub.app import serve
from cep.hub.options import HubOptions
from cep.paths import EndpointPaths
from cep.profiles import catalog
from cep.safety.files import check_way, make_directory, open_private, replace_text
from cep.service.address import of_url
from cep.service.auth import Login

CONFIG = "engine: {type: ThreadPoolEngine}\n"
SHARED_GROUP = 54321


@pytest.fixture(autouse=True)
def same_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line may set this variable for its children."""
    monkeypatch.setenv("GLOBUS_COMPUTE_USER_DIR", "/nonexistent")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    root = tmp_path / "one"
    root.mkdir(mode=0o700)
    file = root / "config.yaml"
    file.write_text(CONFIG)
    file.chmod(0o600)
    return file


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> dict[int, grp.struct_group]:
    """Groups of the test's own; the user is `alice` with the primary group 1000."""
    known = {1000: grp.struct_group(("alice", "x", 1000, []))}
    alice = pwd.struct_passwd(("alice", "x", os.getuid(), 1000, "", "/home/alice", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: alice)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: known[gid])
    return known


def give_to_group(file: Path, gid: int) -> None:
    if os.getuid() == 0:
        os.chown(file, -1, gid)
    file.chmod(file.stat().st_mode | 0o020)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


def test_a_configuration_that_everybody_can_write_is_refused_with_the_command(
    config: Path,
) -> None:
    config.chmod(0o666)
    with pytest.raises(ConfigError, match="can be changed by everybody") as caught:
        load(config)
    assert caught.value.exit_code == 78
    assert caught.value.hint is not None
    assert f"chmod go-w {config}" in caught.value.hint


def test_a_directory_in_which_everybody_can_exchange_the_configuration_is_refused(
    config: Path,
) -> None:
    config.parent.chmod(0o777)
    with pytest.raises(ConfigError, match=f"{config.parent} can be changed by everybody"):
        load(config)


@needs_root
def test_the_users_own_private_group_may_write(
    config: Path, groups: dict[int, grp.struct_group]
) -> None:
    give_to_group(config, 1000)
    give_to_group(config.parent, 1000)
    assert load(config)
    groups[1000] = grp.struct_group(("alice", "x", 1000, ["alice"]))
    assert load(config)


@needs_root
@pytest.mark.parametrize(
    "group",
    [
        grp.struct_group(("alice", "x", 1000, ["mallory"])),  # her own, and somebody was let in
        grp.struct_group(("users", "x", 1000, [])),  # primary group of everybody
        grp.struct_group(("project", "x", SHARED_GROUP, ["alice", "bob"])),
    ],
)
def test_a_shared_group_may_not_write(
    config: Path, groups: dict[int, grp.struct_group], group: grp.struct_group
) -> None:
    groups[group.gr_gid] = group
    give_to_group(config, group.gr_gid)
    with pytest.raises(ConfigError, match=f"changed by group {group.gr_name}"):
        load(config)


@needs_root
def test_a_group_that_nobody_knows_may_not_write(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_gid: int) -> grp.struct_group:
        raise KeyError

    give_to_group(config, SHARED_GROUP)
    monkeypatch.setattr(grp, "getgrgid", unknown)
    with pytest.raises(ConfigError, match=f"changed by group {SHARED_GROUP}"):
        load(config)


@needs_root
def test_somebody_elses_configuration_is_refused(config: Path) -> None:
    os.chown(config, 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to user 65534"):
        load(config)


def test_validate_refuses_by_name_and_looks_at_any_file(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.chmod(0o666)
    base = config.parent.parent
    assert run(["validate", "-c", str(base), "one"]) == 78
    assert f"chmod go-w {config}" in capsys.readouterr().err
    assert run(["validate", str(config)]) == 0


def test_validate_refuses_an_audit_in_a_journal_that_is_not_there(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cep.safety.audit.JOURNAL_SOCKET", config.parent / "nothing")
    config.write_text(CONFIG + "audit_log: journald\n")
    assert run(["validate", str(config)]) == 78
    assert "cannot be reached" in capsys.readouterr().err


def test_a_template_that_others_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "site.yaml.j2").write_text(CONFIG)
    (folder / "site.schema.yaml").write_text("summary: x\nvariables: {}\n")
    monkeypatch.setattr("cep.paths.templates_dir", lambda: tmp_path)
    assert catalog.find("site").name == "site"
    (folder / "site.yaml.j2").chmod(0o666)
    with pytest.raises(ConfigError, match=r"site\.yaml\.j2 can be changed by everybody"):
        catalog.find("site")


def test_a_token_store_that_others_can_write_is_refused_and_one_they_can_read_is_closed(
    tmp_path: Path,
) -> None:
    address = of_url("http://127.0.0.1:5000")
    store = tmp_path / "storage.db"
    Login(address, base=tmp_path).close()
    assert store.stat().st_mode & 0o777 == 0o600
    store.chmod(0o644)
    Login(address, base=tmp_path).close()
    assert store.stat().st_mode & 0o777 == 0o600
    store.chmod(0o666)
    with pytest.raises(NotAllowed, match="can be changed by everybody") as caught:
        Login(address, base=tmp_path)
    assert caught.value.exit_code == 77


def test_a_private_file_is_never_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        open_private(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    assert victim.read_text() == "precious"


def test_a_private_file_is_private_whatever_the_umask_and_whatever_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o666)
    file.chmod(0o666)
    before = os.umask(0)
    try:
        os.close(open_private(file, os.O_WRONLY | os.O_CREAT))
        make_directory(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("half", ["root", "run", "state"])
def test_an_endpoints_directory_that_everybody_can_write_is_refused(
    tmp_path: Path, half: str
) -> None:
    paths = EndpointPaths.of(
        tmp_path / "ep", run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")
    )
    check_disk(paths)
    for mode in (0o777, 0o1777):
        getattr(paths, half).chmod(mode)
        with pytest.raises(CantCreate, match="can be changed by everybody"):
            check_disk(paths)


def test_a_user_directory_that_everybody_can_write_is_refused_unless_sticky(
    tmp_path: Path,
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    base.chmod(0o777)
    with pytest.raises(CantCreate, match="can be changed by everybody"):
        check_disk(EndpointPaths.of(base / "ep"))
    base.chmod(0o1777)
    check_disk(EndpointPaths.of(base / "ep"))


def test_a_state_directory_below_one_open_to_everybody_is_refused_unless_sticky(
    tmp_path: Path,
) -> None:
    scratch = tmp_path / "scratch"
    (scratch / "me").mkdir(parents=True)
    scratch.chmod(0o777)
    with pytest.raises(CantCreate, match="everybody can rename") as caught:
        make_directory(scratch / "me" / "state")
    assert f"chmod o-w {scratch}" in str(caught.value)
    scratch.chmod(0o1777)
    make_directory(scratch / "me" / "state")


@needs_root
def test_a_link_that_somebody_put_on_the_way_is_refused(tmp_path: Path) -> None:
    public, target = tmp_path / "public", tmp_path / "target"
    public.mkdir()
    public.chmod(0o1777)
    (target / "state").mkdir(parents=True)
    (public / "link").symlink_to(target)
    os.lchown(public / "link", 65534, 65534)
    with pytest.raises(CantCreate, match="user 65534 put"):
        check_way(public / "link" / "state")


def test_a_hubs_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "hub"
    state.mkdir()
    state.chmod(0o777)
    before = os.umask(0o077)
    try:
        with pytest.raises(CantCreate, match="can be changed by everybody"):
            serve(HubOptions(state_dir=state))
    finally:
        os.umask(before)
    assert list(state.iterdir()) == []


def test_a_control_socket_below_a_directory_open_to_everybody_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    server = ControlServer(tmp_path / "cep" / "x.sock", Mailbox().put)
    with pytest.raises(CantCreate, match="everybody can rename"):
        server.start()
    tmp_path.chmod(0o1777)
    server.start()
    server.stop()


def test_a_control_socket_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cep").symlink_to(tmp_path / "elsewhere")
    server = ControlServer(tmp_path / "cep" / "x.sock", Mailbox().put)
    with pytest.raises(CantCreate, match="not a directory of yours alone"):
        server.start()


@pytest.mark.parametrize("synced", [True, False])
def test_a_file_that_is_replaced_is_private_and_nothing_is_left_beside_it(
    tmp_path: Path, synced: bool
) -> None:
    path = tmp_path / "state.json"
    path.write_text("the old one")
    path.chmod(0o644)
    replace_text(path, "the new one", synced=synced)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("the new one", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()
    with pytest.raises(OSError, match="taken"):
        replace_text(path, "text")
    with pytest.raises(UnicodeEncodeError):
        replace_text(tmp_path / "state.json", "half of a pair: \ud800")
    assert list(tmp_path.iterdir()) == [path]
