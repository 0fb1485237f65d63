"""Reading config.yaml: everything wrong is said at once, old files go on working."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cep.config import retired
from cep.config.components import FAMILIES, PROVIDERS
from cep.config.composites import AnyOf, Block, Component, Key, ListOf, PlainMap, PortRange, TextMap
from cep.config.kinds import (
    Choice,
    Flag,
    Interpreter,
    Kind,
    Number,
    Place,
    Text,
    Uuid,
    Walltime,
    WebAddress,
    Whole,
)
from cep.config.load import load, load_text, read, read_text
from cep.config.settings import (
    ComponentSettings,
    EndpointSettings,
    HtexSettings,
    ProcessPoolSettings,
    ThreadPoolSettings,
)
from cep.config.tables import ENGINE_COMMON, ENGINES, TOP
from cep.errors import ConfigError, InputMissing

PUBLISHED_DEFAULT = """\
amqp_port: 443
display_name: null
engine:
  type: GlobusComputeEngine
  provider:
    type: LocalProvider
    init_blocks: 1
    max_blocks: 1
    min_blocks: 0
"""
UUID = "1f0e9a52-0000-4000-8000-00000000000a"


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "config.yaml")
    assert caught.value.exit_code == 78
    return str(caught.value)


def engine_of(text: str) -> Any:
    return load_text(text, "config.yaml").engine


def htex(text: str) -> HtexSettings:
    engine = engine_of(text)
    assert isinstance(engine, HtexSettings)
    return engine


# -- what is right -----------------------------------------------------------------------------


def test_the_published_default_file_gives_the_published_defaults() -> None:
    settings = load_text(PUBLISHED_DEFAULT, "config.yaml")
    assert settings.amqp_port == 443
    assert settings.display_name is None
    assert settings.raw_text == PUBLISHED_DEFAULT
    assert settings.engine == HtexSettings(
        provider=ComponentSettings(
            "LocalProvider", {"init_blocks": 1, "max_blocks": 1, "min_blocks": 0}
        )
    )


def test_without_an_amqp_port_the_address_s_own_port_stands() -> None:
    assert load_text("engine: {type: ThreadPoolEngine}", "x").amqp_port is None


@pytest.mark.parametrize("port", [443, 5671, 5672])
def test_the_ports_of_the_hosted_service_are_taken(port: int) -> None:
    text = f"amqp_port: {port}\nengine: {{type: ThreadPoolEngine}}"
    assert load_text(text, "x").amqp_port == port


@pytest.mark.parametrize("port", [0, 80, 5673, 44300])
def test_any_other_amqp_port_is_refused(port: int) -> None:
    said = problems(f"amqp_port: {port}\nengine: {{type: ThreadPoolEngine}}")
    assert f"line 1: amqp_port: must be one of 443, 5671, 5672, not {port}" in said


def test_null_values_are_as_if_they_were_not_there() -> None:
    text = "display_name: null\nendpoint_setup:\nengine: {type: ProcessPoolEngine, max_workers: ~}"
    settings = load_text(text, "x")
    assert settings.endpoint_setup is None
    assert settings.engine == ProcessPoolSettings()


def test_a_site_s_slurm_block_comes_through_with_its_texts_as_written() -> None:
    engine = htex(
        """
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 4
  address: {type: address_by_interface, ifname: ib0}
  worker_port_range: [10000, 10100]
  provider:
    type: SlurmProvider
    account: 007
    partition: normal
    walltime: 10:00:00
    scheduler_options: "#SBATCH -C gpu"
    launcher: {type: SrunLauncher, overrides: -n 4}
