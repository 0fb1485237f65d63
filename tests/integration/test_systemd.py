"""An endpoint as a service, on hosts run by systemd: from enabling it to removing it.

Each test runs on a host of each release at once. They share the hosts and run in this order: each
leaves the endpoint `site` running.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.scene import Witness
from tests.integration.systemd_host import CEP, HOME, SystemdHost, until
from tests.integration.systemd_hosts import IMAGES, Each, Hosts, on_all, started

# The first test may have to wait for the image, and for cep's libraries in it.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]

UNIT = "globus-compute-endpoint-site.service"
OWN_UNIT = "globus-compute-endpoint-own.service"
PATH = f"/etc/systemd/system/{UNIT}"
FORWARDER = "/usr/lib/systemd/systemd-socket-proxyd"
CREDENTIALS = "/etc/cep/credentials/globus-compute-endpoint-site"
LINGERS = "/var/lib/systemd/linger/researcher"
# As docs/service.md lists them.
SCORES = {
    "systemd": {"compat": 8.7, "standard": 4.6, "strict": 1.7},
    "systemd-252": {"compat": 8.9, "standard": 4.8, "strict": 1.9},
}
INSTALLED = [
    "Systemd service installed. Run",
    f"\tsudo systemctl enable {UNIT} --now",
    "to enable the service and start the endpoint.",
]


@pytest.fixture(scope="module", autouse=True)
def beside(request: pytest.FixtureRequest) -> None:
    """Begin with what takes long in test_systemd_network.py, where that is asked for as well."""
    if any(item.path.name == "test_systemd_network.py" for item in request.session.items):
        request.getfixturevalue("far")


@pytest.fixture(scope="module")
def hosts(docker_engine: None) -> Iterator[Hosts]:
    del docker_engine
    with started([SystemdHost(image) for image in IMAGES]) as made:
        made.do(SystemdHost.configure, "site", "drain_timeout: 300\n")
        yield made


@pytest.fixture(scope="module")
def site(hosts: Hosts) -> Each[str]:
    """The id of an endpoint that is enabled on boot, and runs."""

    def enabled(host: SystemdHost) -> str:
        host.sudo_cep("enable-on-boot", "site", "--now")
        return host.endpoint_id("site")

    return hosts.do(enabled)


@on_all
def test_a_unit_needs_a_login_since_a_service_can_ask_nobody(host: SystemdHost) -> None:
    before = host.files()
    done = host.sudo_cep("enable-on-boot", "site", with_credentials=False, check=False)
    assert done.returncode == 77
    assert "not logged in" in done.stderr
    assert host.files() == before


def let_linger(host: SystemdHost, answer: str) -> None:
    """The site's word on services of accounts that run without a login: polkit's `YES` or `NO`."""
    host.write_root(
        "/etc/polkit-1/rules.d/10-site.rules",
        "polkit.addRule(function(action) {"
        'if (action.id == "org.freedesktop.login1.set-self-linger")'
        f"return polkit.Result.{answer}; }});\n",
    )
    host.systemctl("restart", "polkit")


@on_all
def test_without_root_and_where_no_service_may_linger_the_way_on_is_printed(
    host: SystemdHost,
) -> None:
    let_linger(host, "NO")
    before = host.files()
    done = host.cep_as_client("enable-on-boot", "site", check=False)
    assert done.returncode == 69
    assert "linger" in done.stderr
    assert f"\tsudo {CEP} -c {HOME}/.globus_compute enable-on-boot site --system" in done.stderr
    assert "\nUser=researcher\n" in done.stdout
    assert host.files() == before


@on_all
def test_a_unit_is_refused_while_a_copy_runs_that_was_started_by_hand(host: SystemdHost) -> None:
    host.cep_as_client("start", "site")
    before = host.files()
    done = host.sudo_cep("enable-on-boot", "site", check=False)
    assert done.returncode == 73
    assert "started by hand" in done.stderr
    assert host.files() == before
    host.cep("stop", "site")


@on_all
def test_start_returns_when_a_function_can_be_run(host: SystemdHost) -> None:
    done = host.sudo_cep("enable-on-boot", "site")
    assert done.stdout.splitlines() == INSTALLED
    host.systemctl("enable", UNIT, "--now")
    assert host.sdk("many", host.endpoint_id("site"), "3")["right"]
    status = host.show(UNIT, "StatusText")
    assert status.startswith("connected; tasks "), status
    assert host.show(UNIT, "User") == "researcher"


@on_all
def test_enabling_again_changes_nothing(host: SystemdHost, site: str) -> None:
    process = host.show(UNIT, "MainPID")
    done = host.sudo_cep("enable-on-boot", "site", "--now")
    assert "is unchanged" in done.stderr
    assert host.show(UNIT, "MainPID") == process
    assert host.endpoint_id("site") == site


@on_all
def test_systemd_has_nothing_to_say_about_any_level(host: SystemdHost, site: str) -> None:
    assert site
    scores = {}
    limits = ("--memory-max", "4G", "--cpu-quota", "400%", "--tasks-max", "512")
    for level in ("compat", "standard", "strict"):
        words = ("site", "--print", *limits, "--hardening", level)
        host.write_root("/tmp/level.service", host.sudo_cep("enable-on-boot", *words).stdout)
        done = host.sudo("systemd-analyze", "verify", "--man=no", "/tmp/level.service")
        assert done.stdout + done.stderr == ""
        words = ("--offline=true", "--no-pager", "/tmp/level.service")
        said = host.sudo("systemd-analyze", "security", *words, check=False).stdout
        scores[level] = float(said.split("level for level.service:")[1].split()[0])
    assert scores["compat"] > scores["standard"] > scores["strict"], scores
    assert scores == SCORES[host.image]


@on_all
def test_a_file_of_another_is_left_alone(host: SystemdHost, site: str) -> None:
    assert site
    path = "/etc/systemd/system/mine.service"
    host.write_root(path, "[Service]\nExecStart=/bin/true\n")
    done = host.sudo_cep("enable-on-boot", "site", "--unit-name", "mine", check=False)
    assert done.returncode == 73
    assert "not written by cep" in done.stderr
    assert host.read(path) == "[Service]\nExecStart=/bin/true\n"
    host.sudo("rm", path)


@on_all
def test_the_secret_is_where_only_the_unit_has_it(host: SystemdHost, site: str) -> None:
    secret = host.environment["GLOBUS_COMPUTE_CLIENT_SECRET"]
    process = host.show(UNIT, "MainPID")
    assert host.read(f"{CREDENTIALS}/client-secret").strip() == secret
    listed = host.sudo("stat", "-c", "%U %a", f"{CREDENTIALS}/client-secret").stdout
    assert listed.split() == ["root", "600"]
    assert secret not in host.read(PATH)
    assert secret not in host.read(f"/proc/{process}/environ")
    seen = host.sdk("environment", site)
    assert seen["PATH"].startswith(f"{HOME}/cep/bin:")
    kept = [
        name
        for name, value in seen.items()
        if value == secret or name.startswith(("CREDENTIALS_", "NOTIFY_", "WATCHDOG_"))
    ]
    assert kept == []


@on_all
def test_killed_in_the_middle_of_a_task_it_comes_back_and_the_task_is_answered(
    host: SystemdHost, site: str
) -> None:
    process = host.wait_active(UNIT)
    with Witness(host.home / "witness") as witness:
        witness.path.chmod(0o777)
        client = subprocess.Popen(
            host.sdk_command("witnessed", site, "1", f"{HOME}/witness", "60"),
            stdout=subprocess.PIPE,
            text=True,
        )
        witness.wait_for(1, 120)
        host.systemctl("kill", "--signal=KILL", UNIT)
        host.wait_active(UNIT, other_than=process)
        said, _ = client.communicate(timeout=150)
    witness.path.unlink()
    outcomes = json.loads(said.splitlines()[-1])["outcomes"]
    assert "restart" in outcomes["0"], outcomes
    assert int(host.show(UNIT, "NRestarts")) >= 1


@on_all
def test_a_stop_waits_for_running_tasks_beyond_the_units_own_time(
    host: SystemdHost, site: str
) -> None:
    pace_s = host.pace_s(UNIT)
    host.write_root(
        f"/etc/systemd/system/{UNIT}.d/test.conf",
        f"[Service]\nTimeoutStopSec={pace_s}\nWatchdogSec={pace_s}\nTimeoutAbortSec=1\n"
        "RestartSec=1\n",
    )
    host.systemctl("daemon-reload")
    host.systemctl("restart", UNIT)
    with Witness(host.home / "witness") as witness:
        witness.path.chmod(0o777)
        client = subprocess.Popen(
            host.sdk_command("witnessed", site, "1", f"{HOME}/witness", str(pace_s + 2)),
            stdout=subprocess.PIPE,
            text=True,
        )
        witness.wait_for(1, 120)
        host.systemctl("stop", UNIT)
        said, _ = client.communicate(timeout=150)
    witness.path.unlink()
    assert json.loads(said.splitlines()[-1])["outcomes"] == {"0": 0}
    assert host.show(UNIT, "Result") == "success"


@on_all
def test_a_service_that_is_away_is_told_and_causes_no_restart(host: SystemdHost, site: str) -> None:
    host.systemctl("start", UNIT)
    process = host.wait_active(UNIT)

    host.systemctl("stop", "test-hub")
    until(
        lambda: host.show(UNIT, "StatusText").startswith("disconnected ("),
        within_s=120,
        what="the status says that the service is away",
    )
    host.systemctl("start", "test-hub")
    until(
        lambda: host.show(UNIT, "StatusText").startswith("connected; "),
        within_s=120,
        what="the status says that the service is back",
    )
    assert host.show(UNIT, "MainPID") == process
    assert host.sdk("many", site, "1")["right"]


@on_all
def test_a_broker_that_comes_later_than_the_service_is_waited_for(
    host: SystemdHost, site: str
) -> None:
    host.systemctl("stop", UNIT)
    good = host.config("site").read_text()
    host.config("site").write_text(f"{good}amqp_port: 5672\n")  # where nothing listens yet
    port = json.loads(host.cep("hub", "status", "--json").stdout)["amqp_port"]
    try:
        host.systemctl("start", UNIT, "--no-block")
        until(
            lambda: int(host.show(UNIT, "NRestarts")) >= 1,
            within_s=120,
            what="the service has tried in vain",
        )
        said = host.sudo("journalctl", "-u", UNIT, "--no-pager").stdout
        assert "The broker refused the connection to 127.0.0.1:5672" in said
        assert "status=75" in said
        listen = "--socket-property=ListenStream=127.0.0.1:5672"
        host.sudo("systemd-run", "--unit=door", listen, FORWARDER, f"127.0.0.1:{port}")
        host.wait_active(UNIT)
        assert host.sdk("many", site, "1")["right"]
    finally:
        host.config("site").write_text(good)
        host.systemctl("stop", "door.socket", "door.service", check=False)
    host.systemctl("restart", UNIT)


@on_all
def test_a_thread_that_stands_still_is_named_and_the_process_ended_and_started_again(
    host: SystemdHost, site: str
) -> None:
    process = host.wait_active(UNIT)
    life = host.show(UNIT, "InvocationID")
    host.hold_threads(process)
    host.wait_active(UNIT, other_than=process)
    of_it = (f"_SYSTEMD_INVOCATION_ID={life}", "+", f"INVOCATION_ID={life}")  # its words, systemd's
    said = host.sudo("journalctl", "--no-pager", *of_it).stdout
    named = said.index("stuck: the AMQP thread and the engine did not come round")
    assert said.index("Watchdog timeout (limit ") > named
    assert host.sdk("many", site, "1")["right"]


@on_all
def test_a_main_loop_that_stands_still_is_ended_and_started_again(
    host: SystemdHost, site: str
) -> None:
    host.systemctl("start", UNIT)
    process = host.wait_active(UNIT)
    host.sudo("kill", "-STOP", process)
    host.wait_active(UNIT, other_than=process)
    assert "Watchdog timeout" in host.sudo("journalctl", "-u", UNIT, "--no-pager").stdout
    assert host.sdk("many", site, "1")["right"]
    host.sudo("rm", "-r", f"/etc/systemd/system/{UNIT}.d")
    host.systemctl("daemon-reload")


@on_all
def test_the_commands_go_through_systemd_where_it_runs_the_endpoint(
    host: SystemdHost, site: str
) -> None:
    host.systemctl("start", UNIT)
    base = f"{HOME}/.globus_compute"
    status = json.loads(host.cep("status", "site", "--json").stdout)
    assert status["unit"] == f"{UNIT} (enabled, active)"

    refused = host.cep("restart", "site", check=False)
    assert refused.returncode == 77
    assert f"sudo systemctl restart {UNIT}" in refused.stderr
    assert host.cep("delete", "site", "--yes", check=False).returncode == 73
    process = host.show(UNIT, "MainPID")
    done = host.sudo(CEP, "-c", base, "restart", "site")
    assert done.stdout == f"Starting endpoint; registered ID: {site}\n"
    host.wait_active(UNIT, other_than=process)

    assert host.cep("stop", "site").stdout == "> Endpoint <site> is now stopped\n"
    until(
        lambda: host.show(UNIT, "ActiveState") == "inactive",
        within_s=60,
        what="the unit stays stopped",
    )
    assert host.cep("start", "site", check=False).returncode == 77
    host.sudo(CEP, "-c", base, "start", "site")
    assert host.sdk("many", site, "1")["right"]


@pytest.mark.parametrize(
    "code",
    ["78", "77"],
    ids=["a wrong configuration", "a revoked secret"],
)
@on_all
def test_what_will_not_mend_itself_is_not_started_again(
    host: SystemdHost, site: str, code: str
) -> None:
    assert site
    config = host.home / ".globus_compute" / "site" / "config.yaml"
    good = config.read_text()
    host.systemctl("stop", UNIT)
    if code == "78":
        config.write_text(good.replace("ProcessPoolEngine", "NoSuchEngine"))
    else:
        host.write_root(f"{CREDENTIALS}/client-secret", "wrong\n")
        (host.home / ".globus_compute" / "storage.db").unlink()  # and no token is left
    try:
        done = host.systemctl("start", UNIT, check=False)
        assert done.returncode != 0
        assert host.show(UNIT, "ExecMainStatus") == code
        assert host.show(UNIT, "SubState") == "failed"
        assert host.show(UNIT, "NRestarts") == "0"
        assert host.show(UNIT, "StatusText").startswith("failed: ")
    finally:
        config.write_text(good)
        secret = host.environment["GLOBUS_COMPUTE_CLIENT_SECRET"]
        host.write_root(f"{CREDENTIALS}/client-secret", f"{secret}\n")
    host.systemctl("start", UNIT)


@on_all
def test_after_a_reboot_system_and_user_units_are_back_with_the_same_ids(
    host: SystemdHost, site: str
) -> None:
    host.configure("own")
    let_linger(host, "YES")
    assert LINGERS not in host.files()
    done = host.cep_as_client("enable-on-boot", "own", "--now")
    assert "enabled on boot, and running" in done.stderr
    assert LINGERS in host.files()
    own = host.endpoint_id("own")
    process = host.show(OWN_UNIT, "MainPID", user=True)
    assert host.cep("restart", "own").stdout == f"Starting endpoint; registered ID: {own}\n"
    host.wait_active(OWN_UNIT, other_than=process, user=True)
    assert host.show(OWN_UNIT, "StatusText", user=True).startswith("connected; ")
    reloaded = host.cep("reload", "own", "--wait")  # by the account's own manager
    assert "has reloaded its configuration" in reloaded.stderr
    logs = host.cep("logs", "own")
    assert "configuration reloaded" in logs.stdout
    assert "cannot be read here" not in logs.stderr
    assert "ConditionHost=node1" in (host.home / ".config/systemd/user" / OWN_UNIT).read_text()

    host.reboot()
    host.wait_active(UNIT)
    host.wait_active(OWN_UNIT, user=True)
    assert host.endpoint_id("site") == site
    assert host.endpoint_id("own") == own
    assert host.sdk("many", site, "1")["right"]
    assert host.sdk("many", own, "1")["right"]


@on_all
def test_disabling_says_how_and_with_now_leaves_no_file(host: SystemdHost, site: str) -> None:
    assert site
    said = host.sudo_cep("disable-on-boot", "site", with_credentials=False).stdout.splitlines()
    service = UNIT.removesuffix(".service")
    assert said == [
        "Run the following to disable on-boot-persistence:",
        f"\tsystemctl stop {service}",
        f"\tsystemctl disable {service}",
        f"\trm {PATH}",
    ]
    host.sudo_cep("disable-on-boot", "site", "--now", with_credentials=False)
    host.cep("disable-on-boot", "own", "--now")
    left = {path for path in host.files() if "globus-compute" in path or "/cep" in path}
    assert left == set()
    assert LINGERS not in host.files()
    assert not (host.home / ".globus_compute/own/service.env").exists()
    until(lambda: "Running" not in host.cep("list").stdout, within_s=60, what="both have stopped")
    assert host.systemctl("is-enabled", UNIT, check=False).returncode != 0
