"""The addresses of RabbitMQ and PostgreSQL: read rightly, refused plainly, never repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from cep.cli.hub import serve
from cep.cli.main import run
from cep.errors import ConfigError, InputMissing
from cep.hub import topology
from cep.hub.options import SECRET_VARIABLES, HubOptions, read_address
from cep.hub.postgres import PostgresDatabase, read_database_url
from cep.hub.rabbitmq import RabbitAddress

SECRET = "s3cr3t"


def test_an_amqp_address_says_where_everything_is() -> None:
    found = RabbitAddress.of("amqp://hub:p%40ss%2F@mq.example/site%2F1")
    assert (found.host, found.port, found.vhost) == ("mq.example", 5672, "site/1")
    assert (found.user, found.password) == ("hub", "p@ss/")
    assert found.management_url == "http://mq.example:15672"
    assert found.bare_url == "amqp://mq.example:5672/site%2F1"
    assert "p@ss/" not in repr(found)
    assert "p%40ss" not in repr(found)


def test_tls_has_its_own_ports_and_options_stay_with_the_hub() -> None:
    found = RabbitAddress.of("amqps://hub:x@[::1]?heartbeat=20")
    assert (found.port, found.vhost) == (5671, "/")
    assert found.management_url == "https://[::1]:15671"
    assert found.bare_url == "amqps://[::1]:5671/"
    assert found.url.endswith("?heartbeat=20")


def test_the_management_api_may_be_elsewhere_and_have_its_own_login() -> None:
    url = "amqp://hub:x@mq.example:1234/v"
    found = RabbitAddress.of(url, "https://api.example/rabbit/")
    assert found.management_url == "https://api.example/rabbit"
    assert (found.management_user, found.management_password) == ("hub", "x")
    found = RabbitAddress.of(url, f"http://boss:{SECRET}@api.example:8080")
    assert found.management_url == "http://api.example:8080"
    assert (found.management_user, found.management_password) == ("boss", SECRET)


@pytest.mark.parametrize(
    ("amqp_url", "management_url"),
    [
        (f"http://hub:{SECRET}@host", None),
        (f"http://hub:{SECRET}@host:5672/", None),
        (f"amqp://hub:{SECRET}@host:port/", None),
        (f"amqp://:{SECRET}@host/", None),
        (f"amqp://hub:{SECRET}@/", None),
        ("amqp://hub@host/", None),
        (f"amqp://hub:{SECRET}@host/", f"ftp://hub:{SECRET}@host"),
        (f"amqp://hub:{SECRET}@host/", f"http://hub:{SECRET}@host:x"),
    ],
)
def test_a_wrong_address_is_refused_without_being_repeated(
    amqp_url: str, management_url: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        RabbitAddress.of(amqp_url, management_url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [f"mysql://hub:{SECRET}@host/x", f"hub:{SECRET}@host", f"postgresql+asyncpg://a:{SECRET}@h/x"],
)
def test_a_wrong_database_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_database_url(url)
    assert SECRET not in str(caught.value)


def test_a_plain_postgresql_address_gets_our_driver() -> None:
    url = read_database_url(f"postgresql://hub:{SECRET}@host/cep")
    assert url.drivername == "postgresql+psycopg"
    assert SECRET not in str(url)


def test_a_hub_process_has_a_number_only_where_there_can_be_several() -> None:
    url = read_database_url("postgresql://hub:x@host/cep")
    alone = PostgresDatabase(url, shared=False)
    assert (alone.threads, alone.hub_number) == (1, None)
    first, second = (PostgresDatabase(url, shared=True) for _ in range(2))
    assert first.hub_number != second.hub_number
    assert first.threads > 1


def test_an_address_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "address"
    file.write_text("amqp://a:b@c/\n")
    assert read_address(f"@{file}", "--amqp-url") == "amqp://a:b@c/"
    assert read_address("amqp://a:b@c/", "--amqp-url") == "amqp://a:b@c/"
    assert read_address(None, "--amqp-url") is None
    assert read_address("", "--amqp-url") is None
    with pytest.raises(InputMissing, match="--amqp-url"):
        read_address(f"@{tmp_path}/none", "--amqp-url")
    file.write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match="one line"):
        read_address(f"@{file}", "--amqp-url")


def test_options_do_not_show_what_holds_a_password() -> None:
    url = f"amqp://hub:{SECRET}@host/"
    options = HubOptions(
        state_dir=Path("/x"), amqp_url=url, amqp_management_url=url, database_url=url
    )
    assert SECRET not in repr(options)
    assert options.shared
    assert not HubOptions(state_dir=Path("/x"), amqp_url=url).shared
    assert not HubOptions(state_dir=Path("/x"), database_url=url).shared


def test_a_management_address_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden: list[bool] = []
    monkeypatch.setattr("cep.cli.hub._hide_command_line", lambda: hidden.append(True))
    words = ["hub", "serve", "--state-dir", str(tmp_path), "--amqp-management-url", "http://x"]
    assert run(words) == 78
    assert "with --amqp-url only" in capsys.readouterr().err
    assert hidden, "a command line that may hold a password is hidden first"


def test_each_address_with_a_password_has_its_variable() -> None:
    found = {option.envvar for option in serve.params if isinstance(option.envvar, str)}
    assert found == SECRET_VARIABLES


def test_on_rabbitmq_an_endpoint_has_no_bindings_that_would_outlive_it() -> None:
    endpoint_id = "00000000-0000-4000-8000-000000000001"
    own = topology.Layout(topics=True).endpoint(endpoint_id)
    assert {getattr(one, "exchange", topology.TASKS) for one in own} == {topology.TASKS}
