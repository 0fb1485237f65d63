"""What is made of the words of schedulers' commands, recorded and written after manuals."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cep.profiles.detect import others, pbs, slurm, survey
from cep.profiles.detect.facts import Account, Queue, Scheduler, seconds_of, walltime
from tests.unit.detect_playback import FOLDER, Playback


def found(scheduler: Scheduler | None) -> Scheduler:
    assert scheduler is not None
    return scheduler


def test_every_file_of_the_corpus_tells_where_its_words_come_from() -> None:
    files = sorted(FOLDER.glob("*.json"))
    assert len(files) >= 9
    for file in files:
        source = json.loads(file.read_text())["source"]
        assert source.startswith(("recorded: ", "written by us after "))


@pytest.mark.parametrize(
    ("name", "version", "cores"),
    [("slurm-24.11", "24.11.5", 2), ("slurm-22.05-accounting", "22.05.8", 2)],
)
def test_partitions_of_both_recorded_versions_of_slurm_are_read(
    name: str, version: str, cores: int
) -> None:
    one = found(slurm.find(Playback.of(name)))
    assert (one.profile, one.version, one.answers) == ("slurm", f"slurm-wlm {version}", True)
    debug, long = one.queues
    assert (debug.name, debug.default, debug.open, debug.longest_s) == ("debug", True, True, 1800)
    assert (long.name, long.default, long.open, long.longest_s) == ("long", False, True, None)
    assert (debug.cores, debug.memory_mb, debug.gpus, debug.features) == (cores, 2000, (), ())
    assert one.troubles == []


def test_a_cluster_without_accounting_has_no_accounts_and_that_is_no_trouble() -> None:
    one = found(slurm.find(Playback.of("slurm-24.11")))
    assert (one.accounts, one.troubles, one.nodes) == ([], [], ["c1", "c2"])


def test_accounts_and_the_default_one_are_those_of_this_user() -> None:
    one = found(slurm.find(Playback.of("slurm-22.05-accounting")))
    assert one.accounts == [Account("research", True, "sacctmgr")]
    two = found(slurm.find(Playback.of("slurm-22.05-two-accounts")))
    assert [(each.name, each.default) for each in two.accounts] == [
        ("second", False),
        ("research", True),
    ]


def test_where_sacctmgr_says_nothing_sshare_tells_the_accounts() -> None:
    site = Playback.of("slurm-22.05-accounting")
    site.there.remove("sacctmgr")
    site.commands["sshare -U -n -P -o Account,User"] = {"out": "research|researcher\n"}
    assert found(slurm.find(site)).accounts == [Account("research", False, "sshare")]


def test_kinds_of_nodes_in_one_partition_are_joined_and_rules_are_read() -> None:
    one = found(slurm.find(Playback.of("slurm-gpus")))
    assert {queue.name: queue for queue in one.queues} == {
        "cpu": Queue("cpu", True, True, 172800, 120, 128, 257000, (), ("rome", "ib")),
        "gpu": Queue(
            "gpu",
            False,
            True,
            86400,
            12,
            64,
            515000,
            ("gpu:a100:4", "gpu:h100:8"),
            ("a100", "h100"),
        ),
        "maint": Queue("maint", False, False, None, 1, 128, 257000, (), ("rome",)),
        "vip": Queue("vip", False, True, None, 4, 128, 257000, (), ("rome",), ("gold", "silver")),
    }
    assert one.accounts == [Account("abc123", True, "sacctmgr")]


@pytest.mark.parametrize(
    ("said", "trouble"),
    [
        ({"hangs": True}, "sinfo did not answer within 10 s"),
        ({"code": 1, "err": "slurm_load_partitions: Unable to contact\n"}, "Unable to contact"),
        ({"out": "\x00\x01 garbage | | |\n||||||||\n"}, "sinfo shows no partition"),
        ({"out": ""}, "sinfo shows no partition"),
        ({"code": 3}, "sinfo ended with 3 in silence"),
    ],
)
def test_a_controller_that_gives_no_answer_is_told_and_not_asked_again(
    said: dict[str, object], trouble: str
) -> None:
    site = Playback.of("slurm-24.11")
    site.commands["sinfo -h -o '%P|%a|%l|%D|%c|%m|%G|%f'"] = said
    one = found(slurm.find(site))
    assert not one.answers
    assert trouble in one.troubles[0]
    assert len(site.asked) == 2  # the version, and this


@pytest.mark.parametrize("gone", ["sinfo", "sbatch"])
def test_half_an_installation_of_slurm_is_told(gone: str) -> None:
    site = Playback.of("slurm-24.11")
    site.there.remove(gone)
    one = found(slurm.find(site))
    assert not one.answers
    assert one.troubles == [f"{gone} is not there, so Slurm cannot be used from this host."]
    assert site.asked == []


def test_the_pbs_commands_in_front_of_slurm_are_known_as_such() -> None:
    site = Playback.of("slurm-24.11")
    one = found(pbs.find(site, slurm.find(site)))
    assert (one.profile, one.stands_for) == ("torque", "slurm")
    assert [(queue.name, queue.longest_s) for queue in one.queues] == [
        ("debug", 1800),
        ("long", None),
    ]


def test_queues_of_pbs_professional_are_read_and_routing_queues_are_none() -> None:
    one = found(pbs.find(Playback.of("pbspro-2022.1"), None))
    assert (one.profile, one.version) == ("pbs", "2022.1.3.20230310")
    assert one.queues == [
        Queue("workq", default=True),
        Queue("debug", longest_s=3600, nodes=2),
        Queue("old", open=False),
    ]
    assert one.nodes == ["x3001c0s13b0n0", "x3001c0s19b0n0"]


def test_torque_is_told_from_pbs_professional_by_its_version() -> None:
    one = found(pbs.find(Playback.of("torque-6.1"), None))
    assert (one.profile, one.version) == ("torque", "6.1.2")
    assert one.queues == [Queue("batch", default=True, longest_s=600)]
    assert one.stands_for == ""


def test_a_hanging_qstat_is_told() -> None:
    site = Playback.of("pbspro-2022.1")
    site.commands["qstat --version"] = {"hangs": True}
    one = found(pbs.find(site, None))
    assert (one.answers, one.troubles) == (False, ["qstat did not answer within 10 s"])
    assert len(site.asked) == 1


def test_queues_of_lsf_are_read() -> None:
    one = found(others.find_lsf(Playback.of("lsf-10.1")))
    assert (one.version, one.nodes) == ("10.1.0.9", ["hostA"])
    assert one.queues == [
        Queue("normal", default=True, longest_s=14400),
        Queue("night", open=False),
    ]


def test_queues_of_grid_engine_are_read_and_its_qstat_is_not_taken_for_that_of_pbs() -> None:
    site = Playback.of("gridengine-8.1")
    one = found(others.find_gridengine(site))
    assert one.version == "SGE 8.1.9"
    assert one.queues == [Queue("all.q", cores=8), Queue("short.q", longest_s=900, cores=4)]
    assert pbs.find(site, None) is None


def test_machines_of_htcondor_are_told_as_one() -> None:
    one = found(others.find_htcondor(Playback.of("htcondor-23.0")))
    assert one.version == "23.0.4"
    assert one.queues == [Queue("all machines", default=True, nodes=2, cores=8, memory_mb=32000)]
    assert one.nodes == ["ep1.example.org", "ep2.example.org"]


@pytest.mark.parametrize(
    ("name", "command", "find"),
    [
        ("lsf-10.1", "bqueues -l", others.find_lsf),
        ("gridengine-8.1", "qconf -sql", others.find_gridengine),
        (
            "htcondor-23.0",
            "condor_status -af:, Machine TotalSlotCpus TotalSlotMemory",
            others.find_htcondor,
        ),
    ],
)
@pytest.mark.parametrize("said", [{"hangs": True}, {"code": 255, "err": "no route to it\n"}, {}])
def test_others_that_give_no_answer_are_told(
    name: str, command: str, find: object, said: dict[str, object]
) -> None:
    site = Playback.of(name)
    site.commands[command] = said
    one = found(find(site))  # type: ignore[operator]
    assert not one.answers
    assert len(one.troubles) == 1
    assert site.asked == [command]


def test_a_host_without_any_scheduler_is_asked_nothing() -> None:
    site = Playback({}, [])
    assert slurm.find(site) is pbs.find(site, None) is others.find_lsf(site) is None
    assert others.find_gridengine(site) is others.find_htcondor(site) is None
    assert site.asked == []


@pytest.mark.parametrize("profile", ["slurm", "pbs", "torque", "lsf", "gridengine", "htcondor"])
def test_only_the_scheduler_of_one_profile_can_be_asked(profile: str) -> None:
    names = {
        "slurm": "slurm-24.11",
        "pbs": "pbspro-2022.1",
        "torque": "torque-6.1",
        "lsf": "lsf-10.1",
        "gridengine": "gridengine-8.1",
        "htcondor": "htcondor-23.0",
    }
    one = found(survey.scheduler_of(Playback.of(names[profile]), profile))
    assert one.profile == profile
    assert survey.scheduler_of(Playback({}, []), profile) is None
    assert survey.scheduler_of(Playback.of(names[profile]), "local") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30:00", 1800),
        ("1:30:00", 5400),
        ("2-00:00:00", 172800),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("90", 5400),
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        ("", None),
        ("--", None),
        ("1:2:3:4", None),
        ("-1", None),
    ],
)
def test_times_are_read_as_schedulers_write_them(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


def test_a_time_is_written_as_the_configuration_wants_it() -> None:
    assert (walltime(1800), walltime(172800)) == ("00:30:00", "48:00:00")


@pytest.mark.parametrize(
    "parse",
    [
        slurm.partitions,
        slurm.records,
        pbs.queues_of_full,
        pbs.queues_of_table,
        pbs.limits_of_table,
        pbs.default_queue,
        pbs.node_names,
        others.lsf_queues,
        others.lsf_defaults,
        others.condor_machines,
        lambda text: others.gridengine_queue("q", text),
        lambda text: slurm.accounts(text, ""),
    ],
)
@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "QUEUE:\n", "Queue:\n x = \n", "|" * 50, "a,b,c\n", "\ufffd\x00", "- -\n---\n"],
)
def test_no_parser_falls_over_garbage(parse: object, text: str) -> None:
    parse(text)  # type: ignore[operator]


def test_facts_are_plain_enough_for_json() -> None:
    one = found(slurm.find(Playback.of("slurm-gpus")))
    assert json.loads(json.dumps(dataclasses.asdict(one)))["queues"][0]["name"] == "cpu"
