"""Interfaces and whether compute nodes reach them, this host's own things, and the runner."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import namedtuple
from pathlib import Path

import psutil

from cep.profiles.detect import host, network
from cep.profiles.detect.commands import ThisHost
from tests.unit.detect_playback import Playback

Entry = namedtuple("Entry", "family address")


def v4(address: str) -> list[Entry]:
    return [Entry(socket.AF_INET, address), Entry(psutil.AF_LINK, "02:00:00:00:00:01")]


ADDRESSES = {
    "lo": v4("127.0.0.1"),
    "eth0": v4("8.8.4.4"),
    "bond0": v4("10.1.0.1"),
    "hsn0": v4("10.201.0.1"),
    "docker0": v4("172.17.0.1"),
    "veth1": [Entry(socket.AF_INET6, "fe80::1%veth1")],
    "down0": v4("10.2.0.1"),
}
UP = set(ADDRESSES) - {"down0"}


def reach(by_node: dict[str, str]) -> dict[str, str]:
    return {one.name: one.reach for one in network.judged(ADDRESSES, UP, by_node)}


def test_the_way_to_a_recorded_node_of_slurm_is_found() -> None:
    ways = network.ways(Playback.of("slurm-24.11"), ["c1", "c2"])
    assert list(ways.values()) == ["eth0", "eth0"]
    assert next(iter(ways)).startswith("c1 (172.")


def test_a_node_that_nobody_can_resolve_is_passed_over() -> None:
    nodes = ["x3001c0s13b0n0", "x3001c0s19b0n0"]
    ways = network.ways(Playback.of("pbspro-2022.1"), nodes)
    assert ways == {"x3001c0s13b0n0 (10.201.0.13)": "hsn0"}


def test_the_interface_on_the_way_to_a_node_is_the_one_and_the_reason_names_the_node() -> None:
    first, *others = network.judged(ADDRESSES, UP, {"c1 (10.201.0.13)": "hsn0"})
    assert (first.name, first.reach, first.addresses) == ("hsn0", "yes", ("10.201.0.1",))
    assert first.reason == "the way from here to the compute node c1 (10.201.0.13) takes it"
    assert {one.reach for one in others} == {"unknown", "no"}


def test_without_a_node_names_and_addresses_give_a_guess_that_is_told_as_one() -> None:
    assert reach({}) == {
        "hsn0": "likely",
        "bond0": "unknown",
        "eth0": "unknown",
        "docker0": "no",
        "down0": "no",
        "lo": "no",
        "veth1": "no",
    }


def test_a_node_that_is_this_host_itself_is_no_evidence() -> None:
    assert reach({"localhost (127.0.0.1)": "lo"}) == reach({})


def test_without_the_command_ip_no_way_is_looked_for() -> None:
    site = Playback({}, ["getent"])
    assert network.ways(site, ["c1"]) == {}
    assert site.asked == []


def test_gpus_of_nvidia_are_read() -> None:
    said = "NVIDIA A100-SXM4-40GB, 40960 MiB\nNVIDIA A100-SXM4-40GB, 40960 MiB\n"
    line = "nvidia-smi --query-gpu=name,memory.total --format=csv,noheader"
    assert host.gpus(Playback({line: {"out": said}}, ["nvidia-smi"])) == (
        "NVIDIA A100-SXM4-40GB, 40960 MiB",
        "NVIDIA A100-SXM4-40GB, 40960 MiB",
    )


def test_an_nvidia_smi_without_a_driver_shows_no_gpu() -> None:
    line = "nvidia-smi --query-gpu=name,memory.total --format=csv,noheader"
    said = {"code": 9, "out": "NVIDIA-SMI has failed because it couldn't communicate\n"}
    assert host.gpus(Playback({line: said}, ["nvidia-smi"])) == ()


def test_gpus_of_amd_are_read() -> None:
    said = "device,Card series,Card model\ncard0,AMD Instinct MI250X,0x0b0c\n\n"
    site = Playback({"rocm-smi --showproductname --csv": {"out": said}}, ["rocm-smi"])
    assert host.gpus(site) == ("AMD Instinct MI250X",)


def test_environment_modules_are_told_as_recorded() -> None:
    path = "/usr/share/modules/init/bash"
    for name, version in (("slurm-24.11", "5.5.0"), ("slurm-22.05-accounting", "5.2.0")):
        tool = host.modules(Playback.of(name), {}, (path,))
        assert tool is not None
        assert (tool.name, tool.version, tool.path) == ("environment-modules", version, path)
        assert tool.trouble == ""


def test_lmod_is_told_from_environment_modules() -> None:
    line = "bash -c '. \"$1\" && module --version' bash /apps/lmod/init/bash"
    said = {"err": "\nModules based on Lua: Version 8.7.37  2024-04-01 10:00 -05:00\n"}
    tool = host.modules(Playback({line: said}, []), {"LMOD_PKG": "/apps/lmod"}, ())
    assert tool is not None
    assert (tool.name, tool.version) == ("Lmod", "8.7.37")


def test_a_host_without_modules_has_none() -> None:
    assert host.modules(Playback({}, []), {}, ()) is None


def test_a_container_program_whose_engine_refuses_this_account_is_told_so() -> None:
    site = Playback(
        {
            "docker --version": {"out": "Docker version 28.2.2, build e6534b4\n"},
            "docker version --format '{{.Server.Version}}'": {
                "code": 1,
                "err": "permission denied while trying to connect to the Docker daemon socket\n",
            },
            "apptainer --version": {"out": "apptainer version 1.4.5\n"},
        },
        ["docker", "apptainer"],
    )
    docker, apptainer = host.container(site, "docker"), host.container(site, "apptainer")
    assert docker is not None
    assert apptainer is not None
    assert (docker.version, apptainer.version) == ("28.2.2", "1.4.5")
    assert "permission denied" in docker.trouble
    assert apptainer.trouble == ""
    assert host.container(site, "podman") is None


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_command_that_hangs_is_ended_with_what_it_started_and_told(tmp_path: Path) -> None:
    note = tmp_path / "child"
    hanging = script(tmp_path, "sinfo", f"sleep 600 & echo $! > {note}; wait")
    for patience_s in (1.0, 10.0, 60.0):  # a busy machine may need more to start it
        answer = ThisHost(patience_s).ask(str(hanging))
        assert answer.code is None
        assert not answer.answered
        assert answer.trouble == f"{hanging} did not answer within {patience_s:g} s"
        if note.exists() and note.read_text():
            break
    child = int(note.read_text())
    gone, alive = psutil.wait_procs([p for p in psutil.process_iter() if p.pid == child], 60)
    assert not alive
    assert len(gone) <= 1


def test_a_command_is_asked_in_plain_english_without_a_terminal(tmp_path: Path) -> None:
    answer = ThisHost().ask(str(script(tmp_path, "x", "echo $LC_ALL; cat; echo wrong >&2; exit 3")))
    assert (answer.code, answer.out, answer.err) == (3, "C\n", "wrong\n")
    assert answer.words.endswith("/x ended with 3: wrong")


def test_a_command_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)
    for path in (tmp_path / "gone", text):
        answer = ThisHost().ask(str(path))
        assert answer.code is None
        assert f"{path} cannot be run" in answer.trouble


def test_words_that_are_no_text_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    assert ThisHost().ask(str(script(tmp_path, "x", "printf 'a\\377b'"))).out == "a\ufffdb"


def test_this_host_is_found_as_it_is() -> None:
    found = host.find(Playback({}, []))
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory_mb > 100
    assert subprocess.run([found.python.path, "-c", ""], check=True).returncode == 0
    assert "lo" in {one.name for one in network.find(Playback({}, []), [])}
