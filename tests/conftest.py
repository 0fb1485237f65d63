"""Rules of every test run: seven parts in order, no skip in CI, nothing left behind.

Each test belongs to one part: `unit`, `main_job` (a user's way from configure to stop), `faults`
(what must not lose a task), `systemd`, `ansible`, `sites` (schedulers, servers) or `rest`. They
run in that order in one pytest process, and the summary tells the time of each. With the
environment variable CI set, a skip counts as a failure: there everything a test needs is installed
by the test command. What a run leaves behind (processes, containers, files in the home directory)
fails it as well.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import leftovers
from tests.integration.faults import table
from tests.integration.faults.settings import SEED

# How long an example takes says more of the machine than of the code (with CI set, this is
# Hypothesis's own default).
settings.register_profile("cep", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if not os.environ.get("CI"):
    settings.load_profile("cep")

IN_CI = bool(os.environ.get("CI"))
PARTS = {
    "unit": "tests of one module, without a network",
    "main_job": "the main job end to end: configure, start, run functions, stop",
    "faults": "kill -9, lost links, full disks: what must not lose a task",
    "systemd": "endpoints as services of a real systemd",
    "ansible": "hosts that only the Ansible collection touches",
    "sites": "schedulers, servers and other programs as sites have them",
    "rest": "the other scenarios on real parts",
}
# The files of tests/integration that make up the main job, in the order they run.
MAIN_JOB = (
    "test_main_job.py",
    "test_sdk_scenarios.py",
    "test_quickstart.py",
    "test_demo.py",
    "test_agent_life.py",
)
FAULTS = (
    "test_agent_crash.py",
    "test_agent_troubles.py",
    "test_hub_restart.py",
    "test_journal_crash.py",
    "test_journal_full_disk.py",
    "test_link.py",
    "test_link_faults.py",
)
SYSTEMD = ("test_systemd.py", "test_systemd_changes.py", "test_systemd_network.py")
ANSIBLE = (
    "test_ansible.py",
    "test_ansible_changes.py",
    "test_ansible_hosts.py",
    "test_ansible_installs.py",
    "test_ansible_molecule.py",
    "test_ansible_rules.py",
    "test_ansible_sanity.py",
    "test_ansible_slurm.py",
)
# Schedulers, servers and other programs as sites have them.
SITES = (
    "test_agent_connections.py",
    "test_apptainer.py",
    "test_broker_contract.py",
    "test_docker.py",
    "test_endpoint_image.py",
    "test_htex_contract.py",
    "test_htex_life.py",
    "test_hub_rabbitmq.py",
    "test_hub_servers.py",
    "test_other_schedulers.py",
    "test_pbs.py",
    "test_podman.py",
    "test_published_endpoint.py",
    "test_slurm.py",
    "test_slurm_accounting.py",
    "test_slurm_blocks.py",
    "test_worker_python.py",
)
HERE = Path(__file__).resolve().parent
RUN_MARK = f"{leftovers.RUN_VARIABLE}={uuid.uuid4()}"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the parts, and mark every process this run will start."""
    for name, meaning in PARTS.items():
        config.addinivalue_line("markers", f"{name}: {meaning} (given automatically)")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts its background jobs with Ctrl-C ignored, and children inherit that; the
        # programs under test are to hear it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    name, _, value = RUN_MARK.partition("=")
    os.environ[name] = value
    config.stash[BEFORE] = leftovers.picture(RUN_MARK)
    config.stash[TIMES] = defaultdict(float)
    config.stash[COUNTS] = defaultdict(Counter)
    config.stash[LEFT] = []


BEFORE = pytest.StashKey[leftovers.Picture]()
TIMES = pytest.StashKey[defaultdict[str, float]]()
COUNTS = pytest.StashKey[defaultdict[str, Counter[str]]]()
LEFT = pytest.StashKey[list[str]]()


def part_of(path: Path) -> str:
    """The part that a test file belongs to."""
    relative = path.relative_to(HERE)
    if relative.parts[0] == "unit":
        return "unit"
    if relative.name in MAIN_JOB:
        return "main_job"
    if "faults" in relative.parts or relative.name in FAULTS:
        return "faults"
    if relative.name in SYSTEMD:
        return "systemd"
    if relative.name in ANSIBLE:
        return "ansible"
    return "sites" if relative.name in SITES else "rest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its part, and run the parts in their order."""
    order = {name: number for number, name in enumerate(PARTS)}
    places = {name: number for number, name in enumerate(MAIN_JOB)}
    for item in items:
        item.add_marker(part_of(item.path))
    items.sort(key=lambda item: (order[part_of(item.path)], places.get(item.path.name, 0)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI, and add up the time of the test's part."""
    report = yield
    part = part_of(item.path)
    item.config.stash[TIMES][part] += report.duration
    if report.skipped and not hasattr(report, "wasxfail"):
        refuse_skip(report)
    if report.when == "call" or report.outcome != "passed":
        item.config.stash[COUNTS][part][report.outcome] += 1
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole file into a failure in CI."""
    report = yield
    if report.outcome == "skipped":
        refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI, make a skipped report a failed one that says why it was skipped."""
    if not IN_CI:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"Skipped, which CI does not allow: {reason}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look for what the run has left behind, after the last fixture was torn down."""
    config = session.config
    found = leftovers.look(config.stash[BEFORE], RUN_MARK, thorough=IN_CI)
    config.stash[LEFT].extend(found)
    if found and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say the time and the number of tests of each part, the skips, and what was left behind."""
    write = terminalreporter.write_line
    if faults := table.rows():
        terminalreporter.section("faults")
        write(f"make faults SEED={SEED} repeats the plans of this run")
        for line in table.as_markdown(faults):
            write(line)
    terminalreporter.section("parts")
    for part in PARTS:
        counts = config.stash[COUNTS][part]
        if counts:
            told = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
            write(f"{part:10} {config.stash[TIMES][part] / 60:5.1f} min  {told}")
    skipped = len(terminalreporter.stats.get("skipped", ()))
    write(f"{'skips':10} {skipped}")
    for line in config.stash[LEFT]:
        write(f"LEFT BEHIND: {line}", red=True)
    if not config.stash[LEFT]:
        write("nothing left behind (processes, containers, files in the home directory)")
