"""A config.py is read as syntax: what is understood, named with its line, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cep.config.foreign.findings import Findings, Unread
from cep.config.foreign.python_file import read_python
from cep.config.foreign.translate import translate
from cep.errors import ConfigError

# As sites wrote them for 2.19: an aliased class, options in a mapping, a channel, constants,
# dedented shell lines, a setting made afterwards.
OLD_SITE = '''\
"""Our cluster."""
import os
from textwrap import dedent
from globus_compute_endpoint.endpoint.utils.config import Config
from globus_compute_endpoint.engines import HighThroughputEngine as Engine
from globus_compute_endpoint.strategies import SimpleStrategy
from parsl.addresses import address_by_interface
from parsl.channels import LocalChannel
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

PARTITION = "big"
MINUTE = 60
OPTIONS = {"cluster": {"scheduler_options": "#SBATCH -C knl", "nodes_per_block": 2}}

config = Config(
    executors=[
        Engine(
            label=f"{PARTITION}-nodes",
            max_workers=4,
            address=address_by_interface("ib0"),
            worker_port_range=(50000, 51000),
            strategy=SimpleStrategy(max_idletime=5 * MINUTE),
            provider=SlurmProvider(
                PARTITION,
                channel=LocalChannel(),
                account=os.environ["ALLOCATION"],
                worker_init=dedent("""\\
                    module load python
                    source ~/venv/bin/activate
                    """),
                launcher=SrunLauncher(overrides=f"-c {os.cpu_count()}"),
                **OPTIONS["cluster"],
            ),
        )
    ],
    detach_endpoint=True,
)
config.display_name = "Old site"
'''


def values(program: str) -> Any:
    """The arguments of `config = Config(...)`."""
    return read_python(program, "config.py")[0]


def line_of(words: str) -> int:
    return OLD_SITE[: OLD_SITE.index(words)].count("\n") + 1


def imported(program: str) -> tuple[Any, Findings]:
    document, findings = read_python(program, "config.py")
    return translate(document, "config.py", findings), findings


def test_a_whole_configuration_of_2_19_is_read_and_what_is_left_is_named_with_its_line() -> None:
    found, findings = imported(OLD_SITE)
    assert found == {
        "display_name": "Old site",
        "engine": {
            "type": "GlobusComputeEngine",
            "label": "big-nodes",
            "address": {"type": "address_by_interface", "ifname": "ib0"},
            "worker_port_range": [50000, 51000],
            "provider": {
                "type": "SlurmProvider",
                "partition": "big",
                "account": "<SET account: it was os.environ['ALLOCATION']>",
                "worker_init": "module load python\nsource ~/venv/bin/activate\n",
                "launcher": {
                    "type": "SrunLauncher",
                    "overrides": "<SET overrides: it was f'-c {os.cpu_count()}'>",
                },
                "scheduler_options": "#SBATCH -C knl",
                "nodes_per_block": 2,
            },
            "max_workers_per_node": 4,
            "job_status_kwargs": {"max_idletime": 300},
        },
    }
    assert [(one.key, one.line) for one in findings.left_out] == [
        ("detach_endpoint", line_of("detach_endpoint")),
        ("engine.provider.channel", line_of("channel=")),
    ]
    assert [(one.key, one.line) for one in findings.to_write] == [
        ("engine.provider.account", line_of("account=")),
        ("engine.provider.launcher.overrides", line_of("launcher=")),
    ]
    assert "would have to be run" in findings.to_write[0].reason
    assert findings.unread == []


def test_nothing_of_the_program_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    program = (
        f"open({str(mark)!r}, 'w').write('x')\n"
        f"config = Config(display_name=open({str(mark)!r}, 'w').name)\n"
    )
    document, findings = read_python(program, "config.py")
    assert not mark.exists()
    assert isinstance(document["display_name"], Unread)
    assert [one.line for one in findings.unread] == [1]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'a' 'b'", "ab"),
        ("'a' + NAME", "ax"),
        ("f'{NAME}-{NUMBER}'", "x-3"),
        ("60 * 60 + NUMBER - 1", 3602),
        ("-1", -1),
        ("(1, 2)", [1, 2]),
        ("[*()]", None),
        ("TABLE['a']['b']", 1),
        ("LIST[-1]", "z"),
        ("dedent('  q')", "q"),
        ("None", None),
        ("dict(a=1)", {"a": 1}),
        ("{**TABLE, 'c': 2}", {"a": {"b": 1}, "c": 2}),
        ("module.SrunLauncher(overrides='-c 1')", {"type": "SrunLauncher", "overrides": "-c 1"}),
        ("LATER", "xy"),
    ],
)
def test_what_can_be_known_without_running_is_known(expression: str, value: Any) -> None:
    program = (
        "NAME, NUMBER = 'x', 3\nTABLE = {'a': {'b': 1}}\nLIST = ['y', 'z']\nLATER = NAME\n"
        f"LATER += 'y'\nconfig = Config(value={expression})\n"
    )
    found = values(program)["value"]
    if expression == "[*()]":
        assert isinstance(found, Unread)
    else:
        assert found == value


@pytest.mark.parametrize(
    "expression",
    [
        "os.environ['X']",
        "os.environ.get('X', 'y')",
        "os.getenv('X')",
        "f'{os.environ[\"X\"]}/a'",
        "f'{3:02d}'",
        "'{}'.format(1)",
        "'a' % 1",
        "open('/etc/hostname').read()",
        "[one for one in (1, 2)]",
        "1 if flag else 2",
        "lambda: 1",
        "UNKNOWN",
        "b'x'",
        "10**9 * 10**9",
        "LONG",
        "['a', os.name]",
        "__import__('os').system('true')",
    ],
)
def test_what_only_running_would_tell_is_unread_and_knows_its_line(expression: str) -> None:
    program = (
        f"import os; LONG = 'ab'{'; LONG += LONG' * 60}\n\nconfig = Config(value={expression})\n"
    )
    found = values(program)["value"]
    assert isinstance(found, Unread)
    assert found.line == (1 if expression == "LONG" else 3)


@pytest.mark.parametrize(
    "statement",
    [
        "if True:\n    name = 'b'",
        "for name in ('b',):\n    pass",
        "with open('x') as file:\n    name = file.read()",
        "try:\n    import site_facts as name\n    name = name.x\nexcept ImportError:\n    pass",
        "names = [name := 'b']",
    ],
)
def test_a_name_that_a_passed_over_statement_sets_has_no_value_afterwards(statement: str) -> None:
    program = f"name = 'a'\n{statement}\nconfig = Config(display_name=name)\n"
    found = values(program)["display_name"]
    assert isinstance(found, Unread)
    assert found.line == 2


def test_a_configuration_that_is_changed_by_a_call_is_refused_with_the_line() -> None:
    with pytest.raises(ConfigError, match=r"config.py, line 2: `config` .*config.executors.append"):
        read_python(
            "config = Config(executors=[])\nconfig.executors.append(engine())\n", "config.py"
        )


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("x = 1\n", "no `config = Config"),
        ("config = make()\n", "line 1: `config` is make()"),
        ("config = Config(\n", "not valid Python, line 1"),
        ("print 'old python'\n", "not valid Python, line 1"),
        ("config = 3\n", "no `config = Config"),
        ("x = " + "(" * 150 + ")" * 150, "config.py"),
        ("x = 1\n" * 60_000, "characters"),
        ("config = Config(a=" + "-" * 5000 + "1)", "config.py"),
        ("config = Config()\nconfig.display_name = [config]\n", "holds itself"),
        ("x = [1]\n" + "x = [x, x]\n" * 40 + "config = Config(a=x)", "more than 50000 values"),
    ],
)
def test_a_program_without_a_configuration_is_refused_in_a_sentence(
    program: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_python(program, "config.py")
    assert said in str(caught.value)


def test_the_wrapped_executor_of_an_engine_becomes_the_engines_own_keys() -> None:
    found, _ = imported(
        "config = Config(executors=GlobusComputeEngine(\n"
        "  executor=HighThroughputExecutor(label='a', max_workers_per_node=2),\n"
        "  label='b'))\n"
    )
    assert found["engine"] == {
        "type": "GlobusComputeEngine",
        "label": "b",
        "max_workers_per_node": 2,
    }


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("[ThreadPoolEngine(), ProcessPoolEngine()]", "2 (ThreadPoolEngine, ProcessPoolEngine)"),
        ("[]", "this has none"),
        ("[make_engine()]", "which is no engine"),
        ("[GlobusMPIEngine()]", "does not run MPI functions"),
        ("[MyOwnEngine()]", "'MyOwnEngine' has no equivalent"),
        ("[GlobusComputeEngine(provider=CobaltProvider())]", "dropped the Cobalt scheduler"),
        ("[GlobusComputeEngine(provider=MyProvider())]", "'MyProvider' has no equivalent"),
    ],
)
def test_an_engine_or_provider_that_cannot_be_had_refuses_the_import(
    engine: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(f"config = Config(executors={engine})\n")
    assert "line 1" in str(caught.value) or said == "this has none"
    assert said in str(caught.value)


def test_arguments_without_a_name_that_nobody_can_place_are_left_out_by_number() -> None:
    _, findings = imported("config = Config(executors=[ThreadPoolEngine(4)])\n")
    assert [one.key for one in findings.left_out] == ["engine.argument 1"]


def test_unknown_keywords_from_a_mapping_that_cannot_be_read_are_named() -> None:
    _, findings = imported("config = Config(executors=[ThreadPoolEngine(**options())])\n")
    assert [one.key for one in findings.left_out] == ["engine.**options()"]
