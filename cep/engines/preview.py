"""What would be submitted: a block's script and commands, made by the code that submits them.

The provider's own `submit` runs up to its first command to the scheduler, which is caught: the
script has been written then, into a scratch directory. Nothing is started or listened on, and
nothing is left. One thread; not for the agent.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cep.config.settings import HtexSettings
from cep.engines import parsl_parts
from cep.engines.foretell import foretell
from cep.engines.htex_assembly import executor_of
from cep.engines.interchange_process import InterchangeProcess
from cep.engines.lending import Lending, interpreter_of
from cep.engines.local_blocks import LocalBlocks
from cep.engines.providers import provider_of
from cep.engines.worker_logs import SCRIPTS
from cep.errors import CepError, ConfigError

_BLOCK = "0"
_FIRST_WORKER_PORT = 54000  # as Parsl's worker_port_range begins


@dataclass(frozen=True, slots=True)
class Submission:
    """One block as it would be submitted.

    Attributes:
        provider: The provider's type, e.g. `SlurmProvider`.
        scripts: Texts of the files that are written for it, by name.
        command: The command that submits it, with the paths of the real run directory; empty for
            blocks that are processes of this host.
        worker_command: What starts the workers on a node, container included.
        container: The part of it that runs the container; None without one.
        launch_file: What decides which Python runs tasks; None where there is no choice.
        launch_text: Its text.
        python: Which Python that would be, as far as this host can tell.
        port_is_chosen: The port in the worker command stands for one that is chosen at start.
    """

    provider: str
    scripts: dict[str, str]
    command: str
    worker_command: str
    container: str | None
    port_is_chosen: bool
    launch_file: str | None
    launch_text: str
    python: str


class _Caught(Exception):
    """Stops a provider's `submit` in front of its first command.

    Args:
        command: The command.
    """

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command


class _NoInterchange(InterchangeProcess):
    """Stands where the executor expects the interchange, and is nothing."""

    def __init__(self) -> None:
        self.life = -1

    def end(self, timeout_s: float) -> None:
        """Nothing runs."""
        del timeout_s


def preview(
    settings: HtexSettings,
    run_dir: Path,
    scratch: Path,
    *,
    endpoint_id: str | None,
    worker_sets: Path | None = None,
) -> Submission:
    """Return what the engine would submit for its first block.

    Args:
        settings: The engine's configuration.
        run_dir: The endpoint's run directory; it is named in the texts and not touched.
        scratch: An empty directory, for the provider to write into.
        endpoint_id: The endpoint's id, which is part of the names of batch jobs; None before it
            is registered.
        worker_sets: Where the account's worker sets are.

    Raises:
        ConfigError: The settings cannot work.
    """
    # At a start the second word is the beginning of the lease's token, new each time.
    tag = f"{endpoint_id or 'ENDPOINT_ID'}.LIFE"
    parsl_parts.import_in_agent()
    with _commands(_answer_nothing):  # some providers ask when they are made
        provider = provider_of(settings, mark={}, run_dir=scratch, tag=tag)
    executor = executor_of(
        settings,
        provider,
        _NoInterchange(),
        run_dir,
        worker_sets,
        endpoint_id=endpoint_id or "ENDPOINT_ID",
    )
    try:
        ports = executor.worker_port_range or (_FIRST_WORKER_PORT, None)
        fixed = settings.htex.get("worker_port")
        lending = executor.lending
        python = _python(settings, lending, scratch)
        executor.prepare_unstarted(fixed or ports[0])
        worker_command = executor.launch_command(_BLOCK)
        line = executor.in_container("WORKER_COMMAND")
        command = _submit(executor, provider, worker_command)
    finally:
        executor.end(0)

    real = str(run_dir)
    return Submission(
        provider=settings.provider.type,
        scripts={
            path.name: path.read_text(encoding="utf-8").replace(str(scratch), real)
            for path in sorted((scratch / SCRIPTS).iterdir())
        },
        command=command.replace(str(scratch), real),
        worker_command=worker_command,
        container=line if settings.container_type else None,
        port_is_chosen=fixed is None,
        launch_file=None if lending is None else str(lending.launch_file),
        launch_text="" if lending is None else lending.launch_text(),
        python=python,
    )


def _python(settings: HtexSettings, lending: Lending | None, scratch: Path) -> str:
    """Which Python would run tasks, in words."""
    if lending is None:
        return f"{interpreter_of(settings)}, which must be where the workers run."
    init = settings.provider.arguments.get("worker_init") or ""
    return foretell(lending, str(init), scratch)


def _submit(executor: Any, provider: Any, worker_command: str) -> str:
    """Let the provider write its script; return the command it would have run."""
    if isinstance(provider, LocalBlocks):
        name = f"parsl.{executor.label}.block-{_BLOCK}"
        path = Path(provider.script_dir) / f"{name}.sh"
        path.write_text(provider.script(worker_command, 1, name), encoding="utf-8")
        return shlex.join(["/bin/bash", str(path)])
    _check_kind(provider)
    try:
        with _commands(_catch):
            executor.launch_block(_BLOCK)
    except CepError:
        raise
    except Exception as error:
        caught = _caught_in(error)
        if caught is not None:
            return " ".join(caught.command.split())
        raise ConfigError(f"The provider cannot make a block of its settings: {error}.") from error
    raise ConfigError(
        f"{type(provider).__name__} submits by no command, so there is no script to show."
    )


def _caught_in(error: BaseException | None) -> _Caught | None:
    """Find ours among the errors that led to one; some providers wrap whatever they meet."""
    while error is not None and not isinstance(error, _Caught):
        error = error.__cause__ or error.__context__
    return error


def _check_kind(provider: Any) -> None:
    from parsl.providers.cluster_provider import ClusterProvider

    if not isinstance(provider, ClusterProvider):
        raise ConfigError(
            f"What a {type(provider).__name__} sends cannot be shown: it submits no script.",
            hint="Parsl's own log has it once the endpoint runs: debug: true.",
        )


def _answer_nothing(_provider: Any, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:
    del cmd, timeout
    return 1, "", "not asked"


def _catch(_provider: Any, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:
    del timeout
    raise _Caught(cmd)


@contextlib.contextmanager
def _commands(instead: Callable[..., tuple[int, str, str]]) -> Iterator[None]:
    """Let the providers of this process call a function in place of running their commands.

    It is put where all of them come by: some call it on their base class.
    """
    from parsl.providers.cluster_provider import ClusterProvider

    before = ClusterProvider.execute_wait
    ClusterProvider.execute_wait = instead
    try:
        yield
    finally:
        ClusterProvider.execute_wait = before
