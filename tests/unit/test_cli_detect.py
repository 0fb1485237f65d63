"""`profiles detect` and `configure --profile auto`: values with reasons, never a silent guess."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cep.cli import detection
from cep.config.load import load
from cep.profiles.detect import commands, host, network
from cep.profiles.detect.facts import Facts, Host, Interface, Tool
from cep.profiles.endpoint import read_record
from tests.unit.cli_rig import Rig, rig
from tests.unit.detect_playback import Playback

__all__ = ["rig"]

ETH = Interface("eth0", ("172.19.0.2",), "yes", "the way to c1 takes it")
IB = Interface("ib0", ("10.0.0.1",), "likely", "by its name it is the fast network")
PUBLIC = Interface("eno1", ("8.8.4.4",), "unknown", "its address is public")
LO = Interface("lo", ("127.0.0.1",), "no", "it is the loopback")
HERE = Host("login1", 8, 16000, (), Tool("python", "/usr/bin/python3", "3.12.1"), None, ())


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Playback]:
    """Puts the program on a site of the corpus, with these interfaces."""

    def put(site: Playback, *interfaces: Interface, containers: tuple[Tool, ...] = ()) -> Playback:
        from dataclasses import replace

        monkeypatch.setattr(commands, "ThisHost", lambda _timeout: site)
        monkeypatch.setattr(host, "find", lambda _site: replace(HERE, containers=containers))
        monkeypatch.setattr(network, "find", lambda _site, _nodes: interfaces or (ETH, LO))
        return site

    return put


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sits at the terminal and gives these answers."""

    def sit(*answers: str) -> None:
        left = list(answers)
        monkeypatch.setattr(detection, "interactive", lambda: True)
        monkeypatch.setattr("cep.cli.configure.interactive", lambda: True)
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _prompt="": left.pop(0))

    return sit


def provider(rig: Rig, name: str = "ep") -> dict[str, object]:
    engine = load(rig.base / name / "config.yaml").engine
    return dict(engine.provider.arguments)  # type: ignore[union-attr]


At = Callable[..., Playback]
Person = Callable[..., None]


def test_one_candidate_for_each_value_is_taken_and_told_with_its_reason(rig: Rig, at: At) -> None:
    site = at(Playback.of("slurm-22.05-accounting"))
    text = site.commands["sinfo -h -o '%P|%a|%l|%D|%c|%m|%G|%f'"]
    text["out"] = "debug*|up|10:00|2|2|2000|(null)|(null)\n"
    done = rig.run("configure", "ep", "--profile", "auto")
    assert done.code == 0, done.err
    assert done.err.splitlines() == [
        "profile slurm: Slurm answers and shows one queue",
        "partition=debug: default, at most 00:10:00, 2 nodes, 2 cores a node, 2000 MB a node",
        "account=research: your default account, says sacctmgr",
        "walltime=00:10:00: the longest that debug allows, which is less than the usual time",
        "interface=eth0: 172.19.0.2: the way to c1 takes it",
    ]
    found = provider(rig)
    assert (found["partition"], found["account"]) == ("debug", "research")
    assert found["walltime"] == "00:10:00"
    record = read_record(rig.base / "ep")
    assert record.profile == "slurm"
    assert record.values["interface"] == "eth0"


def test_several_candidates_are_listed_and_refused_where_nobody_can_be_asked(
    rig: Rig, at: At
) -> None:
    at(Playback.of("slurm-22.05-two-accounts"), IB, PUBLIC, LO)
    done = rig.run("configure", "ep", "--profile", "auto")
    assert done.code == 64
    for line in (
        "  debug  (default, at most 00:30:00",
        "  long  (1 nodes",
        "  research  (your default account, says sacctmgr)",
        "  second  (your account, says sacctmgr)",
        "  ib0  (10.0.0.1: by its name it is the fast network)",
        "  eno1  (8.8.4.4: its address is public)",
        "  not lo: it is the loopback",
    ):
        assert line in done.err
    assert "--set partition=VALUE --set account=VALUE --set interface=VALUE" in done.err
    assert "account=null leaves it open" in done.err
    assert not rig.base.exists()