"""
    )
    assert engine.provider.type == "SlurmProvider"
    assert engine.provider.arguments["account"] == "007"
    assert engine.provider.arguments["walltime"] == "10:00:00"
    assert engine.provider.arguments["launcher"] == ComponentSettings(
        "SrunLauncher", {"overrides": "-n 4"}
    )
    assert engine.address == ComponentSettings("address_by_interface", {"ifname": "ib0"})
    assert engine.htex == {"max_workers_per_node": 4, "worker_port_range": (10000, 10100)}


def test_job_status_kwargs_reach_the_settings() -> None:
    engine = htex(
        "engine:\n  type: GlobusComputeEngine\n  job_status_kwargs:\n"
        "    {max_idletime: 7, strategy: none, strategy_period: 2.5}"
    )
    assert (engine.max_idletime_s, engine.strategy, engine.strategy_period_s) == (7.0, "none", 2.5)


def test_the_heartbeat_period_has_its_floor_and_the_threshold_follows() -> None:
    text = "heartbeat_period: {}\nengine: {{type: ThreadPoolEngine}}"
    assert load_text(text.format(1), "x").heartbeat_period_s == 5.0
    assert load_text(text.format(100), "x").heartbeat_threshold_s == 200.0


def test_our_own_blocks_are_read() -> None:
    settings = load_text(
        "on_restart: retry\nintake: {high_tasks: 10, low_tasks: 5}\nlog: {backups: 0}\n"
        "service_url: HTTP://Hub.Example.org:5000/\nengine: {type: ThreadPoolEngine}",
        "x",
    )
    assert settings.on_restart == "retry"
    assert (settings.intake.high_tasks, settings.intake.low_tasks) == (10, 5)
    assert settings.log.backups == 0
    assert settings.service_url == "http://hub.example.org:5000"


def test_anchors_and_merge_keys_work() -> None:
    engine = htex(
        "engine:\n  type: GlobusComputeEngine\n  provider:\n"
        "    <<: {init_blocks: 0, max_blocks: 4}\n"
        "    type: LocalProvider\n    max_blocks: 2"
    )
    assert engine.provider.arguments == {"init_blocks": 0, "max_blocks": 2}


# -- what is wrong -----------------------------------------------------------------------------


def test_every_problem_is_listed_with_file_line_path_value_and_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "display_nam: x\n"
        "heartbeat_period: soon\n"
        "engine:\n"
        "  type: GlobusComputeEngine\n"
        "  provider:\n"
        "    type: SlurmProvider\n"
        "    init_bloks: 3\n"
        "    exclusive: maybe\n"
        "    launcher: {type: SrunLaucher}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    said = str(caught.value)
    assert str(file) in said
    assert "5 places" in said
    for part in (
        "line 1: display_nam: is not a key of the configuration (value 'x'); did you mean "
        "display_name?",
        "line 2: heartbeat_period: must be a number, at least 0, not 'soon'",
        "line 7: engine.provider.init_bloks: is not a key of SlurmProvider (value 3); did you "
        "mean init_blocks?",
        "line 8: engine.provider.exclusive: must be true or false, not 'maybe'",
        "line 9: engine.provider.launcher.type: 'SrunLaucher' is not a launcher; did you mean "
        "SrunLauncher?",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine: {type: GlobusComputeEngin}", "did you mean GlobusComputeEngine?"),
        ("engine: {type: Slurm}", "one of GlobusComputeEngine, ProcessPoolEngine"),
        ("engine: GlobusComputeEngine", "engine: must be a block of keys"),
        ("display_name: x", "engine: is missing"),
        ("engine: {type: GlobusComputeEngine, provider: {}}", "engine.provider.type: is missing"),
        (
            "engine: {type: GlobusComputeEngine, init_blocks: 2}",
            "it belongs to the provider block",
        ),
        ("engine: {type: ThreadPoolEngine, provider: {type: LocalProvider}}", "engine.provider"),
        (
            "engine: {type: ThreadPoolEngine, max_workers: 0}",
            "must be a whole number, at least 1, not 0",
        ),
        ("engine: {type: ThreadPoolEngine, max_workers: 1.5}", "must be a whole number"),
        ("engine: {type: ThreadPoolEngine, max_workers: .inf}", "must be a whole number"),
        ("engine: {type: ThreadPoolEngine, max_workers: true}", "must be a whole number"),
        ("engine: {type: ThreadPoolEngine}\nengine: {type: ThreadPoolEngine}", "given twice"),
        ("allowed_functions: [x]\nengine: {type: ThreadPoolEngine}", "allowed_functions[0]"),
        ("environment: moon\nengine: {type: ThreadPoolEngine}", "must be one of production"),
        ("service_url: hub:5000\nengine: {type: ThreadPoolEngine}", "must be an address"),
        ("service_url: http://u:p@h\nengine: {type: ThreadPoolEngine}", "must be an address"),
        ("intake: {high_tasks: 3, low_tasks: 3}\nengine: {type: ThreadPoolEngine}", "below"),
        ("display_name: yes\nengine: {type: ThreadPoolEngine}", "put it in quotes"),
        (
            "engine: {type: GlobusComputeEngine, provider: {type: LocalProvider, min_blocks: 2}}",
            "engine.provider.min_blocks: 2 is more than max_blocks, which is 1",
        ),
        (
            "engine: {type: GlobusComputeEngine, provider: {type: SlurmProvider, walltime: 60}}",
            "must be a time as HH:MM:SS",
        ),
        (
            "engine: {type: GlobusComputeEngine, provider: {type: KubernetesProvider}}",
            "engine.provider.image: is missing; KubernetesProvider needs it",
        ),
        ("engine: {type: GlobusComputeEngine, container_type: docker}", "docker needs an image"),
        ("engine: {type: GlobusComputeEngine, container_type: custom}", "{EXECUTOR_LAUNCH_CMD}"),
        ("engine: {type: GlobusComputeEngine, container_type: rkt}", "must be one of docker"),
        (
            "engine: {type: GlobusComputeEngine, container_uri: x, provider: "
            "{type: KubernetesProvider, image: y}}",
            "KubernetesProvider has its own",
        ),
        (
            "high_assurance: true\nengine: {type: GlobusComputeEngine, encrypted: false}",
            "engine.encrypted: must be true",
        ),
        (
            "environment: preview\nlocal_compute_services: true\nengine: {type: ThreadPoolEngine}",
            "contradicts",
        ),
        (
            "environment: preview\nservice_url: http://h:1\nengine: {type: ThreadPoolEngine}",
            "contradicts",
        ),
        ("engine: {type: GlobusComputeEngine, worker_port_range: [2, 1]}", "the lower first"),
        ("engine: {type: GlobusMPIEngine}", "GlobusMPIEngine is refused"),
        ("[1, 2]", "it is a list"),
        ("hello", "it is only the value 'hello'"),
        ("a: [1", "is not valid YAML, line"),
        ("a: !!python/object:os.system {}", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "is not valid YAML"),
        ("\tengine: 1", "is not valid YAML, line 1"),
        ("", "engine: is missing"),
    ],
)
def test_bad_input_is_named(text: str, said: str) -> None:
    assert said in problems(text)


def test_a_long_value_is_shown_short() -> None:
    said = problems(f"debug: {'x' * 5000}\nengine: {{type: ThreadPoolEngine}}")
    assert len(said) < 300


def test_a_short_file_that_stands_for_a_huge_value_is_told_shortly() -> None:
    lines = ["l0: &l0 [x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30)]
    before = time.process_time()
    said = problems("\n".join([*lines, "display_name: *l29", "engine: 1"]))
    assert time.process_time() - before < 1.0
    assert "line 6, column 5: it stands for more than 50000 values" in said
    assert max(len(line) for line in said.splitlines()) < 2000


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble() -> None:
    text = "\ufeffdisplay_name: x\r\nengine: {type: ThreadPoolEngine}\r\n"
    assert load_text(text, "x").display_name == "x"


def test_a_value_that_holds_itself_is_an_error() -> None:
    assert "config.yaml" in problems("display_name: &a [*a]\nengine: {type: ThreadPoolEngine}")


def test_only_a_config_py_is_never_run_and_says_what_to_do(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    (tmp_path / "config.py").write_text(f"open({str(mark)!r}, 'w')\nconfig = None\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.yaml")
    assert "never run" in str(caught.value)
    assert "cep import" in str(caught.value)
    assert not mark.exists()


def test_beside_a_config_yaml_a_config_py_is_ignored_with_a_word(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("raise SystemExit(1)")
    (tmp_path / "config.yaml").write_text(PUBLISHED_DEFAULT)
    loaded = read(tmp_path / "config.yaml")
    assert loaded.settings.amqp_port == 443
    assert len(loaded.warnings) == 1


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="cep configure nowhere"):
        load(tmp_path / "nowhere" / "config.yaml")


# -- what published versions knew ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "successor"),
    [
        ("detach_endpoint", "true", "start --foreground"),
        ("multi_user", "false", "one account"),
        ("log_dir", "/var/log", "`log:`"),
        ("stdout", "./endpoint.log", "`log:`"),
        ("stderr", "./endpoint.log", "`log:`"),
        ("paths", "{endpoint_dir: /x}", "run_dir"),
        ("funcx_service_address", "https://x", "service_url"),
        ("force_mu_allow_same_user", "false", "one account"),
    ],
)
def test_an_old_key_is_ignored_with_one_warning_that_names_the_successor(
    key: str, value: str, successor: str
) -> None:
    loaded = read_text(f"{key}: {value}\nengine: {{type: ThreadPoolEngine}}", "config.yaml")
    assert len(loaded.warnings) == 1
    assert key in loaded.warnings[0]
    assert successor in loaded.warnings[0]


def test_warnings_about_old_keys_reach_the_log_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("detach_endpoint: true\nengine: {type: ThreadPoolEngine}")
    with caplog.at_level(logging.WARNING, logger="cep"):
        load(file)
    assert [record.event for record in caplog.records] == ["config.old-key"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("multi_user", "true"),
        ("identity_mapping_config_path", "/x.json"),
        ("pam", "{enable: true}"),
        ("user_config_template_path", "/x"),
        ("user_config_schema_path", "/x"),
        ("audit_log_path", "/x"),
        ("mu_child_ep_grace_period_s", "30"),
        ("email", "a@b.c"),
    ],
)
def test_keys_of_the_multi_user_endpoint_are_refused_by_name_with_the_reason(
    key: str, value: str
) -> None:
    said = problems(f"{key}: {value}\nengine: {{type: ThreadPoolEngine}}")
    assert f"line 1: {key}: " in said
    assert "refused" in said


@pytest.mark.parametrize("written", ["type: HighThroughputEngine", "label: x"])
def test_the_old_default_engine_is_taken_as_its_successor(written: str) -> None:
    loaded = read_text(f"engine: {{{written}}}", "config.yaml")
    assert isinstance(loaded.settings.engine, HtexSettings)
    assert len(loaded.warnings) == 1
    assert "GlobusComputeEngine" in loaded.warnings[0]


def test_a_2_x_file_with_channel_strategy_and_max_workers_is_translated() -> None:
    loaded = read_text(
        """
