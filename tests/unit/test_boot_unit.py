"""A unit's text, and its file on disk. What systemd says of it: the integration tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cep.boot import install
from cep.boot.unit import HARDENING, Mark, UnitPlan, read_mark, render, unit_name
from cep.errors import CantCreate, InputMissing, UsageError
from cep.paths import templates_dir

DOCS = Path(__file__).parents[2] / "docs"

MARK = Mark(endpoint="ep", directory="/home/ann/.globus_compute/ep", user="ann")
PLAN = UnitPlan(
    mark=MARK,
    unit="globus-compute-endpoint-ep.service",
    user=False,
    version=257,
    program=("/opt/cep/bin/cep",),
    run_as="ann",
    group="staff",
    home=Path("/home/ann"),
    base=Path("/home/ann/.globus_compute"),
    needed=(Path("/home/ann/.globus_compute/ep"), Path("/var/lib/ann")),
    search_path="/opt/cep/bin:/usr/bin:/bin",
)
PUBLISHED = "[Service]\nExecStart=/usr/bin/globus-compute-endpoint start ep\nRestart=always\n"


def lines(plan: UnitPlan = PLAN) -> list[str]:
    return render(plan).splitlines()


def value(name: str, plan: UnitPlan = PLAN) -> str | None:
    """What the unit says of a key; None when it does not say it exactly once."""
    found = [line.partition("=")[2] for line in lines(plan) if line.startswith(f"{name}=")]
    return found[0] if len(found) == 1 else None


def test_fault_13_a_unit_tells_the_truth_and_stops_trying_what_cannot_work() -> None:
    assert value("Type") == "notify"
    assert value("Restart") == "on-failure"
    assert value("RestartPreventExitStatus") == "64 66 73 77 78"
    assert "Environment=PATH=/opt/cep/bin:/usr/bin:/bin" in lines()
    assert (value("User"), value("Group")) == ("ann", "staff")
    assert value("ExecStart") == "/opt/cep/bin/cep start ep --foreground"
    assert value("KillMode") == "mixed"
    assert value("WatchdogSec") == "120"


def test_it_comes_after_what_it_needs() -> None:
    after = (value("After") or "").split()
    assert {"network-online.target", "remote-fs.target", "munge.service", "sssd.service"} <= {
        *after
    }
    assert value("Wants") == "network-online.target"
    assert "/var/lib/ann" in (value("RequiresMountsFor") or "").split()


def test_a_user_unit_starts_on_its_own_host_only_and_names_no_user() -> None:
    user = replace(PLAN, user=True, host="login1")
    assert value("ConditionHost", user) == "login1"
    assert value("User", user) is None
    assert value("WantedBy", user) == "default.target"
    assert value("ConditionHost", replace(user, host=None)) is None


@pytest.mark.parametrize(
    ("key", "since"),
    [("RestartSteps", 254), ("OOMPolicy", 243), ("TimeoutAbortSec", 243)],
)
def test_a_unit_is_written_for_the_systemd_that_reads_it(key: str, since: int) -> None:
    assert value(key, replace(PLAN, version=since)) is not None
    assert value(key, replace(PLAN, version=since - 1)) is None


def test_each_level_takes_away_more() -> None:
    told = [set(lines(replace(PLAN, hardening=level))) for level in HARDENING]
    keys = [{line.partition("=")[0] for line in one} for one in told]
    assert keys[0] < keys[1] < keys[2]
    assert "NoNewPrivileges=yes" not in told[0]


def test_limits_are_lines_of_their_own() -> None:
    limits = {"memory_max": "4G", "cpu_quota": "400%", "tasks_max": None}
    plan = replace(PLAN, limits=limits)
    assert (value("MemoryMax", plan), value("CPUQuota", plan)) == ("4G", "400%")
    assert value("TasksMax", plan) is None


def test_nothing_in_a_path_stands_for_something_else() -> None:
    plan = replace(
        PLAN,
        program=('/opt/a b/100%/"$HOME"/cep',),
        home=Path("/home/a b"),
        base=Path("/home/a b/100%"),
    )
    assert value("ExecStart", plan) == ('"/opt/a b/100%%/\\"$$HOME\\"/cep" start ep --foreground')
    assert value("WorkingDirectory", plan) == "-/home/a b"
    assert 'Environment="GLOBUS_COMPUTE_USER_DIR=/home/a b/100%%"' in lines(plan)


def test_a_path_with_a_new_line_is_refused() -> None:
    with pytest.raises(UsageError, match="control character"):
        render(replace(PLAN, home=Path("/home/x\nExecStart=/bin/sh")))


def test_the_mark_tells_whose_a_unit_is() -> None:
    mark = replace(MARK, lingers=True, credentials=("/etc/cep/credentials/x/client-id",))
    assert read_mark(render(replace(PLAN, mark=mark))) == mark
    assert read_mark(PUBLISHED) is None
    assert read_mark('# cep: {"endpoint": []}\n') is None


@pytest.mark.parametrize("chosen", ["a/b", "", "-x", "a b", "x" * 300])
def test_a_name_that_can_be_no_units_is_refused(chosen: str) -> None:
    with pytest.raises(UsageError, match="unit's name"):
        unit_name("ep", chosen)


def test_a_chosen_name_may_come_with_its_ending() -> None:
    assert unit_name("ep", "mine.service") == unit_name("ep", "mine") == "mine.service"


def test_a_unit_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / PLAN.unit
    assert install.put(path, render(PLAN))
    assert not install.put(path, render(PLAN))
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(install.installed(Path(MARK.directory), path.parent)) == [(path, MARK)]


def test_another_users_unit_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / PLAN.unit
    install.put(path, render(PLAN))
    install.check_place(path, MARK, replace=False)
    with pytest.raises(CantCreate, match="of user ann") as caught:
        install.check_place(path, replace(MARK, user="bob", directory="/home/bob"), replace=True)
    assert "--unit-name" in str(caught.value)


def test_a_foreign_file_is_refused_even_with_replace(tmp_path: Path) -> None:
    path = tmp_path / PLAN.unit
    path.write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(CantCreate, match="not written by cep"):
        install.check_place(path, MARK, replace=True)


def test_a_published_unit_is_taken_over_only_on_request_and_kept(tmp_path: Path) -> None:
    path = tmp_path / PLAN.unit
    path.write_text(PUBLISHED)
    with pytest.raises(CantCreate, match="--replace"):
        install.check_place(path, MARK, replace=False)
    install.check_place(path, MARK, replace=True)
    install.put(path, render(PLAN))
    assert read_mark(path.read_text()) == MARK
    assert (tmp_path / f"{PLAN.unit}.before-cep").read_text() == PUBLISHED


def test_only_what_was_written_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "CREDENTIALS", tmp_path / "cep" / "credentials")
    credentials = install.Credentials(PLAN.unit, user=False, directory=tmp_path / "ep", version=257)
    credentials.put({install.CLIENT_ID: "id", install.CLIENT_SECRET: "secret"})
    path = tmp_path / "units" / PLAN.unit
    install.put(path, render(replace(PLAN, mark=replace(MARK, credentials=credentials.files))))
    foreign = path.with_name("other.service")
    foreign.write_text(PUBLISHED)
    assert {gone.name for gone in install.remove(path)} == {
        PLAN.unit,
        "client-id",
        "client-secret",
    }
    assert not (tmp_path / "cep").exists()
    with pytest.raises(InputMissing):
        install.remove(foreign)
    assert foreign.read_text() == PUBLISHED


def test_directories_of_an_account_s_first_unit_go_with_its_last(tmp_path: Path) -> None:
    units = tmp_path / ".config" / "systemd" / "user"
    first, second = units / PLAN.unit, units / "second.service"
    for path in (first, second):
        install.put(path, render(PLAN))
    install.remove(first)
    assert second.exists()
    (tmp_path / ".config" / "theirs").touch()
    install.remove(second)
    assert [one.name for one in (tmp_path / ".config").iterdir()] == ["theirs"]
    assert tmp_path.is_dir()


@pytest.mark.parametrize(
    ("user", "version", "files"),
    [
        (False, 247, {"client-id": "it's", "client-secret": 'a"b$c'}),
        (False, 246, None),
        (True, 257, None),
    ],
)
def test_credentials_are_loaded_where_systemd_can_and_else_a_private_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    user: bool,
    version: int,
    files: dict[str, str] | None,
) -> None:
    monkeypatch.setattr(install, "CREDENTIALS", tmp_path / "credentials")
    credentials = install.Credentials(PLAN.unit, user=user, directory=tmp_path, version=version)
    assert not credentials.there()
    credentials.put({install.CLIENT_ID: "it's", install.CLIENT_SECRET: 'a"b$c'})
    assert credentials.there()
    assert all(Path(path).stat().st_mode & 0o777 == 0o600 for path in credentials.files)
    if files is not None:
        told = {name: Path(path).read_text().strip() for name, path in credentials.to_load}
        assert told == files
        assert credentials.environment_file is None
    else:
        assert credentials.to_load == ()
        text = Path(credentials.environment_file or "").read_text()
        assert 'GLOBUS_COMPUTE_CLIENT_SECRET="a\\"b\\$c"\n' in text


def test_every_line_of_every_unit_is_explained() -> None:
    told = (DOCS / "service.md").read_text()
    table = [line.split("|")[1] for line in told.splitlines() if line.startswith("| `")]
    explained = {
        word.partition("=")[0] for cell in table for word in cell.split("`")[1::2] if "=" in word
    }
    template = (templates_dir() / "systemd" / "endpoint.service.j2").read_text()
    keys = {line.partition("=")[0] for line in template.splitlines() if line[:1].isupper()}
    assert keys - explained == set()
    # Nor is anything explained that no unit has.
    named = {one for one in explained if one[:1].isupper() and one not in keys}
    assert named <= {"GLOBUS_COMPUTE_CLIENT_ID"}, named


def test_a_reload_is_the_command_of_a_person_which_tells_a_wrong_configuration() -> None:
    assert value("ExecReload") == "/opt/cep/bin/cep reload ep --wait"
    assert value("Type") == "notify"  # notify-reload is none for systemd 252