def test_what_is_given_is_not_asked_about(rig: Rig, at: At) -> None:
    at(Playback.of("slurm-22.05-two-accounts"), IB, PUBLIC, LO)
    words = ("--set", "partition=long", "--set", "account=second", "--set", "interface=null")
    done = rig.run("configure", "ep", "--profile", "auto", *words)
    assert done.code == 0, done.err
    assert done.err.splitlines()[1:] == []
    found = provider(rig)
    assert (found["partition"], found["account"]) == ("long", "second")
    assert load(rig.base / "ep" / "config.yaml").engine.address is None  # type: ignore[union-attr]


def test_an_address_stands_in_for_the_interface(rig: Rig, at: At) -> None:
    at(Playback.of("slurm-24.11"), IB, PUBLIC)
    words = ("--set", "partition=debug", "--set", "address=login1")
    assert rig.run("configure", "ep", "--profile", "auto", *words).code == 0


def test_a_walltime_that_is_given_stands(rig: Rig, at: At) -> None:
    site = at(Playback.of("slurm-24.11"))
    text = site.commands["sinfo -h -o '%P|%a|%l|%D|%c|%m|%G|%f'"]
    text["out"] = "debug*|up|10:00|2|2|2000|(null)|(null)\n"
    rig.run("configure", "ep", "--profile", "auto", "--set", "walltime=00:05:00")
    assert provider(rig)["walltime"] == "00:05:00"


def test_a_person_chooses_among_the_candidates(rig: Rig, at: At, person: Person) -> None:
    at(Playback.of("slurm-22.05-two-accounts"), IB, PUBLIC, LO)
    person("nonsense", "long", "second", "none")
    done = rig.run("configure", "ep", "--profile", "auto")
    assert done.code == 0, done.err
    found = provider(rig)
    assert (found["partition"], found["account"]) == ("long", "second")
    assert read_record(rig.base / "ep").values["partition"] == "long"


def test_queues_that_are_closed_or_not_for_this_account_are_no_candidates(rig: Rig, at: At) -> None:
    at(Playback.of("slurm-gpus"))
    done = rig.run("configure", "ep", "--profile", "auto")
    assert done.code == 64
    assert "  gpu  (at most 24:00:00, 12 nodes, 64 cores a node, 515000 MB a node, gpu:a100:4" in (
        done.err
    )
    assert "  not maint: it is closed now" in done.err
    assert "  not vip: only gold, silver may use it" in done.err


def test_two_schedulers_that_answer_are_for_a_person_to_choose_from(
    rig: Rig, at: At, person: Person
) -> None:
    at(Playback.of("slurm-gpus", "lsf-10.1"))
    done = rig.run("configure", "ep", "--profile", "auto")
    assert done.code == 64
    assert "  slurm  (Slurm answers and shows 4 queues)" in done.err
    assert "  lsf  (LSF answers and shows 2 queues)" in done.err
    assert "--profile slurm" in done.err
    person("lsf")
    assert rig.run("configure", "ep", "--profile", "auto").code == 0
    assert provider(rig)["queue"] == "normal"


def test_pbs_commands_in_front_of_slurm_do_not_make_two_candidates(rig: Rig, at: At) -> None:
    at(Playback.of("slurm-24.11"))
    done = rig.run("configure", "ep", "--profile", "auto", "--set", "partition=debug")
    assert done.code == 0, done.err
    assert done.err.startswith("profile slurm: Slurm answers")


def test_a_scheduler_that_hangs_is_not_passed_over_for_this_host(rig: Rig, at: At) -> None:
    site = at(Playback.of("lsf-10.1"))
    site.commands["bqueues -l"] = {"hangs": True}
    done = rig.run("configure", "ep", "--profile", "auto")
    assert done.code == 64
    assert "commands of LSF are here, but: bqueues did not answer within 10 s" in done.err
    assert "local  (no scheduler answers; tasks would run on this host itself)" in done.err


def test_a_host_without_a_scheduler_gets_local_and_that_is_told(rig: Rig, at: At) -> None:
    at(Playback({}, []))
    done = rig.run("configure", "ep", "--profile", "auto")
    assert done.code == 0
    assert done.err == "profile local: no scheduler's command was found on this host\n"


@pytest.mark.parametrize("name", ["pbspro-2022.1", "torque-6.1", "gridengine-8.1", "htcondor-23.0"])
def test_each_scheduler_gives_a_configuration_once_its_queue_is_said(
    name: str, rig: Rig, at: At
) -> None:
    at(Playback.of(name))
    queues = {"pbspro-2022.1": "debug", "torque-6.1": "batch", "gridengine-8.1": "short.q"}
    words = ("--set", f"queue={queues[name]}") if name in queues else ()
    done = rig.run("configure", "ep", "--profile", "auto", *words)
    assert done.code == 0, done.err
    if name in ("torque-6.1", "gridengine-8.1"):
        limit = {"torque-6.1": "00:10:00", "gridengine-8.1": "00:15:00"}[name]
        assert provider(rig)["walltime"] == limit


