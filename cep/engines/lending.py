"""The files and words by which a block finds the Python that runs its tasks, and equips it.

`Lending` renders `cep/worker/launch.sh`, which holds the rule, writes it into the run directory
with `cep/worker/lend.py`, facts about this endpoint and an archive of the worker, and puts the rule
around a provider's `worker_init` and launcher. The words that go into a launcher's command are
plain: some launchers write it through a shell that would expand more.

Written by the thread that starts the engine; `forget` and `refusal` belong to the block thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cep
from cep.config.settings import HtexSettings
from cep.errors import CantCreate, ConfigError, EngineError
from cep.safety.files import check_trusted, check_way, open_private
from cep.worker import lend

AUTO = "auto"
ENDPOINT = "endpoint"
#: Where the files lie, below the executor's directory in the run directory.
DIRECTORY = "python"
LAUNCH_FILE = "launch.sh"
#: Versions of CPython that the worker runs on; as `requires-python` of this distribution.
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
PUBLISHED_POOL = "process_worker_pool.py"
#: Their machines share no directory with the endpoint's host.
NOTHING_SHARED = ("AWSProvider", "AzureProvider", "GoogleCloudProvider", "KubernetesProvider")
POOL_MODULE = "cep.engines.pool_main"
#: What a pool and its workers import, beyond the standard library, and which versions can work:
#: Parsl's bounds are this distribution's own, the others are Parsl's.
NEEDS: tuple[Mapping[str, Any], ...] = (
    {"name": "cep-endpoint", "module": POOL_MODULE, "low": [], "below": []},
    {"name": "dill", "module": "dill", "low": [], "below": []},
    {"name": "parsl", "module": "parsl", "low": [2026, 10, 26], "below": [2026, 11]},
    {"name": "psutil", "module": "psutil", "low": [5, 5, 1], "below": []},
    {"name": "pyzmq", "module": "zmq", "low": [17, 1, 2], "below": []},
    {"name": "tblib", "module": "tblib", "low": [], "below": []},
    {"name": "typeguard", "module": "typeguard", "low": [4], "below": [5]},
    {"name": "typing-extensions", "module": "typing_extensions", "low": [4, 6], "below": [5]},
)
#: Packages whose versions are compared with the endpoint's.
COMPARED = ("cep-endpoint", "dill", "globus-compute-sdk", "parsl")
#: What of `cep` a worker imports.
_WORKER_PART = ("engines", "safety", "wire", "worker")
_WORKER_FILES = ("__init__.py", "allocator.py", "errors.py", "model.py", "paths.py")
_PLAIN_LAUNCHERS = ("SimpleLauncher", "SingleNodeLauncher", "WrappedLauncher")
_BEGAN = 'cep_began_env="${VIRTUAL_ENV-}" cep_began_conda="${CONDA_PREFIX-}"'
_BEGAN_PYTHON = 'cep_began_python="$(command -v python3)" || cep_began_python='


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a block cannot run tasks.

    Attributes:
        reason: As a phrase.
        everywhere: No other block of this configuration could.
    """

    reason: str
    everywhere: bool


