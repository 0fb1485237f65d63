"""`enable-on-boot` and `disable-on-boot` where no systemd runs; the rest on a real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.cli_rig import Rig, rig
from tests.unit.test_service_auth import store_published_login

__all__ = ["rig"]

OWN = ["--run-as", "root"] if os.getuid() == 0 else []


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever the tests run: the host is not managed by systemd."""
    monkeypatch.setattr("cep.boot.systemd.BOOTED", tmp_path / "not-booted")
    monkeypatch.setattr("cep.boot.systemd.SYSTEM_UNITS", tmp_path / "units")
    monkeypatch.setattr("cep.boot.systemd.version", lambda: 252)


def test_without_systemd_a_line_for_cron_is_offered(rig: Rig) -> None:
    rig.endpoint()
    done = rig.run("enable-on-boot", "ep", *OWN)
    assert done.code == 69
    assert "not run by systemd" in done.err
    line = done.out.strip()
    assert line.startswith("@reboot /")
    assert line.endswith(f" -c '{rig.base}' start ep")


def test_print_shows_the_unit_and_needs_neither_systemd_nor_a_login(rig: Rig) -> None:
    rig.endpoint()
    done = rig.run("enable-on-boot", "ep", "--system", "--print", "--memory-max", "2G", *OWN)
    assert done.code == 0, done.err
    assert "\nType=notify\n" in done.out
    assert "\nMemoryMax=2G\n" in done.out
    assert f'\nEnvironment="GLOBUS_COMPUTE_USER_DIR={rig.base}"\n' in done.out


def test_a_unit_keeps_the_site_s_directories_whoever_writes_it_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cep.apply import facts

    site = {name: tmp_path / f"a 100% {name}" for name in ("sbatch", "qsub")}
    for name, folder in site.items():
        folder.mkdir()
        (folder / name).touch(mode=0o755)

    def path(*folders: Path, kept: tuple[str, ...] = ()) -> str:
        monkeypatch.setenv("PATH", ":".join(map(str, folders)))
        return facts.search_path(kept)

    both = path(*site.values())
    assert both.split(":")[-2:] == [str(site["sbatch"]), str(site["qsub"])]
    escaped = both.replace("%", "%%")
    unit = f'[Service]\nEnvironment="PATH={escaped}"\nEnvironment=A=1\n'
    kept = facts.site_folders(unit)
    assert kept == (str(site["sbatch"]), str(site["qsub"]))
    for seen in ((), (site["qsub"],), tuple(site.values())):
        assert path(*seen, kept=kept) == both
    assert facts.site_folders("Environment=PATH=/opt/cep/1/bin:/usr/bin:/opt/s/bin\n") == (
        "/opt/s/bin",
    )
    assert facts.site_folders("") == ()


def test_an_endpoint_of_roots_must_be_meant() -> None:
    from cep.apply.facts import account_of
    from cep.errors import UsageError

    with pytest.raises(UsageError, match="would run as root"):
        account_of(Path("/"), None)
    assert account_of(Path("/"), "root").name == "root"
    with pytest.raises(UsageError, match="could not use it"):
        account_of(Path("/"), "nobody")


@pytest.mark.parametrize(
    "words",
    [
        ("--memory-max", "lots"),
        ("--memory-max", "1G\nExecStart=/bin/sh"),
        ("--cpu-quota", "4"),
        ("--tasks-max", "-1"),
        ("--unit-name", "a/b"),
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused(rig: Rig, words: tuple[str, str]) -> None:
    rig.endpoint()
    done = rig.run("enable-on-boot", "ep", "--print", *words, *OWN)
    assert done.code == 64
    assert done.out == ""


def test_levels_that_forbid_what_the_site_needs_are_refused(rig: Rig) -> None:
    rig.endpoint(text="engine: {type: GlobusComputeEngine, provider: {type: PBSProProvider}}\n")
    done = rig.run("enable-on-boot", "ep", "--print", "--hardening", "standard", *OWN)
    assert done.code == 78
    assert "set-user-id" in done.err
    assert rig.run("enable-on-boot", "ep", "--print", *OWN).code == 0


def test_disabling_prints_the_three_commands(rig: Rig, tmp_path: Path) -> None:
    rig.endpoint()
    done = rig.run("disable-on-boot", "ep")
    assert done.code == 0
    assert done.out.splitlines() == [
        "Run the following to disable on-boot-persistence:",
        "\tsystemctl stop globus-compute-endpoint-ep",
        "\tsystemctl disable globus-compute-endpoint-ep",
        f"\trm {tmp_path}/units/globus-compute-endpoint-ep.service",
    ]


def test_disabling_what_is_not_enabled_is_no_error(rig: Rig) -> None:
    rig.endpoint()
    done = rig.run("disable-on-boot", "ep", "--now")
    assert done.code == 0
    assert "has no unit" in done.err


def test_an_accounts_own_login_is_enough_for_a_service(rig: Rig) -> None:
    from cep.apply.login import main

    rig.endpoint()
    assert main([str(rig.base), "ep"]) == 77
    assert not (rig.base / "storage.db").exists()
    store_published_login(rig.base, with_identity=True)
    assert main([str(rig.base), "ep"]) == 0


def test_a_login_at_another_service_is_not(rig: Rig) -> None:
    from cep.apply.login import main

    rig.endpoint(text="service_url: http://localhost:1\nengine: {type: ThreadPoolEngine}\n")
    store_published_login(rig.base, with_identity=True)
    assert main([str(rig.base), "ep"]) == 77


def test_a_file_of_credentials_must_be_private(tmp_path: Path) -> None:
    from cep.apply.facts import variables_in
    from cep.errors import NotAllowed

    file = tmp_path / "client.env"
    file.write_text("export GLOBUS_COMPUTE_CLIENT_ID='a b'  # a comment\nX=y\n")
    file.chmod(0o644)
    with pytest.raises(NotAllowed, match="chmod 600"):
        raise AssertionError(variables_in(file))
    file.chmod(0o600)
    assert variables_in(file) == {"GLOBUS_COMPUTE_CLIENT_ID": "a b", "X": "y"}


def test_the_directory_under_sudo_is_that_of_the_person(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pwd

    from cep.apply.facts import base_under_sudo

    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", str(nobody.pw_uid))
    theirs = Path(nobody.pw_dir) / ".globus_compute"
    assert base_under_sudo(tmp_path, chosen=False) == theirs
    assert base_under_sudo(tmp_path, chosen=True) == tmp_path
    monkeypatch.delenv("SUDO_UID")
    assert base_under_sudo(tmp_path, chosen=False) == tmp_path


def test_a_home_that_cannot_be_looked_at_is_a_passing_trouble_for_a_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cep.cli.foreground import check_reachable
    from cep.errors import TemporaryFailure

    missing = tmp_path / "not-mounted"
    check_reachable(missing, "ep")  # a person at a terminal gets the usual sentence
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "socket"))
    with pytest.raises(TemporaryFailure, match="not be mounted"):
        check_reachable(missing, "ep")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TemporaryFailure, match="cannot be read now"):
        check_reachable(tmp_path / "loop", "ep")
    check_reachable(tmp_path, "ep")  # there, but without the endpoint
