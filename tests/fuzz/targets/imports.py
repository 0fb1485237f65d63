"""Published configurations and schedulers' words: told in today's keys, or a ConfigError.

The first byte chooses: a `config.py`, a `config.yaml`, or the output of some command.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from cep.config.document import parse
from cep.config.foreign.findings import Findings
from cep.config.foreign.python_file import read_python
from cep.config.foreign.translate import translate
from cep.config.load import load_text
from cep.config.written import dump
from cep.errors import ConfigError
from cep.profiles.detect import host, others, pbs, slurm
from tests.fuzz.target import Target
from tests.unit.detect_playback import FOLDER

PARSERS: tuple[Callable[[str], object], ...] = (
    slurm.partitions,
    slurm.records,
    lambda text: slurm.with_rules(slurm.partitions(text), text),
    lambda text: slurm.accounts(text, ""),
    pbs.queues_of_full,
    pbs.queues_of_table,
    pbs.limits_of_table,
    pbs.default_queue,
    pbs.node_names,
    others.lsf_queues,
    others.lsf_defaults,
    others.condor_machines,
    lambda text: others.gridengine_queue("q", text),
    host.rocm_gpus,
)


def one(data: bytes) -> None:
    """Read it as what the first byte says."""
    kind, text = data[:1], data[1:].decode("utf-8", "replace")
    if kind == b"o":
        for parser in PARSERS:
            parser(text)
        return
    with contextlib.suppress(ConfigError):
        if kind == b"p":
            document, findings = read_python(text, "config.py")
        else:
            document, findings = parse(text, "config.yaml"), Findings()
        values = translate(document, "it", findings)
        for remark in (*findings.left_out, *findings.to_write, *findings.unread):
            assert str(remark)
        load_text(dump(values), "new", unset_allowed=True)


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    yield one


def seeds() -> Iterator[bytes]:
    """Configurations of old, and what commands say."""
    from tests.fuzz.targets import config
    from tests.unit.test_cli_import import OF_2_19
    from tests.unit.test_import_python import OLD_SITE

    engine = "config = Config(executors=[GlobusComputeEngine({})])"
    for program in (
        OLD_SITE,
        engine.format("provider=f(x), address=[1], strategy={'a': 1}, label=a.b[0]"),
        engine.format("provider=KubernetesProvider(image=x), **y, available_accelerators=[z, 1]"),
        engine.format("job_status_kwargs=g(), executor=h, container_type='None', type=3"),
        "config = Config(engine=config)",
        "x = []\nx[0] = 1\nconfig = Config()\nconfig.a.b = 1\nconfig['x'] = config\n",
        "a = b = config = Config()\na.engine = {'type': a}\n",
        "x: int\nx += 1\ndel x\nimport a as b\nconfig = b.Config(*x, **{1: 2}, **{'a': ...})",
        "config = Config()\nconfig.display_name = [config]\n",
        "x = ['a', 'b']\n" + "x = [x, x]\n" * 40 + "config = Config(admins=x)\n",
        "x = 'ab'\n" + "x += x\n" * 60 + "config = Config(display_name=x)\n",
        "x = 'ab'\n" + "x = f'{x}{x}'\n" * 60 + "config = Config(display_name=x)\n",
        "config = Config(" + "(" * 60 + ")" * 60 + ")",
        "config = Config(a=" + "+".join("1" * 900) + ")",
    ):
        yield b"p" + program.encode()
    yield b"y" + OF_2_19.encode()
    for text in config.seeds():
        yield b"y" + text
    for file in sorted(FOLDER.glob("*.json")):
        for said in json.loads(file.read_text())["commands"].values():
            yield b"o" + said["out"].encode()


TARGET = Target("imports", "published configurations, schedulers' words", _open, seeds, 8192)