@dataclass(slots=True)
class Lending:
    """See the module's docstring.

    Attributes:
        directory: The executor's directory in the run directory.
        wanted: `auto`, `endpoint`, or an interpreter's absolute path.
        sets: The directory of worker sets.
        inside: The workers run in a container, so the rule asks the image's Python.
        block: The block that is being launched.
    """

    directory: Path
    wanted: str
    sets: Path
    inside: bool = False
    block: str = ""

    # -- words ---------------------------------------------------------------------------------

    @property
    def files(self) -> Path:
        """Where the files lie; in a container it must be seen at the same place."""
        return self.directory / DIRECTORY

    @property
    def launch_file(self) -> Path:
        """The rule, as a program of sh."""
        return self.files / LAUNCH_FILE

    def command(self, block: str) -> str:
        """The words in front of the pool's arguments: plain for every shell.

        Args:
            block: The block's number, or what stands for it.
        """
        verb = "inside" if self.inside else "start"
        return f"/bin/sh {shlex.quote(str(self.launch_file))} {verb} {block} {POOL_MODULE}"

    def before_init(self) -> str:
        """Lines in front of `worker_init`: remember what the job began with."""
        return "" if self.inside else f"{_BEGAN}\n{_BEGAN_PYTHON}\n"

    def after_init(self, block: str) -> str:
        """Lines after `worker_init`: decide."""
        if self.inside:
            return ""
        return (
            f"/bin/sh {shlex.quote(str(self.launch_file))} choose {block} "
            '"$cep_began_env" "$cep_began_conda" "$cep_began_python" || exit $?\n'
        )

    def launch_text(self) -> str:
        """The text of `launch.sh` for this endpoint."""
        values = {"wanted": self.wanted, "own": sys.executable, "supported": " ".join(SUPPORTED)}
        head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        source = Path(lend.__file__).with_name(LAUNCH_FILE).read_text(encoding="utf-8")
        return f"#!/bin/sh\n{head}{source}"

    # -- a provider ----------------------------------------------------------------------------

    def attach(self, provider: Any) -> None:
        """Put the rule around a provider's `worker_init` and launcher.

        Raises:
            ConfigError: The launcher would spoil a path; most write the command by a here-document,
                in which the shell expands what is quoted, too.
        """
        launcher = type(getattr(provider, "launcher", None)).__name__
        text = str(self.directory)
        spoilt = sorted(set(text) & set("$`\\\n"))
        if spoilt and launcher not in _PLAIN_LAUNCHERS:
            raise ConfigError(
                f"{launcher} would change {' and '.join(map(repr, spoilt))} in the path "
                f"{self.directory} on its way to the nodes.",
                hint="Put run_dir where the path has no such character.",
            )
        if self.inside:
            return
        provider.worker_init = f"{self.before_init()}{provider.worker_init}"
        provider.launcher = _Chooser(provider.launcher, self)

    def forget(self, block: str) -> None:
        """Forget what an earlier block of this number has left."""
        for name in ("choice", lend.REFUSED, lend.FAILED):
            (self._place(block) / name).unlink(missing_ok=True)

    def refusal(self, block: str) -> Refusal | None:
        """Why the Python of a block cannot run tasks, as its nodes say; None when they do not."""
        for name in (lend.REFUSED, lend.FAILED):
            with contextlib.suppress(OSError):
                text = (self._place(block) / name).read_text(encoding="utf-8", errors="replace")
                reason = f"the block's Python cannot run tasks: {' '.join(text.split())}"
                return Refusal(reason, everywhere=name == lend.REFUSED)
        return None

    def _place(self, block: str) -> Path:
        return self.directory / f"block-{block}"

    # -- files ---------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What `lend.py` must know."""
        packages = {name: _version(name) for name in COMPARED}
        packages["cep-endpoint"] = cep.__version__
        paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
        return {
            "archive": f"cep-{cep.__version__}.zip",
            "endpoint": {
                "python": platform.python_version(),
                "packages": {name: version for name, version in packages.items() if version},
            },
            "needs": NEEDS,
            "loads": "cep.engines.pool",
            "sets": str(self.sets),
            "own": {
                "executable": "" if self.inside else sys.executable,
                "python": f"{sys.version_info.major}.{sys.version_info.minor}",
                "machine": platform.machine(),
                "paths": list(paths),
            },
        }

    def write(self) -> None:
        """Put the files where the nodes read them.

        Raises:
            EngineError: They cannot be written.
            CantCreate: Others could change what is lent.
        """
        check_sets(self.sets)
        try:
            self.files.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self.launch_file, self.launch_text().encode())
            _replace(self.files / f"{lend.MODULE}.py", Path(lend.__file__).read_bytes())
            facts = self.facts()
            _replace(self.files / facts["archive"], _archive())
            _replace(self.files / lend.FACTS, json.dumps(facts, indent=1).encode())
        except OSError as error:
            raise EngineError(
                f"{self.files}, which the nodes read, cannot be written: {error}."
            ) from error


def check_sets(directory: Path) -> None:
    """See that only this user and root can change the worker sets, which run as this user.

    Raises:
        CantCreate: Others can.
    """
    if directory.is_dir():
        check_way(directory)
        for place in (directory, *directory.glob("python*-*")):
            check_trusted(place, CantCreate, "The directory of worker sets")


def lending_of(settings: HtexSettings, directory: Path, worker_sets: Path | None) -> Lending | None:
    """The lending of an engine, or None where the nodes cannot see its files.

    That is so for machines and pods that share no directory with the endpoint, and for a
    `launch_cmd` that names its own program.

    Args:
        settings: The engine's configuration.
        directory: The executor's directory in the run directory.
        worker_sets: Where worker sets are unless the settings say it.
    """
    launch_cmd = settings.htex.get("launch_cmd")
    own_program = launch_cmd is not None and not launch_cmd.startswith(PUBLISHED_POOL)
    if settings.provider.type in NOTHING_SHARED or own_program:
        return None
    sets = settings.worker_sets or worker_sets or directory / "no-worker-sets"
    return Lending(
        directory, settings.worker_python, Path(sets), inside=settings.container_type is not None
    )


def interpreter_of(settings: HtexSettings) -> str:
    """The Python of the workers where nothing is chosen on the node, by absolute path."""
    wanted = settings.worker_python
    return sys.executable if wanted in (AUTO, ENDPOINT) else wanted


class _Chooser:
    """A launcher with the decision in front of what it makes."""

    def __init__(self, launcher: Any, lending: Lending) -> None:
        self._launcher = launcher
        self._lending = lending

    def __call__(self, command: str, tasks_per_node: int, *more: Any, **named: Any) -> str:
        launched = self._launcher(command, tasks_per_node, *more, **named)
        return f"{self._lending.after_init(self._lending.block)}{launched}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 so that a reader sees the old or the new one."""
    part = Path(tempfile.mktemp(dir=path.parent, prefix=f".{path.name}."))
    with os.fdopen(open_private(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(content)
    part.replace(path)


def _archive() -> bytes:
    """The worker's part of this package, as a zip archive that Python imports from."""
    import io

    stream = io.BytesIO()
    root = Path(cep.__file__).parent
    files = [root / name for name in _WORKER_FILES]
    files += [path for part in _WORKER_PART for path in sorted((root / part).rglob("*.py"))]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, Path("cep", path.relative_to(root)))
        info = f"cep_endpoint-{cep.__version__}.dist-info/METADATA"
        archive.writestr(
            info, f"Metadata-Version: 2.1\nName: cep-endpoint\nVersion: {cep.__version__}\n"
        )
    return stream.getvalue()
