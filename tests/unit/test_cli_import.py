"""`import`: directories of 2.x, 3.x and 4.x become endpoints; what has no equivalent is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cep.config.load import load
from cep.errors import ConfigError
from cep.profiles.endpoint import read_record
from tests.unit.cli_rig import Rig, rig

__all__ = ["rig"]

UUID = "1f0e9a52-0000-4000-8000-00000000000a"
# A file of 2.19 in its own words: the older engine, a strategy and a channel as blocks.
OF_2_19 = """\
display_name: null
detach_endpoint: true   # as it was
amqp_port: 443
heartbeat_period: 15
engine:
  type: HighThroughputEngine
  label: cluster
  max_workers: 2
  scheduler_mode: soft
  strategy:
    type: SimpleStrategy
    max_idletime: 90
    threshold: 3
  address:
    type: address_by_interface
    ifname: ib0
  provider:
    type: SlurmProvider
    partition: debug
    account: 007
    walltime: 01:00:00
    channel:
      type: LocalChannel
      script_dir: /tmp/x
    move_files: false
    launcher:
      type: SrunLauncher
"""
CORE = "display_name: Core\namqp_port: 443\npam: {enable: false}\nadmins: null\n"
TEMPLATE = """\
idle_heartbeats_soft: 10
engine:
  type: GlobusComputeEngine
  max_workers_per_node: {{ workers }}
  provider:
    type: SlurmProvider
    partition: {{ partition }}
{% if account is defined %}
    account: {{ account }}
{% endif %}
    worker_init: {{ worker_init | default() }}
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "partition": {"type": "string", "enum": ["debug", "long"], "default": "debug"},
        "account": {"type": "string"},
        "workers": {"type": "integer", "default": 2},
        "worker_init": {"type": "string"},
    },
    "additionalProperties": False,
}


def old(root: Path, **files: str) -> Path:
    """A directory of a published endpoint; `__` in a name stands for a dot."""
    root.mkdir(parents=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text)
    return root


def of_4_x(root: Path, template: str = TEMPLATE, core: str = CORE) -> Path:
    return old(
        root,
        config__yaml=core,
        user_config_template__yaml__j2=template,
        user_config_schema__json=json.dumps(SCHEMA),
    )