def test_a_preset_contradicts_auto(rig: Rig, at: At) -> None:
    at(Playback({}, []))
    done = rig.run("configure", "ep", "--profile", "auto", "--site", "polaris")
    assert done.code == 64
    assert "contradicts" in done.err


def test_an_update_keeps_what_was_chosen_before(rig: Rig, at: At) -> None:
    at(Playback.of("slurm-22.05-two-accounts"))
    words = ("--set", "partition=long", "--set", "account=second")
    rig.run("configure", "ep", "--profile", "auto", *words)
    done = rig.run("configure", "ep", "--update", "--profile", "auto")
    assert done.code == 0, done.err
    assert "is configured like that already" in done.out


def test_a_missing_variable_of_a_named_profile_is_told_with_what_the_scheduler_shows(
    rig: Rig, at: At
) -> None:
    at(Playback.of("slurm-24.11"))
    done = rig.run("configure", "ep", "--profile", "slurm")
    assert done.code == 64
    assert "Found here: debug,long (Slurm shows these 2)." in done.err
    at(Playback.of("torque-6.1"))
    done = rig.run("configure", "ep", "--profile", "torque")
    assert "Found here: batch (default, at most 00:10:00)." in done.err


def test_a_scheduler_that_hangs_is_told_beside_a_missing_variable(rig: Rig, at: At) -> None:
    site = at(Playback.of("pbspro-2022.1"))
    site.commands["qstat --version"] = {"hangs": True}
    done = rig.run("configure", "ep", "--profile", "pbs")
    assert done.code == 64
    assert "queue is missing" in done.err
    assert "qstat did not answer within 10 s" in done.err


def test_nothing_is_looked_for_where_nothing_is_missing(rig: Rig, at: At) -> None:
    site = at(Playback.of("slurm-24.11"))
    assert rig.run("configure", "ep", "--profile", "slurm", "--set", "partition=x").code == 0
    assert rig.run("configure", "other").code == 0
    assert site.asked == []


def test_detect_tells_facts_reasons_and_the_next_command(rig: Rig, at: At) -> None:
    docker = Tool("docker", "/usr/bin/docker", "28.2.2", "permission denied")
    at(Playback.of("slurm-22.05-accounting"), containers=(docker,))
    done = rig.run("profiles", "detect")
    assert done.code == 0, done.err
    for words in (
        "login1: 8 cores, 16000 MB of memory",
        "docker 28.2.2: /usr/bin/docker; permission denied",
        "eth0  172.19.0.2: yes, since the way to c1 takes it",
        "SLURM  slurm-wlm 22.05.8  answers",
        "account research  (sacctmgr, default)",
        "slurm: partition\n  debug  (default",
        "cep configure NAME --profile slurm",
    ):
        assert words in done.out


def test_detect_in_json_has_every_name_and_proposes_only_what_is_certain(rig: Rig, at: At) -> None:
    at(Playback.of("slurm-22.05-accounting"))
    told = json.loads(rig.run("profiles", "detect", "--json").out)
    assert set(told) == {"host", "schedulers", "interfaces", "profile", "values"}
    assert told["profile"]["value"] == "slurm"
    values = told["values"]["slurm"]
    assert values["partition"]["value"] is None
    assert [one["value"] for one in values["partition"]["candidates"]] == ["debug", "long"]
    assert values["account"]["value"] == "research"
    assert values["interface"]["candidates"][0]["reason"] == "172.19.0.2: the way to c1 takes it"
    queue = told["schedulers"][0]["queues"][0]
    assert (queue["name"], queue["longest_s"]) == ("debug", 1800)


def test_a_container_program_that_works_is_proposed_for_the_profile_container() -> None:
    from dataclasses import replace

    from cep.profiles.detect import propose

    tools = (Tool("docker", "/d", "1", "permission denied"), Tool("podman", "/p", "5.4"))
    facts = Facts(replace(HERE, containers=tools), (), ())
    found = propose.values(facts, "container", {})["container_type"]
    assert found.only is not None
    assert found.only.value == "podman"
    assert found.left_out == ("docker: permission denied",)
