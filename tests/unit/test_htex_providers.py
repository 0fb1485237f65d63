"""Providers, launchers and addresses are found by name, or refused with the names there are."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
from parsl.executors.high_throughput.manager_selector import BlockIdManagerSelector
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines import htex_assembly
from cep.engines.base import EngineRun
from cep.engines.containers import Container
from cep.engines.local_blocks import LocalBlocks
from cep.engines.providers import address_of, htex_arguments, provider_of
from cep.errors import ConfigError, EngineError


def settings(kind: str, **arguments: Any) -> HtexSettings:
    return HtexSettings(provider=ComponentSettings(kind, arguments))


def test_a_provider_and_its_launcher_get_their_arguments(tmp_path: Path) -> None:
    launcher = ComponentSettings("SrunLauncher", {"overrides": "-n 2"})
    chosen = settings("SlurmProvider", partition="debug", nodes_per_block=2, launcher=launcher)
    provider = provider_of(chosen, mark={}, run_dir=tmp_path)
    assert isinstance(provider, SlurmProvider)
    assert (provider.partition, provider.nodes_per_block) == ("debug", 2)
    assert isinstance(provider.launcher, SrunLauncher)
    assert provider.launcher.overrides == "-n 2"
    assert provider.script_dir == str(tmp_path / "submit_scripts")
    assert (tmp_path / "submit_scripts").stat().st_mode & 0o777 == 0o700


def test_local_blocks_take_the_place_of_the_local_provider(tmp_path: Path) -> None:
    provider = provider_of(settings("LocalProvider", max_blocks=3), mark={}, run_dir=tmp_path)
    assert isinstance(provider, LocalBlocks)
    assert (provider.init_blocks, provider.min_blocks, provider.max_blocks) == (1, 0, 3)


@pytest.mark.parametrize("kind", ["SlurmProvidr", "parsl", "ExecutionProvider", "__doc__"])
def test_an_unknown_provider_is_refused_with_the_known_ones(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match="SlurmProvider") as caught:
        provider_of(settings(kind), mark={}, run_dir=tmp_path)
    assert "engine.provider" in str(caught.value)


def test_an_unknown_launcher_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    chosen = settings("LocalProvider", launcher=ComponentSettings("Srun", {}))
    with pytest.raises(ConfigError, match="SrunLauncher"):
        provider_of(chosen, mark={}, run_dir=tmp_path)


def test_arguments_that_parsl_refuses_are_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SlurmProvider cannot be made"):
        provider_of(settings("SlurmProvider", colour="red"), mark={}, run_dir=tmp_path)


def test_workers_on_this_host_use_loopback_without_an_address() -> None:
    assert address_of(settings("LocalProvider"), None) == "127.0.0.1"
    assert address_of(settings("LocalProvider"), Container("apptainer", "x", "")) == "127.0.0.1"


@pytest.mark.parametrize(
    ("provider", "container"),
    [("SlurmProvider", None), ("LocalProvider", Container("docker", "x", ""))],
)
def test_workers_elsewhere_use_one_address_of_this_host(
    provider: str, container: Container | None
) -> None:
    chosen = address_of(settings(provider), container)
    own = [one.address for some in psutil.net_if_addrs().values() for one in some]
    assert chosen in own
    assert not ip_address(chosen).is_loopback


def test_a_host_without_a_network_asks_for_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_if_addrs", dict)
    with pytest.raises(ConfigError, match=r"engine\.address is not set"):
        address_of(settings("SlurmProvider"), None)


def test_a_connection_without_encryption_is_said_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no processes in this test")

    monkeypatch.setattr(htex_assembly.InterchangeProcess, "of", refuse)
    run = EngineRun("id", "name", tmp_path, None, tmp_path)
    for encrypted in (True, False):
        with pytest.raises(EngineError, match="no processes"):
            htex_assembly.open_session(
                HtexSettings(encrypted=encrypted), run, print, lambda _session: None
            )
        assert ("NOT ENCRYPTED" in caplog.text) == (not encrypted)


def test_an_address_is_taken_or_found_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    given = HtexSettings(address="10.1.2.3")
    assert address_of(given, None) == "10.1.2.3"
    monkeypatch.setattr("parsl.addresses.address_by_interface", lambda ifname: f"10.9.9.{ifname}")
    found = HtexSettings(address=ComponentSettings("address_by_interface", {"ifname": "7"}))
    assert address_of(found, None) == "10.9.9.7"


def test_an_address_that_cannot_be_found_is_a_config_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> str:
        raise OSError("no such device")

    monkeypatch.setattr("parsl.addresses.address_by_hostname", nowhere)
    with pytest.raises(ConfigError, match=r"engine\.address: .* no such device"):
        address_of(HtexSettings(address=ComponentSettings("address_by_hostname", {})), None)
    with pytest.raises(ConfigError, match="address_by_route"):
        address_of(HtexSettings(address=ComponentSettings("address_by_magic", {})), None)


def test_arguments_for_the_executor_are_converted() -> None:
    chosen = HtexSettings(
        htex={
            "worker_port_range": [50000, 50100],
            "max_workers_per_node": None,
            "block_error_handler": False,
            "interchange_launch_cmd": ["interchange.py"],
            "manager_selector": ComponentSettings("BlockIdManagerSelector", {}),
        }
    )
    arguments = htex_arguments(chosen)
    assert set(arguments) == {"worker_port_range", "manager_selector", "address_probe_timeout"}
    assert arguments["worker_port_range"] == (50000, 50100)
    assert isinstance(arguments["manager_selector"], BlockIdManagerSelector)


def test_an_address_that_cannot_be_wrong_is_tried_for_longer() -> None:
    def probe_s(address: str, **htex: int) -> object:
        return htex_arguments(HtexSettings(htex=htex), address)["address_probe_timeout"]

    assert probe_s("10.0.0.7") == 8
    assert probe_s("127.0.0.1") == 60
    assert probe_s("127.0.0.1", address_probe_timeout=3) == 3
    elsewhere = HtexSettings(provider=ComponentSettings("SlurmProvider"))
    assert htex_arguments(elsewhere, "127.0.0.1")["address_probe_timeout"] == 8


def test_another_interchange_is_refused() -> None:
    with pytest.raises(ConfigError, match="interchange_launch_cmd"):
        htex_arguments(HtexSettings(htex={"interchange_launch_cmd": ["mine"]}))