def picture(root: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def told(rig: Rig, *words: str) -> Any:
    done = rig.run("import", *words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_2_19_file_is_said_in_todays_keys_and_every_other_key_is_told(
    rig: Rig, tmp_path: Path
) -> None:
    source = old(
        tmp_path / "cluster",
        config__yaml=OF_2_19,
        endpoint__json=json.dumps({"endpoint_id": UUID.upper()}),
    )
    before = picture(source)
    answer = told(rig, str(source))
    root = rig.base / "cluster"
    assert yaml.safe_load((root / "config.yaml").read_text()) == {
        "amqp_port": 443,
        "heartbeat_period": 15,
        "engine": {
            "type": "GlobusComputeEngine",
            "label": "cluster",
            "address": {"type": "address_by_interface", "ifname": "ib0"},
            "provider": {
                "type": "SlurmProvider",
                "partition": "debug",
                "account": 7,  # to PyYAML; here it is the text, below
                "walltime": "01:00:00",
                "launcher": {"type": "SrunLauncher"},
            },
            "max_workers_per_node": 2,
            "job_status_kwargs": {"max_idletime": 90},
        },
    }
    provider = load(root / "config.yaml").engine.provider  # type: ignore[union-attr]
    assert provider.arguments["account"] == "007"
    assert provider.arguments["walltime"] == "01:00:00"
    assert {(one["key"], one["line"]) for one in answer["left_out"]} == {
        ("detach_endpoint", 2),
        ("engine.scheduler_mode", 9),
        ("engine.strategy.threshold", 13),
        ("engine.provider.channel", 22),
        ("engine.provider.move_files", 25),
    }
    assert all(one["reason"].endswith(".") for one in answer["left_out"])
    assert answer["to_write"] == answer["not_run"] == []
    assert answer["endpoint_id"] == UUID
    assert json.loads((root / "endpoint.json").read_text()) == {"endpoint_id": UUID}
    assert read_record(root).profile is None
    assert picture(source) == before
    for file in root.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_file_with_nothing_old_in_it_is_kept_byte_for_byte(rig: Rig, tmp_path: Path) -> None:
    text = "# ours\nengine:   {type: ThreadPoolEngine}  # small\n"
    source = old(tmp_path / "small", config__yaml=text)
    assert rig.run("import", str(source / "config.yaml"), "--as", "new").code == 0
    assert (rig.base / "new" / "config.yaml").read_text() == text
    assert not (rig.base / "new" / "endpoint.json").exists()


def test_people_are_told_on_standard_error_and_scripts_on_standard_output(
    rig: Rig, tmp_path: Path
) -> None:
    done = rig.run("import", str(old(tmp_path / "cluster", config__yaml=OF_2_19)))
    assert done.code == 0
    assert done.out.startswith("Created profile for endpoint named <cluster>\n\n\tConfiguration")
    assert "  line 2: detach_endpoint: `start` detaches" in done.err
    assert "gets a new id at its first start" in done.err


def test_an_existing_name_is_refused_and_nothing_changes(rig: Rig, tmp_path: Path) -> None:
    root = rig.endpoint("cluster")
    before = picture(rig.base)
    done = rig.run("import", str(old(tmp_path / "cluster", config__yaml=OF_2_19)))
    assert done.code == 73
    assert str(root) in done.err
    assert "--as NAME" in done.err
    assert picture(rig.base) == before


def test_an_endpoint_of_the_same_user_directory_can_be_copied_under_another_name(rig: Rig) -> None:
    old(rig.base / "ep", config__yaml=OF_2_19, endpoint__json=f'{{"endpoint_id": "{UUID}"}}')
    done = rig.run("import", str(rig.base / "ep"), "--as", "ep2")
    assert done.code == 0
    assert f"has the same id, {UUID}." in done.err
    assert "Stop it there before you start this one" in done.err


@pytest.mark.parametrize("name", ["a b", "", ".x", UUID])
def test_a_name_outside_the_rule_is_64(name: str, rig: Rig, tmp_path: Path) -> None:
    source = old(tmp_path / "x", config__yaml=OF_2_19)
    assert rig.run("import", str(source), "--as", name).code == 64
    assert not rig.base.exists()


def test_a_config_py_wins_over_a_config_yaml_and_a_placeholder_keeps_it_from_starting(
    rig: Rig, tmp_path: Path
) -> None:
    program = (
        "import os\nconfig = Config(executors=[GlobusComputeEngine(provider=SlurmProvider(\n"
        "    partition='debug', account=os.environ['A'], nodes_per_block=count()))])\n"
    )
    source = old(tmp_path / "py", config__py=program, config__yaml=OF_2_19)
    answer = told(rig, str(source))
    assert [one["key"] for one in answer["to_write"]] == [
        "engine.provider.account",
        "engine.provider.nodes_per_block",
    ]
    assert [one["line"] for one in answer["to_write"]] == [3, 3]
    assert any("config.yaml was not read" in note for note in answer["notes"])
    with pytest.raises(ConfigError) as caught:
        load(rig.base / "py" / "config.yaml")
    assert "write your account on this line (it was os.environ['A'])" in str(caught.value)
    assert "write your nodes per block on this line (it was count())" in str(caught.value)


def test_where_cep_has_run_its_own_file_wins_over_a_program(rig: Rig, tmp_path: Path) -> None:
    source = old(
        tmp_path / "x", config__py="raise SystemExit\n", config__yaml=OF_2_19, lease__json="{}"
    )
    answer = told(rig, str(source))
    assert [Path(file).name for file in answer["files"]] == ["config.yaml"]


def test_a_4_x_template_is_rendered_with_the_schemas_defaults(rig: Rig, tmp_path: Path) -> None:
    answer = told(rig, str(of_4_x(tmp_path / "four")))
    assert yaml.safe_load((rig.base / "four" / "config.yaml").read_text()) == {
        "display_name": "Core",
        "amqp_port": 443,
        "engine": {
            "type": "GlobusComputeEngine",
            "max_workers_per_node": 2,
            "provider": {"type": "SlurmProvider", "partition": "debug"},
        },
    }
    assert [one["key"] for one in answer["left_out"]] == ["idle_heartbeats_soft", "pam"]
    assert "here nobody would" in answer["left_out"][0]["reason"]
    assert any('partition="debug", workers=2' in note for note in answer["notes"])


def test_variables_of_files_and_words_reach_the_template_and_words_win(
    rig: Rig, tmp_path: Path
) -> None:
    file = tmp_path / "vars.yaml"
    file.write_text("account: 007\npartition: long\nworkers: 3\n")
    source = of_4_x(tmp_path / "four")
    init = 'echo "a: b" # {{ x }}'
    done = rig.run(
        "import",
        str(source),
        "--vars",
        str(file),
        "--set",
        "workers=5",
        "--set",
        f"worker_init={init}",
    )
    assert done.code == 0, done.err
    engine = load(rig.base / "four" / "config.yaml").engine
    assert engine.provider.arguments["account"] == "007"  # type: ignore[union-attr]
    assert engine.provider.arguments["partition"] == "long"  # type: ignore[union-attr]
    assert engine.provider.arguments["worker_init"] == init  # type: ignore[union-attr]
    assert engine.htex["max_workers_per_node"] == 5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "workers=many"], 'workers is "many", but the schema wants integer'),
        (["--set", "workers=true"], "workers is true, but the schema wants integer"),
        (["--set", "partition=x"], 'the schema wants one of "debug", "long"'),
        (["--set", "colour=red"], "colour is no variable"),
        (["--set", "nothing"], "--set takes NAME=VALUE"),
        (["--set", "parent_config=1"], "a name that the endpoint itself gives"),
    ],
)
def test_wrong_variables_are_64_and_nothing_is_made(
    words: list[str], said: str, rig: Rig, tmp_path: Path
) -> None:
    done = rig.run("import", str(of_4_x(tmp_path / "four")), *words)
    assert done.code == 64
    assert said in done.err
    assert not rig.base.exists()


