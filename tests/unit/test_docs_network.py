"""docs/network.md says what the code does: ports, ranges, hosts, and that nothing else listens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cep import paths
from cep.cli.hub import serve
from cep.config.components import ADDRESSES
from cep.config.load import load_text
from cep.config.settings import HtexSettings
from cep.config.tables import AMQP_PORTS, ENGINES, HTEX_PASSED, TOP
from cep.engines import providers
from cep.engines.interchange_link import InterchangeLink
from cep.hub.options import DEFAULT_HOST, DEFAULT_PORT, HubOptions
from cep.model import PRODUCTION, SERVICE_ENVIRONMENTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "network.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.count("|") == 7 and not line.startswith(("|---", "| from"))
]
HTEX: Mapping[str, Any] = {key.name: key.default for key in HTEX_PASSED}


def row(begins: str, to: str = "") -> SimpleNamespace:
    """The one row from there to there."""
    found = [cells for cells in ROWS if cells[0].startswith(begins) and to in cells[1]]
    assert len(found) == 1, (begins, to, found)
    names = ("start", "to", "port", "protocol", "purpose", "pin")
    return SimpleNamespace(**dict(zip(names, found[0], strict=True)))


def numbers(text: str) -> list[int]:
    """The port numbers in a cell."""
    return [int(found) for found in re.findall(r"\b\d{3,5}\b", text)]


def test_every_row_has_all_six_cells() -> None:
    assert len(ROWS) >= 12
    assert all(len(cells) == 6 and all(cells) for cells in ROWS)


def test_the_service_is_where_the_code_looks_for_it() -> None:
    host = SERVICE_ENVIRONMENTS[PRODUCTION].removeprefix("https://")
    service = row("agent, `cep` commands", host)
    assert numbers(service.port) == [443, DEFAULT_PORT]
    assert SERVICE_ENVIRONMENTS["local"] == f"http://localhost:{DEFAULT_PORT}"
    keys = {key.name for key in TOP}
    assert {"service_url", "environment", "amqp_port"} <= keys


def test_the_brokers_ports_are_those_that_the_configuration_knows() -> None:
    broker = row("agent", "the service's broker")
    assert sorted(numbers(broker.port)) == sorted(AMQP_PORTS)
    assert sorted(numbers(broker.pin)) == sorted(AMQP_PORTS)


def test_the_door_for_managers_of_this_host_is_where_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = row("`LocalProvider`'s managers", "interchange on the same host")
    assert "in that directory" in door.port
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    link = InterchangeLink(tmp_path, managers=True)
    link.open()
    try:
        assert link.door is not None
        assert link.door.startswith(f"{link.address}/")
    finally:
        link.close()


@pytest.mark.parametrize("who", ["`cep` commands", "interchange"])
def test_the_unix_sockets_are_where_the_page_says(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = row(who, "the agent on the same host")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert f"`{str(paths.control_dir()).replace('4711', 'UID')}/`" in control.port
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    assert f"`{str(paths.control_dir()).replace('/tmp', '$XDG_RUNTIME_DIR')}/`" in control.port


def test_the_ports_of_workers_and_interchange_are_the_defaults_of_the_engine() -> None:
    workers = row("manager", "interchange")
    assert numbers(workers.port) == list(HTEX["worker_port_range"])
    assert HTEX["worker_port"] is None
    known = {key.name for key in ENGINES["GlobusComputeEngine"]}
    for pin in re.findall(r"`engine\.(\w+)`", workers.pin):
        assert pin in known


def test_the_defaults_are_parsls_own() -> None:
    import inspect

    from parsl.executors import HighThroughputExecutor

    taken = inspect.signature(HighThroughputExecutor.__init__).parameters
    assert taken["worker_port_range"].default == HTEX["worker_port_range"]


def test_local_blocks_are_reached_on_loopback_and_encryption_is_the_default() -> None:
    settings = load_text(
        "engine: {type: GlobusComputeEngine, provider: {type: LocalProvider}}\n", "config.yaml"
    ).engine
    assert isinstance(settings, HtexSettings)
    assert providers.address_of(settings, None) == "127.0.0.1"
    assert settings.encrypted is True
    assert "`engine.encrypted` is true by default" in PAGE
    assert "address_by_interface" in ADDRESSES
    assert "{type: address_by_interface, ifname: ib0}" in PAGE


def test_a_hub_listens_where_the_page_says() -> None:
    hub = row("SDK, agents, `cep` commands")
    assert numbers(hub.port) == [DEFAULT_PORT]
    assert f"`{DEFAULT_HOST}`" in hub.to
    defaults = HubOptions(state_dir=Path("x"))
    assert (defaults.host, defaults.port, defaults.amqp_port) == (DEFAULT_HOST, DEFAULT_PORT, 0)
    options = {name for option in serve.params for name in option.opts}
    for cells in ROWS:
        for option in re.findall(r"`(--[a-z-]+)`", cells[5]):
            assert option in options


def test_the_servers_of_a_hub_are_asked_where_the_page_says() -> None:
    from cep.hub.rabbitmq import RabbitAddress

    broker, management = row("the hub, SDK", "RabbitMQ"), row("the hub", "management API")
    plain = RabbitAddress.of("amqp://hub:secret@rabbit.example/", None)
    secure = RabbitAddress.of("amqps://hub:secret@rabbit.example/", None)
    assert numbers(broker.port) == [plain.port, secure.port]
    urls = (plain.management_url, secure.management_url)
    assert numbers(management.port) == [int(url.rsplit(":", 1)[1].strip("/")) for url in urls]
    assert numbers(row("the hub", "PostgreSQL").port) == [5432]


def test_nothing_else_in_the_code_opens_a_listening_socket() -> None:
    """A new listener must be added to the page, and here."""
    opening = re.compile(
        r"(?<!event)\.(listen|create_server|bind_to_random_port)\(|start_(unix_)?server\(|"
        r"socket\.bind\("
    )
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "cep").rglob("*.py")
        if opening.search(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "cep/agent/control.py",  # the Unix socket
        "cep/engines/interchange_link.py",  # Unix sockets
        "cep/engines/local_door.py",  # the Unix socket for managers of this host
        "cep/hub/broker/broker.py",  # the embedded broker
        "cep/hub/sockets.py",  # the hub's REST service
        "cep/hub/server.py",  # the same sockets, behind a door that counts
        "cep/engines/htex_session.py",  # Executor.listen, which reads
    }