engine:
  type: GlobusComputeEngine
  max_workers: 3
  strategy: {type: SimpleStrategy, max_idletime: 300}
  worker_mode: no_container
  container_type: None
  provider:
    type: SlurmProvider
    channel: {type: LocalChannel}
    move_files: false
""",
        "config.yaml",
    )
    engine = loaded.settings.engine
    assert isinstance(engine, HtexSettings)
    assert engine.htex == {"max_workers_per_node": 3}
    assert engine.max_idletime_s == 300.0
    assert engine.container_type is None
    assert engine.provider.arguments == {}
    assert len(loaded.warnings) == 5


def test_a_remote_channel_is_refused_since_ignoring_it_would_run_jobs_elsewhere() -> None:
    said = problems(
        "engine: {type: GlobusComputeEngine, provider: {type: SlurmProvider, "
        "channel: {type: SSHChannel, hostname: x}}}"
    )
    assert "engine.provider.channel: a block is refused" in said


@pytest.mark.parametrize("provider", ["AdHocProvider", "CobaltProvider"])
def test_providers_that_are_gone_are_refused_by_name(provider: str) -> None:
    said = problems(f"engine: {{type: GlobusComputeEngine, provider: {{type: {provider}}}}}")
    assert f"{provider} is refused" in said


# -- fault 5: every documented key, with every engine -------------------------------------------


def example(kind: Kind) -> Any:
    """A value that the kind accepts."""
    simple: dict[type, Any] = {
        Text: "x",
        Flag: True,
        Number: 2.5,
        Uuid: UUID,
        Walltime: "00:10:00",
        WebAddress: "http://h:1",
        TextMap: {"a": "b"},
        PlainMap: {"a": 1},
        PortRange: [1, 2],
        Interpreter: "/opt/python/bin/python3",
        Place: "~/sets",
    }
    if isinstance(kind, Whole):
        return max(kind.low or 0, 1)
    if isinstance(kind, Choice):
        return kind.options[0]
    if isinstance(kind, ListOf):
        return [example(kind.item)] * (kind.length or 1)
    if isinstance(kind, AnyOf):
        return example(kind.kinds[0])
    if isinstance(kind, Component):
        name = next(iter(FAMILIES[kind.family]))
        return {"type": name}
    if isinstance(kind, Block):
        return {key.name: example(key.kind) for key in kind.keys}
    return simple[type(kind)]


ALL_ENGINE_KEYS = sorted({key.name for keys in ENGINES.values() for key in keys})
EXTRA = {
    "container_type": {"container_uri": "image"},
    "intake": {},
}


def key_named(name: str, keys: tuple[Key, ...]) -> Key | None:
    return next((key for key in keys if key.name == name), None)


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("name", ALL_ENGINE_KEYS)
def test_every_documented_engine_key_works_or_is_refused_by_name_at_load(
    name: str, engine: str
) -> None:
    key = key_named(name, ENGINES[engine])
    somewhere = key or next(k for keys in ENGINES.values() if (k := key_named(name, keys)))
    block = {"type": engine, name: example(somewhere.kind), **EXTRA.get(name, {})}
    text = yaml.safe_dump({"engine": block})
    old = retired.ENGINES[engine].get(name) or retired.RENAMED.get(engine, {}).get(name)
    if key is not None or old is not None:
        assert load_text(text, "x").engine is not None
    else:
        assert f"engine.{name}: is not a key of {engine}" in problems(text)


@pytest.mark.parametrize("key", ENGINE_COMMON, ids=lambda key: key.name)
@pytest.mark.parametrize("settings", [ThreadPoolSettings, ProcessPoolSettings, HtexSettings])
def test_common_engine_keys_change_the_settings_of_every_engine(key: Key, settings: type) -> None:
    engine = {
        ThreadPoolSettings: "ThreadPoolEngine",
        ProcessPoolSettings: "ProcessPoolEngine",
        HtexSettings: "GlobusComputeEngine",
    }[settings]
    value = False if key.default is True else example(key.kind)
    found = engine_of(yaml.safe_dump({"engine": {"type": engine, key.name: value}}))
    assert getattr(found, key.name) != key.default


@pytest.mark.parametrize("key", [k for k in TOP if k.name != "engine"], ids=lambda key: key.name)
def test_every_documented_top_level_key_reaches_the_settings(key: Key) -> None:
    value = (
        {"high_tasks": 9, "low_tasks": 8, "high_bytes": 9, "low_bytes": 8}
        if key.name == "intake"
        else False
        if key.default is True
        else "preview"
        if key.name == "environment"
        else "retry"
        if key.name == "on_restart"
        else 7000
        if isinstance(key.kind, (Whole, Number))
        else example(key.kind)
    )
    text = yaml.safe_dump({key.name: value, "engine": {"type": "ThreadPoolEngine"}})
    settings = load_text(text, "x")
    plain = EndpointSettings(engine=ThreadPoolSettings())
    field = key.field or key.name
    assert getattr(settings, field) != getattr(plain, field)


@pytest.mark.parametrize("name", list(PROVIDERS))
def test_every_documented_argument_of_every_provider_is_taken(name: str) -> None:
    block = {key.name: example(key.kind) for key in PROVIDERS[name]}
    engine = htex(
        yaml.safe_dump(
            {"engine": {"type": "GlobusComputeEngine", "provider": {"type": name, **block}}}
        )
    )
    assert set(engine.provider.arguments) == {key.name for key in PROVIDERS[name]}


# -- fault 16: loading builds nothing -----------------------------------------------------------


def test_loading_has_no_effects_and_takes_milliseconds(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(PUBLISHED_DEFAULT)
    code = (
        "import sys, threading, os\n"
        "from cep.config.load import load\nfrom pathlib import Path\n"
        f"load(Path({str(file)!r}))\n"
        "assert threading.active_count() == 1\n"
        "assert not {'parsl', 'zmq', 'socket', 'multiprocessing'} & set(sys.modules)\n"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=here, check=False)
    assert done.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]
    before = time.process_time()
    for _ in range(10):
        load(file)
    assert time.process_time() - before < 1.0


def test_a_value_that_is_still_to_be_written_is_refused_with_its_line() -> None:
    text = "engine:\n  type: GlobusComputeEngine\n  provider:\n    type: SlurmProvider\n"
    text += "    account: <SET account>\n"
    with pytest.raises(ConfigError, match=r"line 5: engine\.provider\.account: is not set yet"):
        load_text(text, "x")
    found = load_text(text, "x", unset_allowed=True).engine
    assert found.provider.arguments["account"] == "<SET account>"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("auto", "auto"),
        ("endpoint", "endpoint"),
        ("/opt/my env/bin/python3", "/opt/my env/bin/python3"),
        ("~/env/bin/python", str(Path("~/env/bin/python").expanduser())),
    ],
)
def test_the_workers_python_is_a_word_or_an_absolute_path(value: str, kept: str) -> None:
    text = yaml.safe_dump({"engine": {"type": "GlobusComputeEngine", "worker_python": value}})
    found = engine_of(text)
    assert isinstance(found, HtexSettings)
    assert found.worker_python == kept


@pytest.mark.parametrize(
    "value", ["python3", "bin/python3", "Auto", "", "/a\nb", 3.12, True, ["/a"], "~nobody-here/p"]
)
def test_another_workers_python_is_refused(value: object) -> None:
    text = yaml.safe_dump({"engine": {"type": "GlobusComputeEngine", "worker_python": value}})
    assert "must be auto, endpoint, or the absolute path of a Python" in problems(text)