def test_a_variable_that_nothing_gives_a_value_to_is_named(rig: Rig, tmp_path: Path) -> None:
    source = old(tmp_path / "bare", user_config_template__yaml__j2=TEMPLATE)
    done = rig.run("import", str(source / "user_config_template.yaml.j2"), "--as", "x")
    assert done.code == 64
    assert "line 4" in done.err
    assert "Nothing gives a value to account, partition, worker_init, workers." in done.err


@pytest.mark.parametrize(
    ("template", "code", "said"),
    [
        ("engine: {{ user_runtime.python.version }}", 78, "user_runtime.python.version, which"),
        ("\n{% if _GC.user_runtime.x == 'y' %}{% endif %}", 78, "line 2, cannot"),
        ("engine: {{ mapped_identity.globus.id }}", 78, "mapped_identity.globus.id"),
        ("engine: {{ ''.__class__.__mro__ }}", 78, "unsafe"),
        ("engine: {% if", 78, "line 1"),
        ("{% include 'gone' %}", 78, "gone"),
        ("{% include '../../etc/passwd' %}", 78, "passwd"),
        ("engine: [", 78, "(rendered) is not valid YAML"),
        ("{{ 1 // 0 }}", 78, "cannot be rendered"),
        ("x: 1", 78, "this has none"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_a_sentence(
    template: str, code: int, said: str, rig: Rig, tmp_path: Path
) -> None:
    done = rig.run("import", str(of_4_x(tmp_path / "four", template)))
    assert (done.code, said in done.err) == (code, True), done.err
    assert not rig.base.exists()


def test_a_template_knows_its_core_and_the_account_that_runs_it(rig: Rig, tmp_path: Path) -> None:
    template = (
        "engine:\n  type: ThreadPoolEngine\n"
        "  label: {{ _GC.parent_config.display_name }}-{{ mapped_identity.local.uid }}\n"
    )
    assert rig.run("import", str(of_4_x(tmp_path / "four", template))).code == 0
    assert load(rig.base / "four" / "config.yaml").engine.label == f"Core-{os.getuid()}"


def test_a_template_elsewhere_is_found_where_the_core_says(rig: Rig, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    old(shared, mine__j2="engine: {type: ThreadPoolEngine, label: {{ label }}}\n")
    core = f"user_config_template_path: {shared / 'mine.j2'}\n"
    source = old(tmp_path / "four", config__yaml=core)
    assert rig.run("import", str(source), "--set", "label=true story").code == 0
    assert load(rig.base / "four" / "config.yaml").engine.label == "true story"


def test_what_lies_beside_the_configuration_is_told(rig: Rig, tmp_path: Path) -> None:
    source = of_4_x(tmp_path / "four")
    (source / "user_environment.yaml").write_text("HTTPS_PROXY: x\nA: b\n")
    (source / "identity_mapping_config.json").write_text("[]")
    (source / "unacked_results").mkdir()
    (source / "unacked_results" / UUID).write_bytes(b"result")
    answer = told(rig, str(source))
    reasons = {one["key"]: one["reason"] for one in answer["left_out"]}
    assert "It sets HTTPS_PROXY, A." in reasons["user_environment.yaml"]
    assert "identity_mapping_config.json" in reasons
    assert any("1 results that were never delivered" in note for note in answer["notes"])


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({}, 66, "has no config.yaml"),
        ({"config__yaml": "x: ["}, 78, "not valid YAML"),
        ({"config__yaml": "display_name: x\n"}, 78, "this has none"),
        ({"config__yaml": "engine: {type: GlobusMPIEngine}\n"}, 78, "does not run MPI"),
        ({"config__yaml": OF_2_19, "endpoint__json": "{}"}, 65, "no endpoint_id"),
        ({"config__yaml": OF_2_19, "endpoint__json": '{"endpoint_id": "x"}'}, 65, "is no UUID"),
        ({"config__yaml": "user_config_template_path: gone.j2"}, 66, "gone.j2"),
        ({"config__py": "config = 1"}, 78, "no `config"),
    ],
)
def test_what_cannot_be_imported_leaves_nothing_behind(
    files: dict[str, str], code: int, said: str, rig: Rig, tmp_path: Path
) -> None:
    done = rig.run("import", str(old(tmp_path / "src", **files)))
    assert (done.code, said in done.err) == (code, True), done.err
    assert not rig.base.exists()


@pytest.mark.parametrize("name", ["config.yaml", "user_config_template.yaml.j2", "endpoint.json"])
def test_a_file_that_others_can_change_is_refused(name: str, rig: Rig, tmp_path: Path) -> None:
    source = of_4_x(tmp_path / "four")
    (source / "endpoint.json").write_text(json.dumps({"endpoint_id": UUID}))
    (source / name).chmod(0o666)
    done = rig.run("import", str(source))
    assert (done.code, "can be changed by everybody" in done.err) == (78, True), done.err
    assert not rig.base.exists()


def test_a_configuration_of_the_time_of_funcx_is_read(rig: Rig, tmp_path: Path) -> None:
    program = (
        "from funcx_endpoint.endpoint.utils.config import Config\n"
        "from funcx_endpoint.executors import HighThroughputExecutor\n"
        "from parsl.providers import LocalProvider\n"
        "config = Config(\n"
        "    executors=[HighThroughputExecutor(worker_mode='no_container', provider=\n"
        "        LocalProvider(init_blocks=1, min_blocks=0, max_blocks=1))],\n"
        "    funcx_service_address='https://api.funcx.org/v2',\n"
        ")\n"
        "meta = {'name': 'old', 'visible_to': []}\n"
    )
    answer = told(rig, str(old(tmp_path / "funcx", config__py=program)))
    assert [one["key"] for one in answer["left_out"]] == [
        "funcx_service_address",
        "engine.worker_mode",
    ]
    provider = load(rig.base / "funcx" / "config.yaml").engine.provider  # type: ignore[union-attr]
    assert provider.arguments == {"init_blocks": 1, "min_blocks": 0, "max_blocks": 1}


@pytest.mark.parametrize("count", [1, 2])
def test_a_list_of_executors_in_yaml_is_taken_when_it_is_one(
    count: int, rig: Rig, tmp_path: Path
) -> None:
    text = "executors:\n" + "- {type: ThreadPoolEngine, max_workers: 2}\n" * count
    done = rig.run("import", str(old(tmp_path / "x", config__yaml=text)))
    assert done.code == (0 if count == 1 else 78)
    if count == 1:
        assert load(rig.base / "x" / "config.yaml").engine.max_workers == 2  # type: ignore[union-attr]


def test_an_update_without_a_profile_does_not_replace_what_was_imported(
    rig: Rig, tmp_path: Path
) -> None:
    rig.run("import", str(old(tmp_path / "x", config__yaml=OF_2_19)))
    before = picture(rig.base)
    done = rig.run("configure", "x", "--update", "--display-name", "new")
    assert (done.code, "--profile PROFILE" in done.err) == (64, True)
    assert picture(rig.base) == before
    done = rig.run("configure", "x", "--update", "--profile", "local")
    assert done.code == 0, done.err
    assert (rig.base / "x" / "config.yaml.backup").is_file()


def test_a_source_that_is_not_there_is_66(rig: Rig, tmp_path: Path) -> None:
    for source in (tmp_path / "gone", Path("/gone")):
        done = rig.run("import", str(source))
        assert (done.code, f"There is no {source} to import." in done.err) == (66, True)


def test_variables_without_a_template_are_64(rig: Rig, tmp_path: Path) -> None:
    done = rig.run("import", str(old(tmp_path / "x", config__yaml=OF_2_19)), "--set", "a=b")
    assert done.code == 64
    assert "is no template" in done.err


def test_a_dry_run_shows_the_file_and_writes_nothing(rig: Rig, tmp_path: Path) -> None:
    done = rig.run("import", str(old(tmp_path / "x", config__yaml=OF_2_19)), "--dry-run")
    assert done.code == 0
    assert "account: 007" in done.out
    assert not rig.base.exists()


def test_a_value_of_the_wrong_kind_is_left_for_the_owner_to_write(rig: Rig, tmp_path: Path) -> None:
    text = OF_2_19.replace("walltime: 01:00:00", "walltime: soon\n    nodes_per_block: 0")
    answer = told(rig, str(old(tmp_path / "x", config__yaml=text)))
    assert [one["key"] for one in answer["to_write"]] == [
        "engine.provider.walltime",
        "engine.provider.nodes_per_block",
    ]
    assert "'soon' is given, but it must be a time" in answer["to_write"][0]["reason"]


def test_a_disk_that_fails_leaves_no_half_made_endpoint(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cep.profiles import endpoint

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    source = old(tmp_path / "x", config__yaml=OF_2_19, endpoint__json=f'{{"endpoint_id":"{UUID}"}}')
    monkeypatch.setattr(endpoint.Path, "rename", full)
    done = rig.run("import", str(source))
    assert done.code == 73
    assert "No space left" in done.err
    assert list(rig.base.iterdir()) == []


def test_the_old_converter_is_pointed_here(rig: Rig) -> None:
    assert "import DIR --as NAME" in rig.run("update_funcx_config", "ep").err
