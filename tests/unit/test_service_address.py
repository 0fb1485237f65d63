"""Which service is meant: the configuration first, then the shell."""

from __future__ import annotations

import pytest

from cep.config.settings import EndpointSettings, ThreadPoolSettings
from cep.errors import ConfigError
from cep.model import SERVICE_ENVIRONMENTS
from cep.service.address import of_url, resolve_service


@pytest.fixture(autouse=True)
def plain_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOBUS_SDK_ENVIRONMENT", raising=False)
    monkeypatch.delenv("GLOBUS_SDK_SERVICE_URL_COMPUTE", raising=False)
    monkeypatch.delenv("GLOBUS_SDK_SERVICE_URL_AUTH", raising=False)


def settings(**keys: object) -> EndpointSettings:
    return EndpointSettings(engine=ThreadPoolSettings(), **keys)  # type: ignore[arg-type]


def test_without_a_word_it_is_the_hosted_service() -> None:
    address = resolve_service(settings())
    assert address.url == "https://compute.api.globus.org"
    assert (address.environment, address.hosted) == ("production", True)


def test_the_shell_s_environment_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "local")
    address = resolve_service(settings())
    assert (address.url, address.environment, address.hosted) == (
        "http://localhost:5000",
        "local",
        False,
    )


def test_a_hub_on_another_port_is_found_by_its_login_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", "http://localhost:5077/")
    assert resolve_service(None).environment == "production"
    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "local")
    assert resolve_service(None).url == "http://localhost:5077"


def test_the_shell_s_address_wins_over_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "local")
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_COMPUTE", "http://localhost:6000/")
    assert resolve_service(None).url == "http://localhost:6000"


@pytest.mark.parametrize(
    "keys",
    [
        {"service_url": "http://localhost:5000"},
        {"environment": "local"},
        {"local_compute_services": True},
    ],
)
def test_the_configuration_wins_over_the_shell(
    keys: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "preview")
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_COMPUTE", "http://elsewhere:1")
    assert resolve_service(settings(**keys)).url == "http://localhost:5000"


@pytest.mark.parametrize("name", list(SERVICE_ENVIRONMENTS))
def test_the_address_of_a_known_environment_gives_its_name_back(name: str) -> None:
    assert of_url(SERVICE_ENVIRONMENTS[name] + "/").environment == name


def test_two_hubs_never_share_stored_logins() -> None:
    names = {
        of_url(url).environment for url in ("http://a:1", "http://a:2", "https://a", "http://b:1")
    }
    assert len(names) == 4


@pytest.mark.parametrize("url", ["", "hub", "ftp://hub", "http://", "http://h/path", "http://h:x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        of_url(url)


def test_an_unknown_environment_is_refused_and_not_taken_for_production(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_ENVIRONMENT", "moon")
    with pytest.raises(ConfigError, match="moon"):
        resolve_service(None)
