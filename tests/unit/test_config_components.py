"""Our tables of providers, launchers, addresses and HTEX arguments against the installed Parsl."""

from __future__ import annotations

import importlib
import inspect
import warnings
from typing import Any

import pytest
import yaml

from cep.config.components import FAMILIES
from cep.config.composites import Component, Key
from cep.config.kinds import Flag
from cep.config.load import load_text
from cep.config.retired import ENGINES as RETIRED
from cep.config.settings import CommonEngineSettings, ComponentSettings, HtexSettings
from cep.config.tables import ENGINE_COMMON, HTEX_FIELDS, HTEX_PASSED
from tests.unit.test_config_load import example

MODULES = {
    "provider": "parsl.providers",
    "launcher": "parsl.launchers",
    "address": "parsl.addresses",
    "manager_selector": "parsl.executors.high_throughput.manager_selector",
}
CLOUDS = ("AWSProvider", "AzureProvider", "GoogleCloudProvider", "KubernetesProvider")
CASES = [(family, name) for family, table in FAMILIES.items() for name in table]


def parsl(module: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def parameters(thing: Any) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(thing).parameters)
    found.pop("self", None)
    return found


def of_parsl(family: str, name: str) -> dict[str, inspect.Parameter]:
    thing = getattr(parsl(MODULES[family]), name)
    if inspect.isclass(thing):
        # A class without a constructor of its own takes nothing.
        return {} if thing.__init__ is object.__init__ else parameters(thing.__init__)
    return parameters(thing)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_table_has_exactly_parsl_s_arguments(family: str, name: str) -> None:
    assert {key.name for key in FAMILIES[family][name]} == set(of_parsl(family, name))


@pytest.mark.parametrize(("family", "name"), CASES)
def test_required_arguments_and_defaults_are_parsl_s(family: str, name: str) -> None:
    theirs = of_parsl(family, name)
    for key in FAMILIES[family][name]:
        default = theirs[key.name].default
        assert key.required == (default is inspect.Parameter.empty), key.name
        if key.required or isinstance(key.kind, Component):
            continue
        assert key.default == default, key.name


@pytest.mark.parametrize("family", ["provider", "launcher"])
def test_no_class_of_parsl_is_missing_from_the_tables(family: str) -> None:
    assert set(FAMILIES[family]) == set(parsl(MODULES[family]).__all__)


def test_every_htex_argument_is_a_key_or_refused_by_name() -> None:
    executor = parsl("parsl.executors").HighThroughputExecutor
    theirs = set(parameters(executor.__init__))
    keys = {key.name for key in (*HTEX_FIELDS, *HTEX_PASSED, *ENGINE_COMMON)}
    assert theirs - keys - set(RETIRED["GlobusComputeEngine"]) == set()
    assert {key.name for key in HTEX_PASSED} - theirs == set()


@pytest.mark.parametrize("key", HTEX_PASSED, ids=lambda key: key.name)
def test_defaults_of_passed_htex_arguments_are_parsl_s(key: Key) -> None:
    executor = parsl("parsl.executors").HighThroughputExecutor
    theirs = parameters(executor.__init__)[key.name].default
    assert key.default == (type(theirs).__name__ if isinstance(key.kind, Component) else theirs)


def test_htex_and_common_keys_have_the_defaults_of_the_settings() -> None:
    settings = HtexSettings()
    for key in (*HTEX_FIELDS, *ENGINE_COMMON):
        if key.name in ("provider", "job_status_kwargs"):
            continue
        assert getattr(settings, key.name) == key.default, key.name
    assert {key.name for key in ENGINE_COMMON} == set(CommonEngineSettings.__slots__)


def built(settings: ComponentSettings, family: str) -> Any:
    arguments = {
        name: built(value, "launcher") if isinstance(value, ComponentSettings) else value
        for name, value in settings.arguments.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(parsl(MODULES[family]), settings.type)(**arguments)


# The others need libraries of their clouds, which are no part of an installation.
@pytest.mark.parametrize("name", [n for n in FAMILIES["provider"] if n not in CLOUDS])
def test_parsl_takes_every_provider_with_every_argument_as_it_was_read(name: str) -> None:
    arguments = {key.name: example(key.kind) for key in FAMILIES["provider"][name]}
    block = {"type": "GlobusComputeEngine", "provider": {"type": name, **arguments}}
    engine = load_text(yaml.safe_dump({"engine": block}), "x").engine
    assert isinstance(engine, HtexSettings)
    made = built(engine.provider, "provider")
    assert type(made).__name__ == name


@pytest.mark.parametrize("name", list(FAMILIES["launcher"]))
def test_parsl_takes_every_launcher_with_every_argument_as_it_was_read(name: str) -> None:
    launcher = {
        "type": name,
        **{key.name: example(key.kind) for key in FAMILIES["launcher"][name]},
    }
    provider = {"type": "LocalProvider", "launcher": launcher}
    block = {"type": "GlobusComputeEngine", "provider": provider}
    engine = load_text(yaml.safe_dump({"engine": block}), "x").engine
    assert isinstance(engine, HtexSettings)
    made = built(engine.provider, "provider")
    assert type(made.launcher).__name__ == name


def test_parsl_takes_every_passed_htex_argument_as_it_was_read() -> None:
    block = {key.name: example(key.kind) for key in HTEX_PASSED}
    text = yaml.safe_dump({"engine": {"type": "GlobusComputeEngine", **block}})
    engine = load_text(text, "x").engine
    assert isinstance(engine, HtexSettings)
    arguments = {
        name: built(value, "manager_selector") if isinstance(value, ComponentSettings) else value
        for name, value in engine.htex.items()
    }
    assert set(arguments) == {key.name for key in HTEX_PASSED}
    parsl("parsl.executors").HighThroughputExecutor(address="127.0.0.1", **arguments)


def test_a_flag_in_the_tables_is_a_truth_value_in_parsl() -> None:
    for family, name in CASES:
        theirs = of_parsl(family, name)
        for key in FAMILIES[family][name]:
            default = theirs[key.name].default
            assert isinstance(key.kind, Flag) == isinstance(default, bool), (name, key.name)
