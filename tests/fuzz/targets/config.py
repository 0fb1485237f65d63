"""The configuration's YAML: whatever the text, it is a valid configuration or a ConfigError."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

import yaml

from cep.config.load import read_text
from cep.errors import ConfigError
from tests.fuzz.target import Target, lines

SHORTEST = "engine:\n  type: ThreadPoolEngine\n"


def one(data: bytes) -> None:
    """Load it; what was loaded must not stand for more than was written."""
    text = data.decode("utf-8", "replace")
    try:
        loaded = read_text(text, "config.yaml")
    except ConfigError as error:
        assert len(str(error)) < 100 * len(text) + 10_000
        return
    # As a registration does it, with PyYAML's own loader.
    meant = json.dumps(yaml.safe_load(loaded.settings.raw_text), default=str)
    assert len(meant) < 100 * len(text) + 1000
    for warning in loaded.warnings:
        assert len(warning) < 10_000


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    yield one


def _laughs(opening: str, levels: int = 30) -> str:
    steps = [f"a0: &a0 {opening}"]
    steps += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels)]
    return "\n".join(steps)


def seeds() -> Iterator[bytes]:
    """Configurations as users write them, and YAML as nobody should."""
    yield from lines(
        SHORTEST,
        "engine:\n  type: ProcessPoolEngine\n  max_workers: 4\nlog: {level: debug}\n",
        "engine:\n  type: GlobusComputeEngine\n  provider:\n    type: SlurmProvider\n"
        "    account: 007\n    walltime: 00:30:00\n    launcher: {type: SrunLauncher}\n"
        "    max_blocks: 2\n  worker_port_range: [50000, 55000]\n  job_status_kwargs:\n"
        "    max_idletime: 60.5\n",
        "display_name: x\nallowed_functions: [11111111-2222-3333-4444-555555555555]\n" + SHORTEST,
        "service_url: http://[::1]:5000\nenvironment: local\n" + SHORTEST,
        "intake: {high_tasks: 10, low_tasks: 5}\n" + SHORTEST,
        SHORTEST + _laughs("x"),
        _laughs("x") + "\nengine: {type: *a29}\n",
        _laughs("x", 20) + "\n? *a19\n: x\n",
        "a0: &a0 {k: 1}\n"
        + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30)),
        "a: &a [*a]\n" + SHORTEST,
        "a: &a {<<: *a}\n",
        "[" * 2000,
        "{a: " * 400 + "1" + "}" * 400,
        "engine: {type: [a]}",
        "engine: {type: {a: b}}",
        "engine: {type: GlobusComputeEngine, provider: {type: [x]}}",
        f"heartbeat_period: 0x{'f' * 400}\n" + SHORTEST,
        f"heartbeat_period: 0x{'f' * 4000}\n" + SHORTEST,
        f"0x{'f' * 5000}",
        f"a: {'9' * 5000}",
        *(f"a: {tag} ''" for tag in ("!!int", "!!float", "!!bool", "!!timestamp", "!!binary")),
        *(f"a: {tag} x" for tag in ("!!int", "!!map", "!!set", "!!omap", "!!pairs", "!!null")),
        "a: !!map [x, y]",
        "a: !!python/object/apply:os.system [true]",
        "a: !x y",
        "%YAML 9.9\n---\n" + SHORTEST,
        "---\na: 1\n---\nb: 2\n",
        SHORTEST + "engine: 1\n",
        "\x00",
        "a: \x85b\n\u2028c: d\n",
        "\ufeff" + SHORTEST,
        "engine: {type: GlobusComputeEngine, strategy: {max_idletime: [1]}}",
    )


TARGET = Target("config", "config.yaml", _open, seeds, longest=8192)
